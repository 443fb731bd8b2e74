package storage_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const block = 256 << 10

// begin starts a resumable upload and gives the path its pieces go to.
func (c *cloud) begin(name string, headers ...string) string {
	c.t.Helper()
	a := c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=resumable&name="+name, "", headers...), 200)
	to, err := url.Parse(a.header.Get("Location"))
	if err != nil || to.Path == "" {
		c.t.Fatalf("the upload goes to %q, %v", a.header.Get("Location"), err)
	}
	return to.RequestURI()
}

// contents gives n bytes in which every place is different from its neighbours.
func contents(n int) []byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (c *cloud) piece(to string, data []byte, span string, headers ...string) answer {
	c.t.Helper()
	return c.send("PUT", to, bytes.NewReader(data), append([]string{"Content-Range: bytes " + span}, headers...)...)
}

// TestSamePieceAtOnce sends the last piece of an object six times at once: it is stored once, and every sender is told
// of the same object.
func TestSamePieceAtOnce(t *testing.T) {
	c := newCloud(t).listen()
	data := contents(3_000_000)
	to := c.begin("big")
	head := 4 * block
	c.want(c.piece(to, data[:head], fmt.Sprintf("0-%d/%d", head-1, len(data))), 308)
	var group sync.WaitGroup
	answers := make([]answer, 6)
	for i := range answers {
		group.Go(func() {
			answers[i] = c.piece(to, data[head:], fmt.Sprintf("%d-%d/%d", head, len(data)-1, len(data)))
		})
	}
	group.Wait()
	for _, a := range answers {
		if a.code != 200 || a.body != answers[0].body || a.json(t)["size"] != "3000000" {
			t.Errorf("one sender was told %d: %s", a.code, a.body)
		}
	}
	c.stored("big", data)
}

// TestPieceAgain: the answer to a piece was lost and the piece comes again, in whole, in part or with more behind it.
func TestPieceAgain(t *testing.T) {
	c := newCloud(t).listen()
	data := contents(5*block + 17)
	to := c.begin("o")
	total := len(data)
	first := c.want(c.piece(to, data[:block], fmt.Sprintf("0-%d/%d", block-1, total)), 308)
	again := c.want(c.piece(to, data[:block], fmt.Sprintf("0-%d/%d", block-1, total)), 308)
	for _, a := range []answer{first, again} {
		if got, want := a.header.Get("Range"), fmt.Sprintf("bytes=0-%d", block-1); got != want {
			t.Errorf("Range is %q, want %q", got, want)
		}
	}
	c.want(c.piece(to, data[:3*block], fmt.Sprintf("0-%d/%d", 3*block-1, total)), 308)
	if got := c.want(c.piece(to, nil, fmt.Sprintf("*/%d", total)), 308).header.Get("Range"); got != fmt.Sprintf("bytes=0-%d", 3*block-1) {
		t.Errorf("asked, it has %q", got)
	}
	c.want(c.piece(to, data[5*block:], fmt.Sprintf("%d-%d/%d", 5*block, total-1, total)), 400, "exceeds already uploaded size")
	last := fmt.Sprintf("%d-%d/%d", 2*block, total-1, total)
	done := c.want(c.piece(to, data[2*block:], last), 200)
	for _, ask := range []answer{c.piece(to, data[2*block:], last), c.piece(to, nil, fmt.Sprintf("*/%d", total)), c.piece(to, nil, "*/*")} {
		if ask.code != 200 || ask.body != done.body {
			t.Errorf("the finished upload says %d: %s", ask.code, ask.body)
		}
	}
	c.stored("o", data)
}

// TestDeclaredSize: what was declared is what must come. A refused piece harms nothing.
func TestDeclaredSize(t *testing.T) {
	c := newCloud(t).listen()
	data := contents(2 * block)
	to := c.begin("o", "X-Upload-Content-Length: 524288")
	c.want(c.piece(to, data, "0-524287/600000"), 400, "600000")                // another total than declared
	c.want(c.piece(to, data[:block], "0-262143/262144"), 400, "262144")        // a smaller one
	c.want(c.piece(to, contents(3*block), "0-786431/*"), 400, "byte(s)")       // more than declared
	c.want(c.piece(to, data[:100], "0-262143/524288"), 400, "100")             // fewer than its own range says
	c.want(c.piece(to, append(data[:block:block], 1), "0-262143/524288"), 400) // one more
	c.want(c.piece(to, data[:1000], "0-999/524288"), 400, "262144")            // no multiple of 256 KiB, and not the end
	c.want(c.piece(to, data[:block], "0-*/*"), 400, "byte(s)")                 // ends before what was declared
	c.want(c.piece(to, nil, "*/600000"), 400, "600000")
	for _, bad := range []string{"x", "0-1", "5-2/10", "0-10/10", "-1-5/10", "0-5/x", "0-18446744073709551615/*"} {
		c.want(c.piece(to, data[:10], bad), 400, "Content-Range")
	}
	if got := c.want(c.piece(to, nil, "*/*"), 308).header.Get("Range"); got != "" && got != "bytes=0-262143" {
		t.Errorf("after refusals it has %q", got)
	}
	c.want(c.piece(to, data, "0-524287/524288"), 200, `"size": "524288"`)
	c.stored("o", data)

	to = c.begin("p")
	c.want(c.piece(to, data[:block], "0-262143/524288"), 308)
	c.want(c.piece(to, data[block:], "262144-524287/*"), 308)
	c.want(c.piece(to, nil, "*/300000"), 400) // fewer than have come
	c.want(c.piece(to, nil, "*/524288"), 200) // all have come: this is the end
	c.stored("p", data)
}

