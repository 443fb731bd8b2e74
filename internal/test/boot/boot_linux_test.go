package boot_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/report"
	"github.com/difyup/difyup/internal/test/boot"
	"github.com/difyup/difyup/internal/test/cloud"
	"github.com/difyup/difyup/internal/test/engine"
	"github.com/difyup/difyup/internal/topology"
)

// Addresses of the machine's network, all on its loopback.
const (
	metadataAt = "169.254.169.254"
	googleAt   = "198.51.100.8" // storage.googleapis.com and all others
	archiveAt  = "198.51.100.9" // Ubuntu's
	machineAt  = "10.64.0.7"
)

// secretValue is what every secret has in it.
const secretValue = "S3cretOfTheTest"

// google is what an instance sees of Google, and of Ubuntu.
type google struct {
	mu       sync.Mutex
	items    map[string]string // the instance's metadata
	agent    []byte
	refusals int // of the bucket, while rights spread
	asked    map[string]int
	reports  []report.Document
}

func (g *google) metadata(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Header.Get("Metadata-Flavor") != "Google" {
		http.Error(w, "Missing Metadata-Flavor:Google header.", http.StatusForbidden)
		return
	}
	w.Header().Set("Metadata-Flavor", "Google")
	path := strings.TrimPrefix(r.URL.Path, "/computeMetadata/v1/")
	if r.Method == http.MethodPut {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if d, err := report.Parse(string(raw)); err == nil && path == "instance/guest-attributes/difyup/status" {
			g.reports = append(g.reports, d)
		}
		return
	}
	if key, ok := strings.CutPrefix(path, "instance/attributes/"); ok && key != "" && g.items[key] != "" {
		io.WriteString(w, g.items[key])
		return
	}
	values := map[string]any{
		"instance/attributes/": g.items, "instance/attributes": g.items, "project/attributes/": map[string]string{}, "project/attributes": map[string]string{},
		"instance/id": "4711", "instance/name": "demo-vm-x1y2", "instance/hostname": "demo-vm-x1y2.c.demo-project.internal",
		"instance/zone": "projects/123/zones/asia-northeast1-b", "instance/network-interfaces/0/ip": machineAt,
		"instance/service-accounts/default/token": map[string]any{"access_token": "token-1", "expires_in": 3600, "token_type": "Bearer"},
	}
	switch v := values[path].(type) {
	case nil:
		http.NotFound(w, r)
	case string:
		io.WriteString(w, v)
	default:
		_ = json.NewEncoder(w).Encode(v) // whoever asked may be gone
	}
}

func (g *google) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked[r.Host]++
	if r.Header.Get("Authorization") != "Bearer token-1" {
		http.Error(w, "no token", http.StatusUnauthorized)
		return
	}
	switch {
	case r.Host == "secretmanager.googleapis.com":
		fmt.Fprintf(w, `{"payload":{"data":%q}}`, base64.StdEncoding.EncodeToString([]byte(secretValue)))
	case r.Host == "storage.googleapis.com" && "gs://"+strings.Replace(strings.TrimPrefix(r.URL.Path, "/storage/v1/b/"), "/o/", "/", 1) == g.items["difyup-agent"]:
		if g.refusals > 0 {
			g.refusals--
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
		w.Write(g.agent)
	default:
		http.NotFound(w, r)
	}
}

// world is the network of a machine with what answers in it.
type world struct {
	*google
	n       *engine.Namespace
	names   map[string]string // for the name server, with the dot at the end
	ca      []byte
	archive string // the directory of the package archive
	closed  func() // closes the archive's door
}

func newWorld(t *testing.T) *world {
	t.Helper()
	n, err := engine.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	if err := n.Up("lo", metadataAt+"/32", googleAt+"/32", archiveAt+"/32", machineAt+"/32"); err != nil {
		t.Fatal(err)
	}
	w := &world{google: &google{asked: map[string]int{}, items: map[string]string{}}, n: n, archive: t.TempDir(), names: map[string]string{
		"metadata.google.internal.": metadataAt, "storage.googleapis.com.": googleAt, "secretmanager.googleapis.com.": googleAt, "archive.ubuntu.test.": archiveAt,
	}}
	w.serve(t, metadataAt+":80", http.HandlerFunc(w.metadata), nil)
	w.serve(t, googleAt+":443", w.google, w.certificate(t, "storage.googleapis.com", "secretmanager.googleapis.com"))
	w.nameServer(t)
	return w
}

