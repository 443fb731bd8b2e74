//go:build linux

package conformance_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gcs "cloud.google.com/go/storage"
	"golang.org/x/oauth2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/test/cloud"
	"github.com/difyup/difyup/internal/test/need"
)

// cloudWithBuckets starts a local cloud in which Cloud Storage is enabled.
func cloudWithBuckets(t *testing.T) localcloud.Info {
	t.Helper()
	info := cloud.Start(t)
	connect(t, info).enable("storage.googleapis.com", "cloudresourcemanager.googleapis.com")
	return info
}

// TestBucketGo has Google's Go client, which the plugin daemon uses, do what the daemon does and what else it can.
func TestBucketGo(t *testing.T) {
	t.Run("by address", func(t *testing.T) {
		info := cloudWithBuckets(t)
		testBucketGo(t, info.URL, option.WithEndpoint(info.URL+"storage/v1/"), option.WithTokenSource(oauth2.StaticTokenSource(&oauth2.Token{AccessToken: info.Token})))
	})
	t.Run("by name", func(t *testing.T) {
		info := cloudWithBuckets(t)
		testBucketGo(t, "https://storage.googleapis.com/", option.WithHTTPClient(&http.Client{Transport: byName(t, info)}))
	})
}

// testBucketGo has a client use the local cloud, which it finds at root.
func testBucketGo(t *testing.T, root string, options ...option.ClientOption) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // the client asks again without end
	defer cancel()
	b := &goBucket{T: t, ctx: ctx}
	client, err := gcs.NewClient(ctx, options...)
	b.must("client", err)
	defer client.Close()
	b.BucketHandle = client.Bucket("golang")
	b.must("create", b.Create(ctx, project, nil))
	data := make([]byte, 3_000_000)
	_, _ = rand.Read(data) // never fails

	for _, name := range []string{"plugin/langgenius/openai:0.0.1@0123", "assets/a b+c%20ü.png", "much"} {
		want := data[:len(name)*1000]
		if name == "much" {
			want = bytes.Repeat(data, 8) // more than one piece of 16 MiB
		}
		b.write(b.Object(name), want)
		b.holds(b.Object(name), want)
	}
	b.write(b.Object("empty"), nil)
	b.holds(b.Object("empty"), nil)

	none := b.Object("none")
	if _, err := none.NewReader(ctx); !errors.Is(err, gcs.ErrObjectNotExist) {
		t.Errorf("read what is not there: %v", err)
	}
	if _, err := none.Attrs(ctx); !errors.Is(err, gcs.ErrObjectNotExist) {
		t.Errorf("attributes of what is not there: %v", err)
	}
	if err := none.Delete(ctx); !errors.Is(err, gcs.ErrObjectNotExist) {
		t.Errorf("delete what is not there: %v", err)
	}
	if got, want := b.names(&gcs.Query{Prefix: "plugin/"}), []string{"plugin/langgenius/openai:0.0.1@0123"}; !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}

	// Pieces of every size; parts; heads; generations.
	o := b.Object("pieces")
	for _, size := range []int{0, 256 << 10, 1 << 20} {
		w := o.NewWriter(ctx)
		w.ChunkSize, w.ContentType, w.Metadata = size, "text/x", map[string]string{"colour": "blue"}
		b.finish(w, data)
		b.holds(o, data)
	}
	for _, part := range [][2]int64{{10, 10}, {int64(len(data)) - 5, -1}, {-7, -1}, {2_999_990, 100}} {
		r, err := o.NewRangeReader(ctx, part[0], part[1])
		b.must("read a part", err)
		want := data[(part[0]+int64(len(data)))%int64(len(data)):]
		if part[1] >= 0 {
			want = want[:min(int(part[1]), len(want))]
		}
		b.read(fmt.Sprint(part), r, want)
	}
	head, err := o.NewRangeReader(ctx, 0, 0)
	b.must("head", err)
	if head.Attrs.Size != int64(len(data)) || head.Attrs.ContentType != "text/x" || head.Metadata()["Colour"] != "blue" {
		t.Errorf("the head is %+v %v", head.Attrs, head.Metadata())
	}
	_, err = o.NewRangeReader(ctx, int64(len(data)), -1)
	b.refused("a part behind the end", err, http.StatusRequestedRangeNotSatisfiable)
	attrs, err := o.Attrs(ctx)
	b.must("attributes", err)
	if !strings.HasPrefix(attrs.MediaLink, root) {
		t.Errorf("the contents are said to be at %s", attrs.MediaLink)
	}
	b.holds(o.Generation(attrs.Generation), data)
	b.holds(o.If(gcs.Conditions{GenerationMatch: attrs.Generation, MetagenerationMatch: 1}), data)
	for what, of := range map[string]*gcs.ObjectHandle{
		"generation": o.If(gcs.Conditions{GenerationMatch: 7}), "metageneration": o.If(gcs.Conditions{MetagenerationMatch: 7}), "absence": o.If(gcs.Conditions{DoesNotExist: true}),
	} {
		_, err := of.NewReader(ctx)
		b.refused("read with a wrong "+what, err, http.StatusPreconditionFailed)
		w := of.NewWriter(ctx)
		_, _ = w.Write([]byte("x")) // Close says it
		b.refused("write with a wrong "+what, w.Close(), http.StatusPreconditionFailed)
		if what != "absence" {
			b.refused("delete with a wrong "+what, of.Delete(ctx), http.StatusPreconditionFailed)
		}
	}
	b.must("delete as the daemon does", o.If(gcs.Conditions{GenerationMatch: attrs.Generation}).Delete(ctx))

	// Checksums.
	w := b.Object("sums").NewWriter(ctx)
	w.SendCRC32C, w.CRC32C = true, 7
	_, _ = w.Write(data) // Close says it
	b.refused("a wrong checksum", w.Close(), http.StatusBadRequest)

	// Compressed objects: kept, undone for whoever does not take them so.
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = z.Write(data[:10000]) // to a buffer
	b.must("compress", z.Close())
	zipped := b.Object("zipped").NewWriter(ctx)
	zipped.ContentEncoding = "gzip"
	b.finish(zipped, packed.Bytes())
	b.holds(b.Object("zipped"), data[:10000])
	b.holds(b.Object("zipped").ReadCompressed(true), packed.Bytes())

	// Put together, copied, renamed.
	b.write(b.Object("a"), []byte("aaa"))
	b.write(b.Object("b"), []byte("bbb"))
	composed, err := b.Object("ab").ComposerFrom(b.Object("a"), b.Object("b")).Run(ctx)
	b.must("compose", err)
	if len(composed.MD5) != 0 || composed.ComponentCount != 2 {
		t.Errorf("the composed object is %+v", composed)
	}
	b.holds(b.Object("ab"), []byte("aaabbb"))
	copier := b.Object("copied").CopierFrom(b.Object("much"))
	progress := 0
	copier.ProgressFunc = func(_, _ uint64) { progress++ }
	_, err = copier.Run(ctx)
	b.must("copy", err)
	b.holds(b.Object("copied"), bytes.Repeat(data, 8))
	_, err = b.Object("copied").CopierFrom(b.Object("much").If(gcs.Conditions{GenerationMatch: 7})).Run(ctx)
	b.refused("copy another generation", err, http.StatusPreconditionFailed)

	if got, want := b.names(&gcs.Query{MatchGlob: "{a,b}*"}), []string{"a", "ab", "b"}; !slices.Equal(got, want) {
		t.Errorf("the glob lists %q, want %q", got, want)
	}
	// What is not served is refused once, and not asked for again.
	before := time.Now()
	_, err = b.Object("a").Move(ctx, gcs.MoveObjectDestination{Object: "moved"})
	b.refused("move", err, http.StatusBadRequest)
	b.refused("ACLs", b.Object("a").ACL().Set(ctx, gcs.AllUsers, gcs.RoleReader), 0)
	if d := time.Since(before); d > 10*time.Second {
		t.Errorf("being refused took %s", d)
	}
	for _, name := range b.names(&gcs.Query{Versions: true}) {
		b.must("delete", b.Object(name).Delete(ctx))
	}
	b.must("delete the bucket", b.Delete(ctx))
}