// TestUnknownSize is how Node's client uploads: one request of no known length, whose end is the object's.
func TestUnknownSize(t *testing.T) {
	c := newCloud(t).listen()
	for _, n := range []int{0, 1, block, 2*block + 5} {
		data := contents(n)
		name := fmt.Sprint("node", n)
		to := c.begin(name)
		a := c.send("PUT", to, struct{ *bytes.Reader }{bytes.NewReader(data)}, "Content-Range: bytes 0-*/*")
		c.want(a, 200, fmt.Sprintf(`"size": "%d"`, n))
		c.stored(name, data)
	}
	to := c.begin("whole") // without a range all is in one piece
	c.want(c.do("PUT", to, "all of it"), 200)
	c.stored("whole", []byte("all of it"))
	to = c.begin("empty")
	c.want(c.piece(to, nil, "*/0"), 200, `"size": "0"`)
	c.stored("empty", nil)
}

// TestCutOff: the client is gone in the middle of a piece. What has come in whole blocks is kept; a piece that only
// stopped early is not the end of the object.
func TestCutOff(t *testing.T) {
	c := newCloud(t).listen()
	data := contents(3 * block)
	to := c.begin("o")
	body := struct{ *brokenReader }{&brokenReader{data: data[:block+1000]}}
	req, err := http.NewRequestWithContext(t.Context(), "PUT", c.url+to, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Range", "bytes 0-*/*")
	if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
		resp.Body.Close()
		t.Errorf("a body that broke off was answered with %s", resp.Status)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		a := c.want(c.piece(to, nil, "*/*"), 308)
		if a.header.Get("Range") == fmt.Sprintf("bytes=0-%d", block-1) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it has %q, want the whole blocks of what was sent", a.header.Get("Range"))
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.want(c.piece(to, data[block:], fmt.Sprintf("%d-*/*", block)), 200)
	c.stored("o", data)
}

// brokenReader gives its data and then fails.
type brokenReader struct{ data []byte }

func (r *brokenReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, fmt.Errorf("the client is gone")
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// TestChecksums: contents that are not what the client meant are refused, whichever way it says so.
func TestChecksums(t *testing.T) {
	c := newCloud(t).listen()
	const right, wrong = "crc32c=yZRlqg==,md5=XrY7u+Ae7tCTyyK7j1rNww==", "crc32c=AAAAAA==" // of "hello world"
	to := c.begin("o")
	c.want(c.do("PUT", to, "hello world", "X-Goog-Hash: "+wrong), 400, "crc32c")
	c.want(c.piece(to, nil, "*/*"), 400, "crc32c") // the upload is over, with that end
	c.want(c.do("PUT", c.begin("o"), "hello world", "X-Goog-Hash: "+right), 200)
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name=m", "hello world", "X-Goog-Hash: "+wrong), 400, "crc32c")
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name=m", "hello world", "X-Goog-Hash: md5=AAAAAAAAAAAAAAAAAAAAAA=="), 400, "md5")
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name=m", "hello world", "X-Goog-Hash: "+right), 200)
	multipart := func(fields string) answer {
		return c.do("POST", "/upload/storage/v1/b/files/o?uploadType=multipart", "--b\r\nContent-Type: application/json\r\n\r\n"+fields+"\r\n--b\r\nContent-Type: text/plain\r\n\r\nhello world\r\n--b--\r\n", "Content-Type: multipart/related; boundary=b")
	}
	c.want(multipart(`{"name":"mp","crc32c":"AAAAAA=="}`), 400, "crc32c")
	c.want(multipart(`{"name":"mp","crc32c":"yZRlqg==","md5Hash":"XrY7u+Ae7tCTyyK7j1rNww=="}`), 200, `"crc32c": "yZRlqg=="`, `"md5Hash": "XrY7u+Ae7tCTyyK7j1rNww=="`)
	a := c.do("GET", "/storage/v1/b/files/o/mp?alt=media", "")
	if got := a.header.Get("X-Goog-Hash"); got != right {
		t.Errorf("X-Goog-Hash is %q, want %q", got, right)
	}
}

func TestCancel(t *testing.T) {
	c := newCloud(t)
	to := c.begin("o")
	c.want(c.piece(to, contents(block), fmt.Sprintf("0-%d/*", block-1)), 308)
	c.want(c.do("DELETE", to, ""), 499)
	c.want(c.piece(to, contents(block), fmt.Sprintf("%d-%d/*", block, 2*block-1)), 410)
	c.want(c.piece(to, nil, "*/*"), 410)
	c.want(c.piece("/upload/storage/v1/b/files/o?uploadType=resumable&upload_id=none", nil, "*/*"), 404)
	c.want(c.do("DELETE", "/upload/storage/v1/b/files/o?uploadType=resumable&upload_id=none", ""), 404)
	c.want(c.do("GET", "/storage/v1/b/files/o/o", ""), 404)
	c.empty()
}

// TestPreconditions: they hold when the upload begins and when it ends.
func TestUploadPreconditions(t *testing.T) {
	c := newCloud(t)
	to := c.begin("o&ifGenerationMatch=0")
	c.want(c.do("PUT", c.begin("o"), "somebody else's"), 200)
	c.want(c.do("PUT", to, "mine"), 412)
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=resumable&name=o&ifGenerationMatch=0", ""), 412)
	c.stored("o", []byte("somebody else's"))
}

// empty checks that nothing is kept on disk.
func (c *cloud) empty() {
	c.t.Helper()
	left, err := os.ReadDir(c.dir)
	if err != nil || len(left) > 0 {
		c.t.Errorf("%d files are left, %v", len(left), err)
	}
}

// TestAbandoned: an upload that nobody goes on with is forgotten after a week, and there are never more than so many.
func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCloud(t)
		old := c.begin("old")
		c.want(c.piece(old, contents(block), fmt.Sprintf("0-%d/*", block-1)), 308)
		time.Sleep(6 * 24 * time.Hour)
		young := c.begin("young")
		c.want(c.piece(old, nil, "*/*"), 308)
		time.Sleep(36 * time.Hour)
		c.want(c.piece(old, nil, "*/*"), 410)
		c.want(c.piece(young, nil, "*/*"), 308)
		c.want(c.do("DELETE", young, ""), 499)
		c.empty()

		first := c.begin("first")
		for i := range 300 {
			time.Sleep(time.Second)
			c.begin(fmt.Sprint(i))
		}
		c.want(c.piece(first, nil, "*/*"), 404)
		if left, err := os.ReadDir(c.dir); err != nil || len(left) > 256 {
			t.Errorf("%d uploads are kept on disk, %v", len(left), err)
		}
	})
}

