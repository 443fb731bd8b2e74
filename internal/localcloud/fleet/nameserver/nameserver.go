package nameserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Answer is what a Lookup knows about a name.
type Answer int

// The answers. A name that exists but has no record of the type asked is Found with no data.
const (
	Foreign Answer = iota // no zone here holds the name: another server may know it
	Missing               // a zone here should hold the name, and does not: NXDOMAIN
	Found
)

// Lookup gives the records of a name, which is lower case and ends with a dot, of a type such as "A", "CNAME" or "TXT".
// ttl is in seconds.
type Lookup func(name, qtype string) (data []string, ttl int, answer Answer)

// MetadataName is the name of the metadata server, which is known in every network.
const MetadataName = "metadata.google.internal."

// metadataAddress is what MetadataName means on Google. On the local cloud nothing listens there: instances find their
// metadata server by GCE_METADATA_HOST.
var metadataAddress = netip.AddrFrom4([4]byte{169, 254, 169, 254})

// Options say what a server answers.
type Options struct {
	Lookup Lookup
	// Outside are the name servers that are asked about foreign names, in this order; without any such names are refused.
	Outside []netip.AddrPort
	Log     *slog.Logger
}

// Server is a running name server.
type Server struct {
	opts   Options
	addr   netip.AddrPort
	udp    net.PacketConn
	tcp    net.Listener
	log    *slog.Logger
	wg     sync.WaitGroup
	ctx    context.Context // ends with Close
	stop   context.CancelFunc
	asking chan struct{} // bounds the questions that are asked outside at a time
}

// Serve binds one port of addr for UDP and TCP and answers until Close: port 53, which is what programs without a
// choice ask, or a free one where that may not be bound.
func Serve(addr netip.Addr, opts Options) (*Server, error) {
	var lc net.ListenConfig
	var errs error
	// A free port is chosen by the UDP socket, and may be taken for TCP: another try takes another port.
	for _, port := range []uint16{53, 0, 0, 0, 0, 0, 0, 0} {
		udp, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(addr, port).String())
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		tcp, err := lc.Listen(context.Background(), "tcp", udp.LocalAddr().String())
		if err != nil {
			errs = errors.Join(errs, err, udp.Close())
			continue
		}
		s := &Server{opts: opts, udp: udp, tcp: tcp, log: opts.Log, asking: make(chan struct{}, 64)}
		s.ctx, s.stop = context.WithCancel(context.Background())
		s.addr = udp.LocalAddr().(*net.UDPAddr).AddrPort()
		s.wg.Go(s.serveUDP)
		s.wg.Go(s.serveTCP)
		return s, nil
	}
	return nil, fmt.Errorf("listen for dns on %s: %w", addr, errs)
}

// Addr is where the server listens.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Close stops listening and returns when every question in hand is done.
func (s *Server) Close() error {
	var err error
	if !s.isClosed() {
		s.stop()
		err = errors.Join(s.udp.Close(), s.tcp.Close())
	}
	s.wg.Wait()
	return err
}

func (s *Server) isClosed() bool { return s.ctx.Err() != nil }

func (s *Server) serveUDP() {
	buf := make([]byte, 4096)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if err != nil {
			if s.isClosed() {
				return
			}
			s.log.Warn("read dns question", "error", err)
			continue
		}
		reply, err := s.answer(buf[:n], 512)
		switch {
		case errors.Is(err, errForeign):
			question := bytes.Clone(buf[:n])
			select {
			case s.asking <- struct{}{}:
				s.wg.Go(func() {
					defer func() { <-s.asking }()
					s.write(s.outside(s.ctx, "udp", question), from)
				})
			default: // too many at a time: who asks asks again
			}
		case err != nil:
			s.log.Debug("dns question not understood", "from", from.String(), "error", err)
		default:
			s.write(reply, from)
		}
	}
}

func (s *Server) write(reply []byte, to net.Addr) {
	if _, err := s.udp.WriteTo(reply, to); err != nil && !s.isClosed() {
		s.log.Warn("write dns answer", "to", to.String(), "error", err)
	}
}

func (s *Server) serveTCP() {
	for {
		conn, err := s.tcp.Accept()
		if err != nil {
			if s.isClosed() {
				return
			}
			s.log.Warn("accept dns connection", "error", err)
			continue
		}
		s.wg.Go(func() {
			defer conn.Close()
			// A closed connection ends the read that waits for the next question.
			defer context.AfterFunc(s.ctx, func() { conn.Close() })()
			if err := s.converse(conn); err != nil && !s.isClosed() {
				s.log.Debug("dns connection", "error", err)
			}
		})
	}
}

// converse answers the questions of one connection, each preceded by its length, until it is idle for ten seconds.
func (s *Server) converse(conn net.Conn) error {
	var size [2]byte
	for {
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		question := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, question); err != nil {
			return err
		}
		reply, err := s.answer(question, 65535)
		if errors.Is(err, errForeign) {
			reply, err = s.outside(s.ctx, "tcp", question), nil
		}
		if err != nil {
			return err
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return err
		}
	}
}

