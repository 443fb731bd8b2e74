//go:build linux

package lifecycle

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/localcloud"
)

// TestRotatedAuthorities changes the authority of both databases as docs/tls.md says, while requests come that use them: no request
// fails, before, between and after, with the connections that were there and with new ones.
func TestRotatedAuthorities(t *testing.T) {
	s := newStack(t)
	edit := func(old, now string) {
		t.Helper()
		raw, err := os.ReadFile(s.file)
		if err != nil || !bytes.Contains(raw, []byte(old)) {
			t.Fatalf("%q is not there: %v", old, err)
		}
		if err := os.WriteFile(s.file, bytes.Replace(raw, []byte(old), []byte(now), 1), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	edit("database:\n", "database:\n  tls: verified\n")
	edit("vector:\n", "vector:\n  tls: verified\n")
	s.run("apply", "--yes")
	listeners := s.info().Listeners
	url := listeners[slices.IndexFunc(listeners, func(l localcloud.Listener) bool { return l.Scheme == "https" })].URL() + "/console/api/setup"

	var (
		mu     sync.Mutex
		served int
		failed []string
	)
	ask := func(client *http.Client) {
		resp, err := client.Get(url)
		text := ""
		if err != nil {
			text = err.Error()
		} else {
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				text = fmt.Sprint(resp.Status, " ", err, " ", string(body))
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if served++; text != "" {
			failed = append(failed, text)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var users sync.WaitGroup
	defer users.Wait()
	defer stop()
	for range 3 {
		client := web()
		users.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
				ask(client)
			}
		})
	}

	databases := []string{"demo-main", "demo-vector"}
	do := func(what string) {
		t.Helper()
		for _, name := range databases {
			if status, raw := request(fatal{t}, s.info(), http.MethodPost, "v1/projects/demo-project/instances/"+name+"/"+what, "{}"); status != http.StatusOK {
				t.Fatalf("%s of %s: %d\n%s", what, name, status, raw)
			}
		}
	}
	do("addServerCa")
	known(fatal{t}, s.dir, "postgresql.pem", 2, 2*len(databases)) // of each both
	s.run("smoke")
	edit("compute:\n", "labels: {round: \"2\"}\ncompute:\n")
	s.run("apply", "--yes") // replaces the instances, for the plugin daemons' sake
	s.run("smoke")
	was := map[string]string{}
	for _, name := range databases {
		was[name] = signer(t, s, name)
	}
	do("rotateServerCa")
	for _, name := range databases {
		for end := time.Now().Add(time.Minute); signer(t, s, name) == was[name]; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s still shows a certificate of the old authority", name)
			}
		}
	}
	// More at once than connections there are: new ones are made, and see the new certificate.
	for range 20 {
		var burst sync.WaitGroup
		for range 40 {
			client := web()
			burst.Go(func() { ask(client) })
		}
		burst.Wait()
	}
	s.run("smoke")
	edit(`round: "2"`, `round: "3"`)
	s.run("apply", "--yes") // those that have never seen the old certificate
	s.run("smoke")
	stop()
	users.Wait()
	t.Logf("%d requests", served)
	if len(failed) > 0 {
		t.Errorf("%d of %d requests failed:\n%s", len(failed), served, strings.Join(failed[:min(len(failed), 5)], "\n"))
	}
}

// signer gives who signed the certificate that a database shows to a new connection.
func signer(t *testing.T, s *stack, name string) string {
	t.Helper()
	servers := s.info().Servers
	at := slices.IndexFunc(servers, func(one localcloud.Server) bool { return one.Name == name })
	if at < 0 {
		t.Fatalf("there is no %s among %v", name, servers)
	}
	host, _, err := net.SplitHostPort(servers[at].Address)
	if err != nil {
		host = servers[at].Address
	}
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(t.Context(), "tcp", net.JoinHostPort(host, "5432"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// PostgreSQL's SSLRequest, which is answered with an S.
	if err := binary.Write(c, binary.BigEndian, []uint32{8, 80877103}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	var leaf *x509.Certificate
	err = tls.Client(c, &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(state tls.ConnectionState) error {
		leaf = state.PeerCertificates[0]
		return nil
	}}).HandshakeContext(t.Context())
	if err != nil || leaf == nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s %x", leaf.Issuer, leaf.AuthorityKeyId)
}