// goBucket is a bucket, as Google's Go client sees it.
type goBucket struct {
	*testing.T
	*gcs.BucketHandle
	ctx context.Context
}

func (b *goBucket) must(what string, err error) {
	b.Helper()
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

// refused checks that a call was refused with a code, or with any 4xx for 0.
func (b *goBucket) refused(what string, err error, code int) {
	b.Helper()
	var e *googleapi.Error
	if !errors.As(err, &e) || e.Code != code && (code != 0 || e.Code/100 != 4) {
		b.Errorf("%s: got %v, want %d", what, err, code)
	}
}

func (b *goBucket) finish(w *gcs.Writer, data []byte) {
	b.Helper()
	_, err := w.Write(data)
	b.must("write "+w.Name, errors.Join(err, w.Close()))
}

func (b *goBucket) write(o *gcs.ObjectHandle, data []byte) {
	b.Helper()
	b.finish(o.NewWriter(b.ctx), data)
}

func (b *goBucket) holds(o *gcs.ObjectHandle, want []byte) {
	b.Helper()
	r, err := o.NewReader(b.ctx)
	b.must("read "+o.ObjectName(), err)
	b.read(o.ObjectName(), r, want)
}

func (b *goBucket) read(what string, r *gcs.Reader, want []byte) {
	b.Helper()
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !bytes.Equal(got, want) {
		b.Errorf("%s gave %d bytes, %v; want the %d that were written", what, len(got), err, len(want))
	}
}

func (b *goBucket) names(q *gcs.Query) []string {
	b.Helper()
	var names []string
	for it := b.Objects(b.ctx, q); ; {
		o, err := it.Next()
		if errors.Is(err, iterator.Done) {
			return names
		}
		b.must("list", err)
		names = append(names, o.Name)
	}
}

// Where scripts/install-clients puts Google's clients for other languages.
const clientTree = "/opt/difyup/clients"

// TestBucketPython has Google's Python client, which Dify uses, do what Dify does. $DIFYUP_PYTHON names another Python that
// has the client.
func TestBucketPython(t *testing.T) {
	foreign(t, cmp.Or(os.Getenv("DIFYUP_PYTHON"), clientTree+"/python/bin/python"), []string{"-c", "import google.cloud.storage"}, "testdata/storage.py")
}

// TestBucketNode has Google's Node client use a bucket. $NODE_PATH names another directory that has the client.
func TestBucketNode(t *testing.T) {
	t.Setenv("NODE_PATH", cmp.Or(os.Getenv("NODE_PATH"), clientTree+"/node/node_modules"))
	foreign(t, "node", []string{"-e", `require("@google-cloud/storage")`}, "testdata/storage.cjs")
}

// foreign runs a program that uses the local cloud at its last argument, and must end well: once at the local cloud's own
// address, and once at Google's, with the local cloud's name server and authority. With the arguments load it only tries
// whether the client is there.
func foreign(t *testing.T, name string, load []string, args ...string) {
	if out, err := exec.CommandContext(t.Context(), name, load...).CombinedOutput(); err != nil {
		need.Missing(t, fmt.Sprintf("%s has no client for Cloud Storage: %v %s; to install: scripts/install-clients", name, err, lastLine(out)))
	}
	run := func(t *testing.T, name string, args []string, env ...string) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		if err != nil {
			t.Error(err)
		}
	}
	t.Run("by address", func(t *testing.T) {
		info := cloudWithBuckets(t)
		run(t, name, append(args, info.URL), "DIFYUP_TOKEN="+info.Token)
	})
	t.Run("by name", func(t *testing.T) {
		info := cloudWithBuckets(t)
		needNames(t)
		conf := filepath.Join(t.TempDir(), "resolv.conf")
		server, _, _ := strings.Cut(info.DNS, ":")
		if err := os.WriteFile(conf, []byte("nameserver "+server+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		// In mounts of its own the program has another name server than the machine.
		script := []string{"--mount", "sh", "-c", `mount --bind "$1" /etc/resolv.conf && shift && exec "$@"`, "sh", conf, name}
		run(t, "unshare", slices.Concat(script, args, []string{"https://storage.googleapis.com"}),
			"DIFYUP_TOKEN="+info.Token, "REQUESTS_CA_BUNDLE="+info.BundleFile(), "NODE_EXTRA_CA_CERTS="+info.CAFile())
	})
}

// needNames skips where the APIs cannot be served by name: HTTPS's port needs root.
func needNames(t *testing.T) {
	t.Helper()
	need.Root(t, "port 443 needs root")
}

// byName finds the local cloud as clients do that know Google's addresses alone: by its name server and its authority.
func byName(t *testing.T, info localcloud.Info) http.RoundTripper {
	t.Helper()
	needNames(t)
	raw, err := os.ReadFile(info.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(raw)
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, info.DNS)
	}}
	base := &http.Transport{DialContext: (&net.Dialer{Resolver: resolver}).DialContext, TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}
	t.Cleanup(base.CloseIdleConnections)
	return &oauth2.Transport{Base: base, Source: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: info.Token})}
}

