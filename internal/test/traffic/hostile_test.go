//go:build linux

package traffic

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"crypto/tls"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// hidden is what a request carries that is to pass for another one.
const hidden = "POST /console/api/hidden HTTP/1.1\r\nHost: dify.example\r\nContent-Length: 0\r\n\r\n"

// last comes after each of them on the same connection, and ends it.
const last = "POST /console/api/last HTTP/1.1\r\nHost: dify.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// TestHostile sends requests that servers understand differently, to the load balancer, and to the front door past it. Each is
// refused, or reaches the service as one that nobody can misunderstand; and the service gets as many requests as were
// answered: none is smuggled in the body of another.
func TestHostile(t *testing.T) {
	const post = "POST /console/api/x HTTP/1.1\r\nHost: dify.example\r\n"
	const refused, passed, nothing = "refused", "passed", "nothing" // nothing: the connection is closed without an answer
	either := []string{refused, nothing}
	w := &witness{}
	to := lay(t, listener(t, w.serve))
	number, hiddens := 0, map[string]int{}
	for _, tc := range []struct {
		name, sends string
		want        []string
	}{
		{"what is well", post + "Content-Length: 5\r\n\r\nhello", []string{passed}},
		{"what is well in chunks", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", []string{passed}},
		{"a length and chunks", post + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, []string{refused, passed}},
		{"chunks and a length", post + "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + hidden, []string{refused, passed}},
		{"two lengths", post + "Content-Length: 0\r\nContent-Length: 84\r\n\r\n" + hidden, either},
		{"a list of lengths", post + "Content-Length: 0, 84\r\n\r\n" + hidden, either},
		{"a length with a sign", post + "Content-Length: +5\r\n\r\nhello", either},
		{"a negative length", post + "Content-Length: -1\r\n\r\n" + hidden, either},
		{"a length in hexadecimal", post + "Content-Length: 0x5\r\n\r\nhello", either},
		{"a length too large", post + "Content-Length: 99999999999999999999999\r\n\r\n" + hidden, either},
		{"chunks twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, either},
		{"chunks and nothing", post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + hidden, either},
		{"something like chunks", post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + hidden, either},
		{"chunks after a tabulator", post + "Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n", []string{passed, refused}},
		{"chunks after a vertical tabulator", post + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + hidden, either},
		{"a blank before the colon", post + "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + hidden, either},
		{"a folded header", post + "X-A: b\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", []string{refused, nothing, passed}},
		{"a line that begins with a blank", "POST /console/api/x HTTP/1.1\r\n Host: dify.example\r\n\r\n", either},
		{"a name with a zero", post + "X-A\x00: b\r\nContent-Length: 0\r\n\r\n", either},
		{"a value with a zero", post + "X-A: b\x00c\r\nContent-Length: 0\r\n\r\n", either},
		{"a value with a carriage return", post + "X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", either},
		{"lines that end without a carriage return", "POST /console/api/x HTTP/1.1\nHost: dify.example\nContent-Length: 0\n\n", []string{refused, passed}},
		{"no host", "POST /console/api/x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", either},
		{"two hosts", post + "Host: evil.example\r\nContent-Length: 0\r\n\r\n", either},
		{"a host with a path", "POST /console/api/x HTTP/1.1\r\nHost: dify.example/../x\r\nContent-Length: 0\r\n\r\n", []string{refused, nothing, passed}},
		{"a whole address of another host", "POST http://evil.example/console/api/x HTTP/1.1\r\nHost: dify.example\r\nContent-Length: 0\r\n\r\n", []string{passed, refused}},
		{"a blank in the path", "POST /console/api/x HTTP/1.1 /y HTTP/1.1\r\nHost: dify.example\r\nContent-Length: 0\r\n\r\n", either},
		{"an unknown version", "POST /console/api/x HTTP/9.9\r\nHost: dify.example\r\nContent-Length: 0\r\n\r\n", either},
		{"the version of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", either},
		{"the old version with chunks", "POST /console/api/x HTTP/1.0\r\nHost: dify.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, []string{refused, nothing, passed}},
		{"a tunnel", "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1:22\r\n\r\n", either},
		{"a star", "OPTIONS * HTTP/1.1\r\nHost: dify.example\r\n\r\n", []string{refused, nothing, "answered"}},
		{"a chunk of no number", post + "Transfer-Encoding: chunked\r\n\r\nZZ\r\nhello\r\n0\r\n\r\n", either},
		{"a chunk with a sign", post + "Transfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n", either},
		{"a chunk of a negative size", post + "Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n", either},
		{"a chunk that is too large", post + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n", either},
		{"a chunk without its end", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n" + hidden, either},
		{"a chunk's extension", post + "Transfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nhello\r\n0\r\n\r\n", []string{passed, refused}},
		{"a chunk's extension of a megabyte", post + "Transfer-Encoding: chunked\r\n\r\n5;a=" + strings.Repeat("x", 1<<20) + "\r\nhello\r\n0\r\n\r\n", either},
		{"a chunk's line without a carriage return", post + "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", []string{refused, nothing, passed}},
		{"a trailer that frames", post + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\nContent-Length: 84\r\n\r\n" + hidden, []string{refused, nothing, passed}},
		{"a header of 128 KiB", post + "X-A: " + strings.Repeat("a", 128<<10) + "\r\nContent-Length: 0\r\n\r\n", either},
		{"twenty thousand headers", post + strings.Repeat("X-A: b\r\n", 20_000) + "Content-Length: 0\r\n\r\n", either},
		{"a path of 128 KiB", "POST /console/api/" + strings.Repeat("a", 128<<10) + " HTTP/1.1\r\nHost: dify.example\r\nContent-Length: 0\r\n\r\n", either},
		{"no HTTP", "\x16\x03\x01\x00\x00hello\r\n\r\n", either},
		{"an upgrade of what is none", post + "Connection: Upgrade, Content-Length\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 0\r\n\r\n", []string{refused, passed}},
		{"headers that are said to belong to the connection", post + "Connection: X-Forwarded-For, Host, Content-Length\r\nContent-Length: 5\r\n\r\nhello", []string{passed, refused}},
	} {
		for _, past := range []bool{false, true} {
			name := tc.name
			if past {
				name += " past the load balancer"
			}
			t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
				// A path of its own tells its requests from what comes late of those before.
				number++
				own := fmt.Sprintf("/console/api/%d/", number)
				c := to.dial(t, past)
				_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
				if _, err := io.WriteString(c, strings.ReplaceAll(tc.sends+last, "/console/api/", own)); err != nil {
					t.Logf("it is not read to its end: %v", err)
				}
				got, answers := nothing, []int{}
				for in := bufio.NewReader(c); ; {
					resp, err := http.ReadResponse(in, nil)
					if err != nil {
						break
					}
					_, _ = io.Copy(io.Discard, resp.Body) // the status is all that counts
					resp.Body.Close()
					answers = append(answers, resp.StatusCode)
				}
				lines, wrong := w.noted()
				lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.Contains(l, own) })
				for i, l := range lines {
					lines[i] = strings.Replace(l, own, "/console/api/", 1)
				}
				hiddens[own+"hidden "] = len(answers) - 2
				switch {
				case len(answers) == 0:
				case answers[0] >= 400:
					got = refused
				case len(lines) > 0 && strings.HasPrefix(lines[0], "POST /console/api/x "):
					got = passed
				default:
					got = "answered"
				}
				t.Logf("%s, %v, %q", got, answers, lines)
				if !slices.Contains(tc.want, got) {
					t.Errorf("%s; want %v", got, tc.want)
				}
				if len(wrong) > 0 {
					t.Fatalf("the service cannot be sure: %q", wrong)
				}
				// One that turned out to be wrong in its body may have reached the service, cut off.
				well := len(slices.DeleteFunc(answers, func(status int) bool { return status != http.StatusOK || got == "answered" }))
				if got == refused && len(lines) == 1 && strings.HasPrefix(lines[0], "POST /console/api/x ") {
					lines = nil
				}
				if len(lines) != well && got != "answered" {
					t.Errorf("%d requests are answered, and the service gets %q", well, lines)
				}
				for _, l := range lines {
					if !slices.Contains([]string{"POST /console/api/x HTTP/1.1", "POST /console/api/hidden HTTP/1.1", "POST /console/api/last HTTP/1.1"}, l) {
						t.Errorf("the service gets %.200q", l)
					}
				}
			})
		}
	}
	// Also of what came late, nothing was hidden.
	lines, _ := w.noted()
	for own, most := range hiddens {
		got := len(slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.Contains(l, own) }))
		if got > max(0, most) {
			t.Errorf("%sreached the service %d times, and was answered %d times", own, got, max(0, most))
		}
	}
}

// TestHostileFrames does the same in HTTP/2, where lengths and lines are not what frames a request, and must not come to be
// that on the way to the service.
func TestHostileFrames(t *testing.T) {
	w := &witness{}
	to := lay(t, listener(t, w.serve))
	for _, tc := range []struct {
		name    string
		path    string
		headers [][2]string
		body    string
	}{
		{"well", "/console/api/x", nil, "hello"},
		{"chunks", "/console/api/x", [][2]string{{"transfer-encoding", "chunked"}}, "0\r\n\r\n" + hidden},
		{"another length", "/console/api/x", [][2]string{{"content-length", "3"}}, "abc" + hidden},
		{"a larger length", "/console/api/x", [][2]string{{"content-length", "300"}}, "abc"},
		{"a line in a value", "/console/api/x", [][2]string{{"x-a", "b\r\ntransfer-encoding: chunked"}}, ""},
		{"a line in a name", "/console/api/x", [][2]string{{"x-a: b\r\nx-b", "c"}}, ""},
		{"a line in the path", "/console/api/x HTTP/1.1\r\nX-A: b", nil, ""},
		{"a blank in the path", "/console/api/x /y", nil, ""},
		{"a name in capitals", "/console/api/x", [][2]string{{"Transfer-Encoding", "chunked"}}, "0\r\n\r\n" + hidden},
		{"a connection's header", "/console/api/x", [][2]string{{"connection", "content-length"}}, ""},
		{"a second path", "/console/api/x", [][2]string{{":path", "/console/api/hidden"}}, ""},
	} {
		t.Run(strings.ReplaceAll(tc.name, " ", "_"), func(t *testing.T) {
			c, err := tls.Dial("tcp", to.edge, trust("h2"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
			var block bytes.Buffer
			enc := hpack.NewEncoder(&block)
			for _, h := range append([][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "dify.example"}, {":path", tc.path}}, tc.headers...) {
				if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
				t.Fatal(err)
			}
			f := http2.NewFramer(c, c)
			if err := f.WriteSettings(); err != nil {
				t.Fatal(err)
			}
			if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
				t.Fatal(err)
			}
			if err := f.WriteData(1, true, []byte(tc.body)); err != nil {
				t.Fatal(err)
			}
			f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
			got := "closed"
			for got == "closed" {
				frame, err := f.ReadFrame()
				if err != nil {
					break
				}
				switch frame := frame.(type) {
				case *http2.MetaHeadersFrame:
					got = frame.PseudoValue("status")
				case *http2.RSTStreamFrame:
					got = fmt.Sprint("reset ", frame.ErrCode)
				case *http2.GoAwayFrame:
					got = fmt.Sprint("gone ", frame.ErrCode)
				}
			}
			lines, wrong := w.noted()
			t.Logf("%s, %q", got, lines)
			if len(wrong) > 0 {
				t.Errorf("the service cannot be sure: %q", wrong)
			}
			if tc.name == "well" && got != "200" {
				t.Errorf("what is well: %s", got)
			}
			if got == "200" && !slices.Contains([]string{"well", "a blank in the path"}, tc.name) {
				t.Errorf("it passes: %q", lines)
			}
			for _, l := range lines {
				if l != "POST /console/api/x HTTP/1.1" && l != "POST /console/api/x%20/y HTTP/1.1" {
					t.Errorf("the service gets %q", lines)
				}
			}
		})
	}
}