// TestUploadModel sends random pieces, repeats, questions and duplicates at once, and compares with a model of one
// number: how much has come. In the end the object holds what was sent.
func TestUploadModel(t *testing.T) {
	c := newCloud(t)
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 8))
		n := r.IntN(6*block) + 1
		if seed%7 == 0 {
			n = (n/block + 1) * block
		}
		data := contents(n)
		name := fmt.Sprint("model", seed)
		var headers []string
		if seed%2 == 0 {
			headers = append(headers, fmt.Sprint("X-Upload-Content-Length: ", n))
		}
		to := c.begin(name, headers...)
		have, done := 0, false
		says := func(a answer, what string) {
			t.Helper()
			want, code := "", 308
			if have > 0 {
				want = fmt.Sprintf("bytes=0-%d", have-1)
			}
			if done {
				want, code = "", 200
			}
			if a.code != code || a.header.Get("Range") != want {
				t.Fatalf("seed %d, %s: got %d %q, want %d %q: %s", seed, what, a.code, a.header.Get("Range"), code, want, a.body)
			}
		}
		for step := 0; !done || step%4 != 0; step++ {
			switch r.IntN(6) {
			case 0:
				says(c.piece(to, nil, []string{"*/*", fmt.Sprintf("*/%d", n)}[r.IntN(2)]), "a question")
			case 1: // a hole
				if from := have + block*(1+r.IntN(2)); from < n && !done {
					if a := c.piece(to, data[from:], fmt.Sprintf("%d-%d/%d", from, n-1, n)); a.code != 400 {
						t.Fatalf("seed %d: a hole was answered with %d", seed, a.code)
					}
				}
			default: // a piece, perhaps of what has come already, perhaps by several at once
				from := block * r.IntN(min(have, n-1)/block+1)
				to2 := min(n, from+block*(1+r.IntN(3)))
				total := fmt.Sprint(n)
				if to2 < n && r.IntN(2) == 0 {
					total = "*"
				}
				have = max(have, to2)
				done = done || to2 == n
				var group sync.WaitGroup
				answers := make([]answer, 1+r.IntN(3))
				for i := range answers {
					group.Go(func() { answers[i] = c.piece(to, data[from:to2], fmt.Sprintf("%d-%d/%s", from, to2-1, total)) })
				}
				group.Wait()
				for _, a := range answers {
					says(a, fmt.Sprintf("%d pieces %d-%d of %d", len(answers), from, to2, n))
				}
			}
		}
		c.stored(name, data)
		c.want(c.do("DELETE", "/storage/v1/b/files/o/"+name, ""), 204)
	}
	c.empty()
}

// TestNothingTruncated: an upload that would be too large for this machine is refused, not cut.
func TestTooLarge(t *testing.T) {
	c := newCloud(t)
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=resumable&name=o", "", "X-Upload-Content-Length: 5000000000"), 413)
	to := c.begin("o")
	c.want(c.piece(to, []byte(strings.Repeat("x", block)), "0-262143/5000000000"), 413)
	c.want(c.do("DELETE", to, ""), 499)
	c.empty()
}