// TestByName asks for what is served by name, and for what is not.
func TestByName(t *testing.T) {
	info := cloudWithBuckets(t)
	client := &http.Client{Transport: byName(t, info)}
	get := func(c *http.Client, url string) string {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			return err.Error()
		}
		return resp.Status + " " + string(raw)
	}
	for _, tc := range []struct{ url, want string }{
		{"https://storage.googleapis.com/storage/v1/b?project=conformance", "200 OK"},
		{"https://storage.googleapis.com:443/storage/v1/b?project=conformance", "200 OK"},
		{"https://www.googleapis.com/compute/v1/projects/conformance", "Compute Engine API has not been used"},
		{"https://cloudresourcemanager.googleapis.com/v1/projects/conformance", "200 OK"},
		{"https://xstorage.googleapis.com.conformance.internal/", "no such host"},
	} {
		if got := get(client, tc.url); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %s; want %s", tc.url, got, tc.want)
		}
	}
	// A name that leads here and is none of the APIs': as a page would have it that a browser is to ask for.
	anyName := client.Transport.(*oauth2.Transport).Base.(*http.Transport).Clone()
	host, _, _ := strings.Cut(info.DNS, ":")
	api := strings.TrimSuffix(host, ".2") + ".1:443"
	anyName.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", api)
	}
	defer anyName.CloseIdleConnections()
	if got := get(&http.Client{Transport: anyName}, "https://evil.example/"); !strings.Contains(got, "not evil.example") {
		t.Errorf("another name: %s", got)
	}
	anyName.TLSClientConfig.InsecureSkipVerify = true
	if got := get(&http.Client{Transport: anyName}, "https://evil.example/"); !strings.HasPrefix(got, "421") {
		t.Errorf("another name, unverified: %s", got)
	}
	if got := get(&http.Client{Transport: anyName}, "https://storage.googleapis.com/storage/v1/b?project=conformance"); !strings.HasPrefix(got, "401") {
		t.Errorf("without a token: %s", got)
	}
	other := anyName.Clone()
	defer other.CloseIdleConnections()
	other.TLSClientConfig = &tls.Config{}
	if got := get(&http.Client{Transport: other}, "https://storage.googleapis.com/"); !strings.Contains(got, "certificate signed by unknown authority") {
		t.Errorf("who does not trust the authority: %s", got)
	}
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
