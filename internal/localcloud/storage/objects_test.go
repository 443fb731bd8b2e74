package storage_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestTranscoding: an object that is kept compressed is given as it is to whoever takes gzip, and decompressed to others.
func TestTranscoding(t *testing.T) {
	c := newCloud(t).listen()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	plain := strings.Repeat("hello ", 1000)
	if _, err := z.Write([]byte(plain)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	put := func(name, cache, contents string) {
		c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&contentEncoding=gzip&name="+name, contents, "Content-Type: text/plain"), 200, `"contentEncoding": "gzip"`)
		c.want(c.do("PATCH", "/storage/v1/b/files/o/"+name, `{"cacheControl":"`+cache+`"}`), 200)
	}
	put("zipped", "private", packed.String())
	put("as-is", "public, no-transform", packed.String())
	put("no-gzip", "private", "not compressed at all")
	for _, path := range []string{"/storage/v1/b/files/o/%s?alt=media", "/files/%s"} {
		for _, x := range []struct {
			name, accept, rest string
			code               int
			encoding, body     string
		}{
			{"zipped", "identity", "", 200, "", plain},
			{"zipped", "gzip;q=0", "", 200, "", plain},
			{"zipped", "br, gzip", "", 200, "gzip", packed.String()},
			{"zipped", "gzip", "Range: bytes=0-9", 206, "gzip", packed.String()[:10]},
			{"zipped", "identity", "Range: bytes=0-9", 200, "", plain}, // where in the contents that is, nobody knows
			{"zipped", "identity", "Range: bytes=99999-", 200, "", plain},
			{"as-is", "identity", "", 200, "gzip", packed.String()},
			{"no-gzip", "identity", "", 200, "gzip", "not compressed at all"},
		} {
			headers := []string{"Accept-Encoding: " + x.accept}
			if x.rest != "" {
				headers = append(headers, x.rest)
			}
			a := c.do("GET", fmt.Sprintf(path, x.name), "", headers...)
			if a.code != x.code || a.header.Get("Content-Encoding") != x.encoding || a.body != x.body || a.header.Get("X-Goog-Stored-Content-Encoding") != "gzip" {
				t.Errorf("%s to %q %s: got %d, encoded %q, %d bytes; want %d, %q, %d", x.name, x.accept, x.rest, a.code, a.header.Get("Content-Encoding"), len(a.body), x.code, x.encoding, len(x.body))
			}
		}
	}
}

// TestDeleteWhileListing: a list goes on where it was, whatever was deleted meanwhile.
func TestDeleteWhileListing(t *testing.T) {
	c := newCloud(t)
	for i := range 25 {
		c.want(c.do("POST", fmt.Sprintf("/upload/storage/v1/b/files/o?uploadType=media&name=o%02d", i), "x"), 200)
	}
	token, deleted := "", 0
	for {
		page := c.want(c.do("GET", "/storage/v1/b/files/o?maxResults=10&pageToken="+token, ""), 200).json(t)
		for _, o := range page["items"].([]any) {
			c.want(c.do("DELETE", "/storage/v1/b/files/o/"+o.(map[string]any)["name"].(string), ""), 204)
			deleted++
		}
		next, more := page["nextPageToken"].(string)
		if token = next; !more {
			break
		}
	}
	if deleted != 25 {
		t.Errorf("%d of 25 objects were listed while they were deleted", deleted)
	}
}

func TestListing(t *testing.T) {
	c := newCloud(t)
	for _, name := range []string{"a", "a/", "a/b", "a/b/c", "a-1", "é/x", "z[1]", "z{2}"} {
		c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name="+url.QueryEscape(name), "x"), 200)
	}
	for _, x := range []struct{ query, want string }{
		{"", "a a-1 a/ a/b a/b/c z[1] z{2} é/x"},
		{"delimiter=/", "a a-1 z[1] z{2} | a/ é/"},
		{"delimiter=/&includeTrailingDelimiter=true", "a a-1 a/ z[1] z{2} | a/ é/"},
		{"prefix=a/&delimiter=/", "a/ a/b | a/b/"},
		{"startOffset=a/b&endOffset=z", "a/b a/b/c"},
		{"matchGlob=a*", "a a-1"},
		{"matchGlob=**/c", "a/b/c"},
		{"matchGlob=a/**", "a/ a/b a/b/c"},
		{"matchGlob=?", "a"},
		{"matchGlob={a-[0-9],*/x}", "a-1 é/x"},
		{`matchGlob=z\[1\]`, "z[1]"},
		{"matchGlob=z[!{]*", "z[1]"},
		{"matchGlob=[", "400"}, {"matchGlob={a", "400"}, {"matchGlob=a}", "400"}, {`matchGlob=a\`, "400"}, {"matchGlob=[z-a]", "400"},
		{"maxResults=-1", "400"}, {"pageToken=!", "400"},
	} {
		q, err := url.ParseQuery(x.query)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []string{"", "1", "2"} { // however it is cut into pages
			if size != "" && q.Get("maxResults") != "-1" {
				q.Set("maxResults", size)
			}
			if got := c.list(q); got != x.want {
				t.Errorf("%s in pages of %q: got %s, want %s", x.query, size, got, x.want)
			}
		}
	}
}

// list gives the names and, behind a bar, the folders of a list, or the code of its refusal.
func (c *cloud) list(q url.Values) string {
	c.t.Helper()
	of := url.Values{}
	for name, values := range q {
		of[name] = values
	}
	var names, folders []string
	for {
		a := c.do("GET", "/storage/v1/b/files/o?"+of.Encode(), "")
		if a.code != 200 {
			return fmt.Sprint(a.code)
		}
		page := a.json(c.t)
		items, _ := page["items"].([]any) // none if there are none, as of the folders
		for _, o := range items {
			names = append(names, o.(map[string]any)["name"].(string))
		}
		prefixes, _ := page["prefixes"].([]any)
		for _, p := range prefixes {
			folders = append(folders, p.(string))
		}
		next, more := page["nextPageToken"].(string)
		if !more {
			break
		}
		of.Set("pageToken", next)
	}
	if folders != nil {
		names = append(append(names, "|"), folders...)
	}
	return strings.Join(names, " ")
}

// TestForgottenFields: what an object could only forget is refused, and so are keys of the client's.
func TestForgottenFields(t *testing.T) {
	c := newCloud(t)
	upload := func(fields string) answer {
		return c.do("POST", "/upload/storage/v1/b/files/o?uploadType=resumable&name=o", fields)
	}
	c.want(upload(`{"acl":[]}`), 200)
	for _, fields := range []string{`{"acl":[{"entity":"allUsers","role":"READER"}]}`, `{"kmsKeyName":"k"}`, `{"retention":{"mode":"Locked"}}`, `{"colour":"blue"}`, `{"storageClass":"COLDEST"}`, `[`} {
		c.want(upload(fields), 400)
	}
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name=o", "x", "X-Goog-Encryption-Algorithm: AES256"), 400, "key")
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=other&name=o", "x"), 400, "upload type")
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=multipart&name=o", "--b\r\n\r\n{}\r\n--b\r\n\r\ncut", "Content-Type: multipart/related; boundary=b"), 400, "ends before")
	c.want(c.do("GET", "/storage/v1/b/files/o/o", ""), 404)
}

// TestRewrite copies in calls of one MiB, and goes on only with its own token.
func TestRewrite(t *testing.T) {
	c := newCloud(t)
	data := string(contents(2<<20 + 5))
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name=from", data), 200)
	path := "/storage/v1/b/files/o/from/rewriteTo/b/files/o/to?maxBytesRewrittenPerCall=1048576&rewriteToken="
	token := ""
	for i, want := range []string{"1048576", "2097152", "2097157"} {
		a := c.want(c.do("POST", path+token, ""), 200, `"totalBytesRewritten": "`+want+`"`, `"objectSize": "2097157"`, fmt.Sprintf(`"done": %t`, i == 2))
		if i < 2 {
			token = a.json(t)["rewriteToken"].(string)
			c.want(c.do("GET", "/storage/v1/b/files/o/to", ""), 404)
		}
	}
	c.stored("to", []byte(data))
	c.want(c.do("POST", strings.Replace(path, "/o/to?", "/o/elsewhere?", 1)+token, ""), 400, "another rewrite")
	c.want(c.do("POST", "/storage/v1/b/files/o/from/rewriteTo/b/files/o/to?maxBytesRewrittenPerCall=7", ""), 400, "1048576")
}

func TestCompose(t *testing.T) {
	c := newCloud(t)
	for _, name := range []string{"a", "b"} {
		c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name="+name, name), 200)
	}
	compose := func(body string) answer { return c.do("POST", "/storage/v1/b/files/o/ab/compose", body) }
	generation := c.generation("a", true)
	a := c.want(compose(`{"destination":{"contentType":"text/x"},"sourceObjects":[{"name":"a","generation":"`+generation+`","objectPreconditions":{"ifGenerationMatch":"`+generation+`"}},{"name":"b"}]}`), 200, `"componentCount": 2`, `"contentType": "text/x"`)
	if a.json(t)["md5Hash"] != nil {
		t.Errorf("a composed object has no MD5: %s", a.body)
	}
	c.want(compose(`{"sourceObjects":[{"name":"ab"},{"name":"a"}]}`), 200, `"componentCount": 3`) // of itself, too
	c.stored("ab", []byte("aba"))
	for body, code := range map[string]int{
		`{}`: 400, `{"sourceObjects":[` + strings.Repeat(`{"name":"a"},`, 32) + `{"name":"a"}]}`: 400, `{"sourceObjects":[{"name":"none"}]}`: 404,
		`{"sourceObjects":[{"name":"a","generation":"7"}]}`: 404, `{"sourceObjects":[{"name":"a","objectPreconditions":{"ifGenerationMatch":"7"}}]}`: 412,
		`{"sourceObjects":[{"name":"a"}],"deleteSourceObjects":true}`: 400, `{"destination":{"crc32c":"AAAAAA=="},"sourceObjects":[{"name":"a"}]}`: 400,
	} {
		if a := compose(body); a.code != code {
			t.Errorf("%.80s: got %d, want %d: %s", body, a.code, code, a.body)
		}
	}
	c.stored("ab", []byte("aba"))
}

// TestWhoMay: a service account that may read can read, by either API, and do nothing else, in whatever way.
func TestWhoMay(t *testing.T) {
	c := newCloud(t)
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name=o", "x"), 200)
	c.want(c.do("POST", "/v1/projects/demo/serviceAccounts", `{"accountId":"reader"}`), 200)
	const reader = "reader@demo.iam.gserviceaccount.com"
	c.want(c.do("PUT", "/storage/v1/b/files/iam", `{"bindings":[{"role":"roles/storage.objectViewer","members":["serviceAccount:`+reader+`"]}]}`), 200)
	calls := []struct {
		method, path, body string
		reader, nobody     int
	}{
		{"GET", "/files/o", "", 200, 403},
		{"HEAD", "/files/o", "", 200, 403},
		{"GET", "/storage/v1/b/files/o/o?alt=media", "", 200, 403},
		{"GET", "/download/storage/v1/b/files/o/o?alt=media", "", 200, 403},
		{"GET", "/storage/v1/b/files/o", "", 200, 403},
		{"GET", "/storage/v1/b/files", "", 403, 403},
		{"POST", "/upload/storage/v1/b/files/o?uploadType=media&name=n", "x", 403, 403},
		{"POST", "/upload/storage/v1/b/files/o?uploadType=resumable&name=n", "", 403, 403},
		{"POST", "/storage/v1/b/files/o/n/compose", `{"sourceObjects":[{"name":"o"}]}`, 403, 403},
		{"POST", "/storage/v1/b/files/o/o/copyTo/b/files/o/n", "", 403, 403},
		{"POST", "/storage/v1/b/files/o/o/rewriteTo/b/files/o/n", "", 403, 403},
		{"PATCH", "/storage/v1/b/files/o/o", `{}`, 403, 403},
		{"DELETE", "/storage/v1/b/files/o/o", "", 403, 403},
	}
	to := c.begin("begun")
	for email, want := range map[string]func(int) int{reader: func(i int) int { return calls[i].reader }, "nobody@demo.iam.gserviceaccount.com": func(i int) int { return calls[i].nobody }} {
		c.token = c.tokens.Issue(email, time.Hour)
		for i, call := range calls {
			if a := c.do(call.method, call.path, call.body); a.code != want(i) {
				t.Errorf("%s: %s %s: got %d, want %d: %s", email, call.method, call.path, a.code, want(i), a.body)
			}
		}
	}
	c.token = token
	c.want(c.do("POST", "/v1/projects/demo/serviceAccounts", `{"accountId":"creator"}`), 200)
	const creator = "creator@demo.iam.gserviceaccount.com"
	c.want(c.do("PUT", "/storage/v1/b/files/iam", `{"bindings":[{"role":"roles/storage.objectCreator","members":["serviceAccount:`+creator+`"]},{"role":"roles/storage.objectViewer","members":["serviceAccount:`+creator+`"]}]}`), 200)
	c.token = c.tokens.Issue(creator, time.Hour)
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name=new", "y"), 200)
	for path, content := range map[string]string{
		"/upload/storage/v1/b/files/o?uploadType=media&name=o": "y", "/storage/v1/b/files/o/o/compose": `{"sourceObjects":[{"name":"new"}]}`,
		"/storage/v1/b/files/o/new/copyTo/b/files/o/o": "", "/storage/v1/b/files/o/new/rewriteTo/b/files/o/o": "",
	} {
		if a := c.do("POST", path, content); a.code != 403 || !strings.Contains(a.body, "storage.objects.delete") {
			t.Errorf("who may only add replaces an object with POST %s: %d %s", path, a.code, a.body)
		}
	}
	if a := c.piece(c.begin("o"), []byte("y"), "0-0/1"); a.code != 403 {
		t.Errorf("who may only add replaces an object piece by piece: %d %s", a.code, a.body)
	}
	if a := c.do("GET", "/storage/v1/b/files/o/o?alt=media", ""); a.body != "x" {
		t.Errorf("the object is %q now", a.body)
	}
	c.token = "a guess"
	for _, call := range calls {
		c.want(c.do(call.method, call.path, call.body), 401)
	}
	c.want(c.piece(to, nil, "*/*"), 401) // where an upload goes on is not enough
	c.want(c.do("DELETE", to, ""), 401)
	c.want(c.do("POST", "/batch/storage/v1", ""), 401)
}

// TestBatchTakesNoMedia: its answers are kept in memory.
func TestBatchTakesNoMedia(t *testing.T) {
	c := newCloud(t)
	for path, want := range map[string]string{
		"/storage/v1/b/files/o/o?alt=media": "takes no uploads or downloads", "/download/storage/v1/b/files/o/o": "takes no uploads or downloads",
		"/upload/storage/v1/b/files/o?name=o": "takes no uploads or downloads", "/resumable/upload/storage/v1/b/files/o?name=o": "takes no uploads or downloads", "/files/o": "404 Not Found", "/storage/v1/b/files": `"name": "files"`,
	} {
		a := c.do("POST", "/batch/storage/v1", "--b\r\nContent-Type: application/http\r\n\r\nGET "+path+" HTTP/1.1\r\n\r\n\r\n--b--\r\n", "Content-Type: multipart/mixed; boundary=b")
		if !strings.Contains(a.body, want) {
			t.Errorf("%s: got %d without %q: %s", path, a.code, want, a.body)
		}
	}
}

// TestBucketWriters has many change a bucket that they have all read: one does, and the others are told. Then some change buckets that
// others delete: what is deleted stays so.
func TestBucketWriters(t *testing.T) {
	c := newCloud(t)
	for round := range 20 {
		at := fmt.Sprint(c.want(c.do("GET", "/storage/v1/b/files", ""), 200).json(t)["metageneration"])
		var did atomic.Int64
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				switch a := c.do("PATCH", "/storage/v1/b/files?ifMetagenerationMatch="+at, fmt.Sprintf(`{"labels":{"by":"w%d"}}`, i)); a.code {
				case 200:
					did.Add(1)
				case 412:
				default:
					t.Errorf("%d %s", a.code, a.body)
				}
			})
		}
		all.Wait()
		if did.Load() != 1 {
			t.Errorf("round %d: %d writers were told that they alone did", round, did.Load())
		}
		name := fmt.Sprintf("goes-%d", round)
		c.want(c.do("POST", "/storage/v1/b?project=demo", `{"name":"`+name+`"}`), 200)
		for range 8 {
			all.Go(func() { c.do("PATCH", "/storage/v1/b/"+name, `{"labels":{"a":"b"}}`) })
		}
		all.Go(func() {
			if a := c.do("DELETE", "/storage/v1/b/"+name, ""); a.code != 204 {
				t.Errorf("delete: %d %s", a.code, a.body)
			}
		})
		all.Wait()
		c.want(c.do("GET", "/storage/v1/b/"+name, ""), 404)
	}
}

// TestFields asks for parts of answers in the ways that clients do: what is mentioned several times is the union.
func TestFields(t *testing.T) {
	c := newCloud(t)
	for _, name := range []string{"a", "b"} {
		c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name="+name, "x"), 200)
	}
	want := c.want(c.do("GET", "/storage/v1/b/files/o?fields=items(name,size)", ""), 200).body
	for _, mask := range []string{"prefixes,items/name,items/size,nextPageToken", "items/size,items(name)", "items(size),items/name,items/size"} {
		if got := c.want(c.do("GET", "/storage/v1/b/files/o?fields="+mask, ""), 200).body; got != want || !strings.Contains(got, `"a"`) {
			t.Errorf("%s: %s, want %s", mask, got, want)
		}
	}
	all := c.want(c.do("GET", "/storage/v1/b/files/o?fields=items/name,items", ""), 200).body
	if got := c.want(c.do("GET", "/storage/v1/b/files/o?fields=items", ""), 200).body; got != all || !strings.Contains(got, "md5Hash") {
		t.Errorf("the whole and a part: %s, want %s", all, got)
	}
}

// TestResumablePath begins an upload where gcloud does.
func TestResumablePath(t *testing.T) {
	c := newCloud(t)
	a := c.want(c.do("POST", "/resumable/upload/storage/v1/b/files/o?uploadType=resumable&name=big", ""), 200)
	to, err := url.Parse(a.header.Get("Location"))
	if err != nil || !strings.HasPrefix(to.Path, "/resumable/upload/") {
		t.Fatalf("it goes on at %q, %v", a.header.Get("Location"), err)
	}
	data := contents(4*block + 1)
	c.want(c.piece(to.RequestURI(), data[:4*block], fmt.Sprintf("0-%d/*", 4*block-1)), 308)
	c.want(c.piece(to.RequestURI(), data[4*block:], fmt.Sprintf("%d-%d/%d", 4*block, len(data)-1, len(data))), 200)
	if got := c.do("GET", "/storage/v1/b/files/o/big?alt=media", ""); got.body != string(data) {
		t.Errorf("%d bytes came", len(got.body))
	}
}
