package nameserver

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// errForeign is that another server has to be asked.
var errForeign = errors.New("no name of ours")

// patience is how long one server outside may take. Resolvers give up after 5 seconds themselves.
const patience = 2 * time.Second

// outside has the servers outside answer a question that answer understood, over the network that it came by: what does not
// fit into a datagram is asked again over TCP by whoever asked. If none answers, that is said.
func (s *Server) outside(ctx context.Context, network string, question []byte) []byte {
	for _, server := range s.opts.Outside {
		reply, err := ask(ctx, network, server, question)
		if err == nil {
			return reply
		}
		s.log.Debug("ask another name server", "server", server, "error", err)
	}
	var p dnsmessage.Parser
	head, _ := p.Start(question) // answer has read it
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: head.ID, Response: true, RecursionDesired: true, RecursionAvailable: true, RCode: dnsmessage.RCodeServerFailure}}
	if q, err := p.Question(); err == nil {
		m.Questions = []dnsmessage.Question{q}
	}
	reply, _ := m.Pack() // as short as the question
	return reply
}

// ask sends a question to a server, under an ID of its own, and gives the answer under the question's.
func ask(ctx context.Context, network string, server netip.AddrPort, question []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })() // whatever is waited for

	id := make([]byte, 2)
	rand.Read(id)
	sent := append(id, question[2:]...)
	if network == "tcp" {
		sent = append(binary.BigEndian.AppendUint16(nil, uint16(len(sent))), sent...)
	}
	if _, err := conn.Write(sent); err != nil {
		return nil, err
	}
	reply := make([]byte, 65535)
	for {
		n, err := read(conn, network, reply)
		if err != nil {
			return nil, err
		}
		// What answers another question is nothing of ours.
		if n >= 12 && reply[0] == id[0] && reply[1] == id[1] && reply[2]&0x80 != 0 && same(question, reply[:n]) {
			return append(question[:2:2], reply[2:n]...), nil
		}
		if network == "tcp" {
			return nil, fmt.Errorf("%s answers another question", server)
		}
	}
}

// read reads one message.
func read(conn net.Conn, network string, into []byte) (int, error) {
	if network != "tcp" {
		return conn.Read(into)
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return 0, err
	}
	return io.ReadFull(conn, into[:binary.BigEndian.Uint16(size[:])])
}

// same says whether two messages have the same question.
func same(x, y []byte) bool {
	var questions [2]dnsmessage.Question
	for i, m := range [][]byte{x, y} {
		var p dnsmessage.Parser
		if _, err := p.Start(m); err != nil {
			return false
		}
		q, err := p.Question()
		if err != nil {
			return false
		}
		questions[i] = q
	}
	a, b := questions[0], questions[1]
	return a.Type == b.Type && a.Class == b.Class && strings.EqualFold(a.Name.String(), b.Name.String())
}

// Servers reads the name servers of a resolv.conf(5), but for those in a range.
func Servers(conf string, but netip.Prefix) []netip.AddrPort {
	var all []netip.AddrPort
	for line := range strings.Lines(conf) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && !but.Contains(a.Unmap()) {
			all = append(all, netip.AddrPortFrom(a, 53))
		}
	}
	return all
}