// answer gives the reply to a question, or errForeign. A reply longer than limit becomes an empty one that says it is truncated.
func (s *Server) answer(question []byte, limit int) ([]byte, error) {
	var p dnsmessage.Parser
	head, err := p.Start(question)
	if err != nil {
		return nil, err
	}
	if head.Response {
		return nil, errors.New("a response, not a question")
	}
	reply := dnsmessage.Header{
		ID: head.ID, Response: true, OpCode: head.OpCode, RecursionDesired: head.RecursionDesired, RecursionAvailable: len(s.opts.Outside) > 0,
	}
	q, err := p.Question()
	if err != nil {
		return nil, err
	}
	var records []dnsmessage.Resource
	var answer Answer
	switch {
	case head.OpCode != 0:
		reply.RCode = dnsmessage.RCodeNotImplemented
	case q.Class != dnsmessage.ClassINET && q.Class != dnsmessage.ClassANY:
		reply.RCode = dnsmessage.RCodeRefused
	default:
		if records, answer, err = s.records(q); err != nil {
			s.log.Warn("dns record not usable", "name", q.Name.String(), "error", err)
			reply.RCode = dnsmessage.RCodeServerFailure
			break
		}
		switch answer {
		case Foreign:
			if reply.RecursionAvailable && head.RecursionDesired {
				return nil, errForeign
			}
			reply.RCode = dnsmessage.RCodeRefused
		case Missing:
			reply.RCode, reply.Authoritative = dnsmessage.RCodeNameError, true
		case Found:
			reply.Authoritative = true
		}
	}
	m := dnsmessage.Message{Header: reply, Questions: []dnsmessage.Question{q}, Answers: records}
	if reply.Authoritative && len(records) == 0 {
		m.Authorities = []dnsmessage.Resource{authority(q.Name)}
	}
	data, err := m.Pack()
	if err != nil || len(data) <= limit {
		return data, err
	}
	m.Answers, m.Authorities, m.Truncated = nil, nil, true
	return m.Pack()
}

// authority makes "there is none" cacheable, for five seconds: records appear while a stack is being applied.
func authority(name dnsmessage.Name) dnsmessage.Resource {
	ns := dnsmessage.MustNewName("ns-gcp-private.googledomains.com.")
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: name, Type: dnsmessage.TypeSOA, Class: dnsmessage.ClassINET, TTL: 5},
		Body: &dnsmessage.SOAResource{NS: ns, MBox: dnsmessage.MustNewName("cloud-dns-hostmaster.google.com."),
			Serial: 1, Refresh: 21600, Retry: 3600, Expire: 259200, MinTTL: 5},
	}
}

// records looks a name up, and follows a CNAME as long as it stays here.
func (s *Server) records(q dnsmessage.Question) ([]dnsmessage.Resource, Answer, error) {
	name := strings.ToLower(q.Name.String())
	if name == MetadataName {
		if q.Type != dnsmessage.TypeA {
			return nil, Found, nil
		}
		r, err := record(q.Name, "A", metadataAddress.String(), 3600)
		return []dnsmessage.Resource{r}, Found, err
	}
	qtype := strings.TrimPrefix(q.Type.String(), "Type")
	var all []dnsmessage.Resource
	owner := q.Name
	for range 8 {
		data, ttl, answer := s.opts.Lookup(name, qtype)
		if answer != Found {
			if len(all) > 0 {
				answer = Found
			}
			return all, answer, nil
		}
		for _, d := range data {
			r, err := record(owner, qtype, d, ttl)
			if err != nil {
				return nil, Found, err
			}
			all = append(all, r)
		}
		if len(data) > 0 || qtype == "CNAME" {
			return all, Found, nil
		}
		alias, ttl, answer := s.opts.Lookup(name, "CNAME")
		if answer != Found || len(alias) == 0 {
			return all, Found, nil
		}
		r, err := record(owner, "CNAME", alias[0], ttl)
		if err != nil {
			return nil, Found, err
		}
		all = append(all, r)
		name = strings.ToLower(alias[0])
		if owner, err = dnsmessage.NewName(alias[0]); err != nil {
			return nil, Found, err
		}
	}
	return all, Found, nil
}

// record makes a resource of a record's text.
func record(name dnsmessage.Name, qtype, data string, ttl int) (dnsmessage.Resource, error) {
	r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: uint32(max(ttl, 0))}}
	switch qtype {
	case "A", "AAAA":
		addr, err := netip.ParseAddr(data)
		if err != nil {
			return r, fmt.Errorf("record %s: %w", qtype, err)
		}
		switch {
		case qtype == "A" && addr.Is4():
			r.Header.Type, r.Body = dnsmessage.TypeA, &dnsmessage.AResource{A: addr.As4()}
		case qtype == "AAAA" && addr.Is6():
			r.Header.Type, r.Body = dnsmessage.TypeAAAA, &dnsmessage.AAAAResource{AAAA: addr.As16()}
		default:
			return r, fmt.Errorf("record %s: %s is of the other family", qtype, data)
		}
	case "CNAME":
		target, err := dnsmessage.NewName(data)
		if err != nil {
			return r, fmt.Errorf("record CNAME: %w", err)
		}
		r.Header.Type, r.Body = dnsmessage.TypeCNAME, &dnsmessage.CNAMEResource{CNAME: target}
	case "TXT":
		r.Header.Type, r.Body = dnsmessage.TypeTXT, &dnsmessage.TXTResource{TXT: []string{strings.Trim(data, `"`)}}
	default:
		return r, fmt.Errorf("record %s: this type cannot be served", qtype)
	}
	return r, nil
}