// serve has a handler answer at an address of the network until the function that it gives is called.
func (w *world) serve(t *testing.T, at string, h http.Handler, config *tls.Config) (stop func()) {
	t.Helper()
	l, err := w.n.Listen(at)
	if err != nil {
		t.Fatal(err)
	}
	if config != nil {
		l = tls.NewListener(l, config)
	}
	server, served := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}, make(chan struct{})
	go func() { defer close(served); _ = server.Serve(l) }() // until it is closed
	stop = func() { server.Close(); <-served }
	t.Cleanup(stop)
	return stop
}

func (w *world) nameServer(t *testing.T) {
	t.Helper()
	conn, err := w.n.ListenPacket(metadataAt + ":53")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for buf := make([]byte, 1500); ; {
			size, from, err := conn.ReadFrom(buf)
			if err != nil {
				return // closed
			}
			var q dnsmessage.Message
			if q.Unpack(buf[:size]) != nil || len(q.Questions) != 1 {
				continue
			}
			a := dnsmessage.Message{Header: dnsmessage.Header{ID: q.ID, Response: true, Authoritative: true, RecursionAvailable: true}, Questions: q.Questions}
			ip, ok := w.names[q.Questions[0].Name.String()]
			switch {
			case !ok:
				a.RCode = dnsmessage.RCodeNameError
			case q.Questions[0].Type == dnsmessage.TypeA:
				a.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
					Body:   &dnsmessage.AResource{A: netip.MustParseAddr(ip).As4()},
				}}
			}
			if raw, err := a.Pack(); err == nil {
				_, _ = conn.WriteTo(raw, from) // whoever asked may be gone
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
}

// certificate gives a server's configuration for names, and puts its authority into the world.
func (w *world) certificate(t *testing.T, names ...string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour * 24),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, DNSNames: names,
	}, &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	w.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key}}}
}

// instance sets the metadata of an instance of a stack, as topology has them in its template, and builds its agent.
func (w *world) instance(t *testing.T, change func(*dify.Settings)) {
	t.Helper()
	dir := t.TempDir()
	if err := cloud.Build(dir, "difyup-agent"); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "difyup-agent"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	spec, err := config.Parse("difyup.yaml", []byte("stack: demo\nproject: demo-project\nregion: asia-northeast1\ndify:\n  registry: standin.example.com\n"))
	if err != nil {
		t.Fatal(err)
	}
	g, err := topology.Build(spec, topology.Agent{Path: "agent", SHA256: hex.EncodeToString(sum[:]), Runtime: "compose"})
	if err != nil {
		t.Fatal(err)
	}
	var template struct {
		Properties struct {
			Metadata struct{ Items []struct{ Key, Value string } }
		}
	}
	for _, r := range g.Resources() {
		if r.Kind.Name == "compute.instanceTemplates" {
			raw, err := json.Marshal(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(raw, &template); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agent = raw
	for _, item := range template.Properties.Metadata.Items {
		w.items[item.Key] = item.Value
	}
	var settings dify.Settings
	if err := json.Unmarshal([]byte(w.items["difyup-config"]), &settings); err != nil {
		t.Fatal(err)
	}
	change(&settings)
	changed, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	w.items["difyup-config"] = string(changed)
}

// packages makes Ubuntu's archive: packages with Ubuntu's names, which give what this machine has.
func (w *world) packages(t *testing.T) {
	t.Helper()
	dockerd, err := exec.LookPath("dockerd")
	if err != nil {
		t.Fatal(err)
	}
	var index bytes.Buffer
	for _, p := range []struct {
		name, depends, path, content, postinst string
		mode                                   os.FileMode
	}{
		{name: "containerd", path: "usr/share/doc/containerd/test", mode: 0o644},
		{name: "runc", path: "usr/share/doc/runc/test", mode: 0o644},
		{
			name: "docker.io", mode: 0o644, depends: "containerd, runc", path: "lib/systemd/system/docker.service",
			content: "[Unit]\nDescription=Docker Application Container Engine\nAfter=network-online.target\nWants=network-online.target\n\n" +
				"[Service]\nType=notify\nExecStart=" + dockerd + " -H unix:///run/docker.sock\nDelegate=yes\nKillMode=process\nRestart=on-failure\n\n[Install]\nWantedBy=multi-user.target\n",
			postinst: "systemctl daemon-reload\nsystemctl enable docker.service\nsystemctl start docker.service\n",
		},
		{name: "docker-compose-v2", depends: "docker.io", path: "usr/libexec/docker/cli-plugins/docker-compose", content: "#!/bin/sh\nexec " + engine.Plugin() + "/docker-compose \"$@\"\n", mode: 0o755},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, p.path)
		control := fmt.Sprintf("Package: %s\nVersion: 99.0-0ubuntu1\nArchitecture: all\nMaintainer: test <test@example.com>\nDescription: test\n", p.name)
		if p.depends != "" {
			control += "Depends: " + p.depends + "\n"
		}
		err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.MkdirAll(filepath.Join(dir, "DEBIAN"), 0o755), os.WriteFile(file, []byte(p.content), p.mode),
			os.WriteFile(filepath.Join(dir, "DEBIAN/control"), []byte(control), 0o644), os.Chmod(dir, 0o755))
		if p.postinst != "" {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, "DEBIAN/postinst"), []byte("#!/bin/sh\nset -e\n"+p.postinst), 0o755))
		}
		if err != nil {
			t.Fatal(err)
		}
		deb := filepath.Join(w.archive, p.name+".deb")
		if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--root-owner-group", "--build", dir, deb).CombinedOutput(); err != nil {
			t.Fatalf("dpkg-deb: %v: %s", err, out)
		}
		raw, err := os.ReadFile(deb)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(raw)
		fmt.Fprintf(&index, "%sFilename: ./%s.deb\nSize: %d\nSHA256: %x\n\n", control, p.name, len(raw), sum)
	}
	if err := os.WriteFile(filepath.Join(w.archive, "Packages"), index.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// machine gives a machine that has Debian's cloud-init, told where it is.
func (w *world) machine(t *testing.T) *boot.Machine {
	t.Helper()
	authorities, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		t.Fatal(err)
	}
	file := func(path, text string) boot.File { return boot.File{Path: path, Mode: 0o644, Content: []byte(text)} }
	m, err := boot.New(w.n,
		file("/etc/ssl/certs/ca-certificates.crt", string(authorities)+string(w.ca)),
		file("/etc/apt/sources.list", "deb [trusted=yes] http://archive.ubuntu.test/ ./\n"),
		file("/etc/cloud/cloud.cfg.d/99-test.cfg", "datasource_list: [GCE]\nnetwork: {config: disabled}\napt: {preserve_sources_list: true}\nlocale: false\nresize_rootfs: false\n"),
		file("/etc/hosts", "127.0.0.1 localhost\n"),
		file("/etc/resolv.conf", "nameserver "+metadataAt+"\n"),
		file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the console:\n%s", m.Console.String())
		}
	})
	return m
}

const patience = 100 * time.Second

// until waits until a condition holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	end := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(end) {
			t.Fatalf("%s: not after %s", what, patience)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestBoot is an instance's first boot: cloud-init's own stages with the user data of the template, from a metadata server at its
// real address.
func TestBoot(t *testing.T) {
	boot.Need(t)
	w := newWorld(t)
	w.instance(t, func(*dify.Settings) {})
	w.packages(t)
	w.refusals = 3
	m := w.machine(t)
	if err := m.Boot(); err != nil {
		t.Fatal(err)
	}
	says := func(words string) {
		t.Helper()
		until(t, "the console says "+words, func() bool { return strings.Contains(m.Console.String(), words) })
	}
	says("waiting for Docker: the package archive is not reached")
	w.serve(t, archiveAt+":80", http.FileServer(http.Dir(w.archive)), nil)
	says("is installed and held")
	says("may not be read yet (403)")
	says("the metadata are read")
	until(t, "a report", func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.reports) > 0 })
}
