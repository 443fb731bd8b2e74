package boot_test

import (
	"bytes"
	"context"
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
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	"github.com/difyup/difyup/internal/test/servers"
	"github.com/difyup/difyup/internal/topology"
)

// Addresses: the machine's own, and those of what it finds in the VPC and on the internet.
const (
	metadataAt = "169.254.169.254"
	mainAt     = "10.65.0.6"    // the database
	vectorAt   = "10.65.0.7"    // and the other
	googleAt   = "93.184.215.8" // storage.googleapis.com and all others
	archiveAt  = "93.184.215.9" // Ubuntu's
	machineAt  = "10.64.0.7"
)

// secretValue is what every secret has in it.
const secretValue = "S3cretOfTheTest"

// google is what an instance sees of Google, and of Ubuntu.
type google struct {
	mu       sync.Mutex
	items    map[string]string // the instance's metadata
	agent    []byte
	refusals int             // of the bucket, while rights spread
	half     chan<- struct{} // is told when half of the agent was sent, after which nothing comes
	fetched  int             // how often the agent was sent whole
	closed   bool            // nobody may read a secret
	objects  map[string]string
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
		"instance/service-accounts/default/email": "demo-vm@demo-project.iam.gserviceaccount.com",
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
	if r.Host == "sts.googleapis.com" && r.URL.Path == "/v1/token" && r.FormValue("subject_token") == "token-1" {
		io.WriteString(w, `{"access_token":"narrowed","expires_in":3600,"token_type":"Bearer"}`)
		return
	}
	// Containers have the narrowed token alone.
	if bearer := r.Header.Get("Authorization"); bearer != "Bearer token-1" && (bearer != "Bearer narrowed" || !strings.Contains(r.URL.Path, "/storage/v1/b/demo-project-demo-files")) {
		http.Error(w, "no token", http.StatusUnauthorized)
		return
	}
	switch {
	case r.Host == "secretmanager.googleapis.com" && g.closed:
		http.Error(w, "Permission denied", http.StatusForbidden)
	case r.Host == "secretmanager.googleapis.com":
		value := secretValue
		if strings.Contains(r.URL.Path, "/registry-login/") {
			value = "user:" + secretValue
		}
		fmt.Fprintf(w, `{"payload":{"data":%q}}`, base64.StdEncoding.EncodeToString([]byte(value)))
	case r.Host == "storage.googleapis.com" && "gs://"+strings.Replace(strings.TrimPrefix(r.URL.Path, "/storage/v1/b/"), "/o/", "/", 1) == g.items["difyup-agent"]:
		if g.refusals > 0 {
			g.refusals--
			http.Error(w, "Permission denied", http.StatusForbidden)
			return
		}
		if half := g.half; half != nil {
			g.half = nil
			w.Header().Set("Content-Length", fmt.Sprint(len(g.agent)))
			w.Write(g.agent[:len(g.agent)/2])
			_ = http.NewResponseController(w).Flush() // whoever asked may be gone
			g.mu.Unlock()
			half <- struct{}{}
			<-r.Context().Done()
			g.mu.Lock()
			return
		}
		g.fetched++
		w.Write(g.agent)
	default:
		g.files(w, r)
	}
}

// files is the bucket of Dify's files.
func (g *google) files(w http.ResponseWriter, r *http.Request) {
	const root = "/storage/v1/b/demo-project-demo-files"
	name := strings.TrimPrefix(r.URL.Path, root+"/o/")
	switch {
	case r.URL.Path == root:
		io.WriteString(w, `{"name":"demo-project-demo-files"}`)
	case r.URL.Path == root+"/o":
		io.WriteString(w, `{}`)
	case r.Method == http.MethodPost && r.URL.Path == "/upload"+root+"/o":
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		g.objects[r.URL.Query().Get("name")] = string(raw)
		io.WriteString(w, `{"generation":"1"}`)
	case g.objects[name] == "":
		http.NotFound(w, r)
	case r.Method == http.MethodDelete:
		delete(g.objects, name)
	default:
		io.WriteString(w, g.objects[name])
	}
}

// world is the network of a machine with what answers in it.
type world struct {
	*google
	n       *engine.Namespace // the machine's
	outside *engine.Namespace // where all else is
	names   map[string]string // for the name server, with the dot at the end
	ca      []byte
	archive string // the directory of the package archive
}

func newWorld(t *testing.T) *world {
	t.Helper()
	n, err := engine.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	outside, err := engine.NewNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outside.Close() })
	if err := errors.Join(n.Join(outside, machineAt+"/24", "10.64.0.1/24"), outside.Up("lo", metadataAt+"/32", googleAt+"/32", archiveAt+"/32", mainAt+"/32", vectorAt+"/32")); err != nil {
		t.Fatal(err)
	}
	w := &world{google: &google{objects: map[string]string{}, items: map[string]string{}}, n: n, outside: outside, archive: t.TempDir(), names: map[string]string{
		"metadata.google.internal.": metadataAt, "storage.googleapis.com.": googleAt, "sts.googleapis.com.": googleAt, "secretmanager.googleapis.com.": googleAt, "archive.ubuntu.test.": archiveAt,
		"db.demo.internal.": mainAt, "redis.demo.internal.": mainAt, "vector.demo.internal.": vectorAt, "edge.demo.internal.": "203.0.113.7",
	}}
	w.serve(t, googleAt+":8080", w.google, nil)
	w.serve(t, metadataAt+":80", http.HandlerFunc(w.metadata), nil)
	w.serve(t, googleAt+":443", w.google, w.certificate(t, "storage.googleapis.com", "secretmanager.googleapis.com", "sts.googleapis.com"))
	w.nameServer(t)
	return w
}

// serve has a handler answer at an address outside until the function that it gives is called.
func (w *world) serve(t *testing.T, at string, h http.Handler, config *tls.Config) (stop func()) {
	t.Helper()
	l, err := w.outside.Listen(at)
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
	conn, err := w.outside.ListenPacket(metadataAt + ":53")
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
	g, err := topology.Build(spec, topology.Agent{Path: "agent", SHA256: hex.EncodeToString(sum[:]), Runtime: "compose"}, topology.Given{})
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

// stores starts the databases and Redis, and has them answer where the machine finds them.
func (w *world) stores(t *testing.T) {
	t.Helper()
	data := servers.Open(t)
	at := map[string]string{}
	sql := data.SQL
	for instance, address := range map[string]string{"p/main": mainAt, "p/vector": vectorAt} {
		real, err := sql.Create(t.Context(), instance, nil)
		if err == nil {
			err = sql.SetUser(t.Context(), instance, "dify", secretValue)
		}
		for _, name := range []string{"dify", "dify_plugin"} {
			if err == nil {
				err = sql.CreateDatabase(t.Context(), instance, name)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		at[address+":5432"] = netip.AddrPortFrom(real, 5432).String()
	}
	redis, err := data.Cache.Create(t.Context(), "p/redis", secretValue, nil)
	if err != nil {
		t.Fatal(err)
	}
	at[mainAt+":6379"] = netip.AddrPortFrom(redis, 6379).String()
	for from, to := range at {
		l, err := w.outside.Listen(from)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(engine.Relay(l, func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", to) }))
	}
}

// images puts images of the stand-in's on the machine, under the names of a mirror that there is not.
func (w *world) images(t *testing.T, m *boot.Machine) {
	t.Helper()
	w.mu.Lock()
	var settings dify.Settings
	err := json.Unmarshal([]byte(w.items["difyup-config"]), &settings)
	w.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	release, err := dify.Lookup(settings.DifyVersion)
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{}
	for _, p := range dify.Purposes() {
		secrets[p.Key] = secretValue
	}
	services, err := dify.Project(release, settings, secrets)
	if err != nil {
		t.Fatal(err)
	}
	refs := map[string]string{}
	for _, s := range services {
		refs[s.Image] = string(s.Name)
		if s.Name == dify.API || s.Name == dify.Worker || s.Name == dify.WorkerBeat { // are one image
			refs[s.Image] = ""
		}
	}
	docker := func(ctx context.Context, stdin []byte, args ...string) (string, error) {
		return m.Run(ctx, stdin, "env", append([]string{"DOCKER_BUILDKIT=0", "docker"}, args...)...)
	}
	if err := engine.Images(t.Context(), docker, t.TempDir(), settings.DifyVersion, refs); err != nil {
		t.Fatal(err)
	}
}

// patience is how long a test waits for what it must see, on a busy machine.
const patience = 4 * time.Minute

// until waits until a condition holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not after %s", what, patience)
		}
	}
}

// says waits until the console says something that it did not say before; from is how much it had said, and the result how much
// it has now.
func says(t *testing.T, m *boot.Machine, from int, words string) int {
	t.Helper()
	until(t, "the console says "+words, func() bool { return strings.Contains(m.Console.String()[from:], words) })
	return len(m.Console.String())
}

// health gives the status of the front door's /health, 0 if there is none.
func (w *world) health() int {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: w.n.Dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://" + machineAt + ":1080/health")
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// TestBoot is an instance's first boot, with the user data of the template from a metadata server at its real address:
// cloud-init's own stages, then Docker, which comes when the archive can be reached, the agent, which comes when its bucket may
// be read, and Dify's containers, until the front door serves. Then it starts once more, with nobody to fetch anything from.
func TestBoot(t *testing.T) {
	boot.Need(t)
	w := newWorld(t)
	w.stores(t)
	w.instance(t, func(s *dify.Settings) {
		bucket := map[string]string{"STORAGE_EMULATOR_HOST": "http://" + googleAt + ":8080"} // no certificates are in the stand-in's images
		s.Machine = dify.Machine{CPUs: 2, MemoryMiB: 8192}                                   // no container may have more processors than there are
		s.Environment = map[dify.Name]map[string]string{dify.API: bucket, dify.Worker: bucket, dify.PluginDaemon: bucket}
		s.RegistryCredentials = map[string]dify.SecretVersion{"standin.example.com": {Name: "registry-login", Version: 1}}
	})
	w.packages(t)
	w.refusals = 2
	m := w.machine(t)
	if err := m.Boot(); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := m.Run(t.Context(), nil, name, args...)
		if err != nil {
			t.Error(err)
		}
		return out
	}
	says(t, m, 0, "waiting for Docker: the package archive is not reached: ")
	closeArchive := w.serve(t, archiveAt+":80", http.FileServer(http.Dir(w.archive)), nil)
	says(t, m, 0, "is installed and held")
	says(t, m, 0, "may not be read yet (403): rights take up to 7 minutes to work")
	says(t, m, 0, "the metadata are read")
	says(t, m, 0, "lookup standin.example.com") // it logged in to pull from there
	w.images(t, m)
	until(t, "the front door serves", func() bool { return w.health() == http.StatusOK })
	until(t, "the instance says that it serves", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.reports) > 0 && w.reports[len(w.reports)-1].Phase == report.Serves
	})

	// The agent may set up what containers may reach, and has; the machine itself reaches the metadata server as ever.
	if got := run("nft", "list", "set", "inet", "difyup", "stores"); !strings.Contains(got, "198.18.240.130 . "+mainAt+" . 5432") {
		t.Errorf("containers may reach these stores:\n%s", got)
	}

	if got := run("stat", "--format", "%a", "/run/difyup"); got != "700\n" {
		t.Errorf("there is no place for passwords: %s", got)
	}
	if got := run("cat", "/etc/systemd/resolved.conf.d/difyup.conf"); !strings.Contains(got, "Cache=no-negative") {
		t.Errorf("names that were not there are remembered: %s", got)
	}
	// Containers get their identity from the agent, which as systemd has it run must be able to give it.
	for service, want := range map[string]string{"api": "token", "worker": "token", "plugin_daemon": "token", "worker_beat": "email"} {
		container := "dify-" + service + "-1"
		var host string
		for _, v := range strings.Fields(run("docker", "inspect", "--format", "{{range .Config.Env}}{{println .}}{{end}}", container)) {
			if at, ok := strings.CutPrefix(v, "GCE_METADATA_HOST="); ok {
				host = at
			}
		}
		pid := strings.TrimSpace(run("docker", "inspect", "--format", "{{.State.Pid}}", container))
		got := run("nsenter", "--net", "--target", pid, "curl", "-fsS", "--max-time", "10", "-H", "Metadata-Flavor: Google", "http://"+host+"/computeMetadata/v1/instance/service-accounts/default/"+want)
		if want == "token" && !strings.Contains(got, `"narrowed"`) || want == "email" && got != "demo-vm@demo-project.iam.gserviceaccount.com" {
			t.Errorf("%s asks %q for its %s, and gets %q", service, host, want, got)
		}
	}

	var result struct {
		V1 struct {
			Datasource string
			Errors     []string
		}
	}
	if err := json.Unmarshal([]byte(run("cat", "/run/cloud-init/result.json")), &result); err != nil || result.V1.Datasource != "DataSourceGCE" || len(result.V1.Errors) > 0 {
		t.Errorf("cloud-init: %+v, %v", result, err)
	}
	if got := strings.Fields(run("apt-mark", "showhold")); !slices.Equal(got, []string{"containerd", "docker-compose-v2", "docker.io", "runc"}) {
		t.Errorf("held are %v", got)
	}
	if got := run("apt-config", "dump", "Unattended-Upgrade::Package-Blacklist"); strings.Count(got, `$"`) != 4 {
		t.Errorf("unattended upgrades spare %s", got)
	}
	if got := run("docker", "info", "--format", "{{.LiveRestoreEnabled}} {{.LoggingDriver}}"); got != "true local\n" {
		t.Errorf("Docker's settings: %s", got)
	}
	if got := run("systemctl", "show", "--property", "CPUWeight", "--value", "docker.service"); got != "20\n" {
		t.Errorf("Docker's weight of the processor is %s", got)
	}
	if got := run("sh", "-c", `tr '\0' '\n' </proc/$(systemctl show --property MainPID --value docker.service)/environ`); !strings.Contains(got, "GOMAXPROCS=8\n") {
		t.Errorf("Docker's environment is\n%s", got)
	}
	for _, id := range strings.Fields(run("docker", "ps", "--quiet")) {
		pid := strings.TrimSpace(run("docker", "inspect", "--format", "{{.State.Pid}}", id))
		if got := run("cat", "/proc/"+pid+"/cgroup"); strings.Contains(got, "docker.service") {
			t.Errorf("a container is among Docker's own processes:\n%s", got)
		}
	}
	for _, id := range strings.Fields(run("docker", "network", "ls", "--quiet", "--filter", "driver=bridge")) {
		if got := run("docker", "network", "inspect", "--format", `{{.Name}} {{index .Options "com.docker.network.driver.mtu"}}`, id); !strings.HasSuffix(got, " 1460\n") {
			t.Errorf("a network and its MTU: %s", got)
		}
	}
	if got := run("systemctl", "--failed", "--plain", "--no-legend"); got != "" {
		t.Errorf("units that failed: %s", got)
	}
	// What it took to boot is given back.
	kib := 0
	until(t, "the agent takes no more than 40 MiB", func() bool {
		got := run("sh", "-c", `awk '/^VmRSS:/ { print $2 }' /proc/$(systemctl show --property MainPID --value difyup-agent)/status`)
		if _, err := fmt.Sscan(got, &kib); err != nil {
			t.Fatalf("the agent's memory: %v: %s", err, got)
		}
		return kib <= 40<<10
	})
	t.Logf("the agent takes %.1f MiB, with %d containers", float64(kib)/1024, len(strings.Fields(run("docker", "ps", "--quiet"))))

	closeArchive()
	w.mu.Lock()
	fetched := w.fetched
	w.mu.Unlock()
	from := len(m.Console.String())
	run("systemctl", "--no-block", "reboot")
	select {
	case <-m.Ended():
	case <-time.After(patience):
		t.Fatal("the machine does not go down")
	}
	if got := m.Console.String()[from:]; !strings.Contains(got, "ending: no new requests are wanted") {
		t.Error("the agent was not told to end before the machine went down")
	}
	from = len(m.Console.String())
	if err := m.Boot(); err != nil {
		t.Fatal(err)
	}
	says(t, m, from, "the metadata are read")
	until(t, "the front door serves after the second start", func() bool { return w.health() == http.StatusOK })
	if got := m.Console.String()[from:]; strings.Contains(got, "waiting for Docker") || w.fetched != fetched {
		t.Errorf("it fetched again what it had: the agent %d and %d times", fetched, w.fetched)
	}

	// The engine starts containers by itself that ran when the power was cut: what they may reach is guarded before the agent can know
	// anything.
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	m.Cut()
	if out, err := w.n.Command(t.Context(), "nft", "delete", "table", "inet", "difyup").CombinedOutput(); err != nil { // with the machine's kernel
		t.Fatalf("%v: %s", err, out)
	}
	from = len(m.Console.String())
	if err := m.Boot(); err != nil {
		t.Fatal(err)
	}
	says(t, m, from, "for=\"the secrets\"")
	t.Logf("the engine started %d containers by itself", len(strings.Fields(run("docker", "ps", "--quiet"))))
	run("nft", "list", "table", "inet", "difyup")
	w.mu.Lock()
	w.closed = false
	w.mu.Unlock()
	until(t, "the front door serves after the power was cut", func() bool { return w.health() == http.StatusOK })
	if strings.Contains(m.Console.String(), secretValue) || strings.Contains(m.Console.String(), "token-1") {
		t.Error("the console shows a secret")
	}
}

// TestPowerCut takes the power away from a machine on its first boot, at several points, and starts it again.
func TestPowerCut(t *testing.T) {
	boot.Need(t)
	w := newWorld(t)
	w.instance(t, func(*dify.Settings) {})
	w.packages(t)
	m := w.machine(t)
	half := make(chan struct{}, 1)
	w.half = half
	cut := func(what string) {
		t.Helper()
		t.Log("cut off", what)
		m.Cut()
	}
	start := func() int {
		t.Helper()
		from := len(m.Console.String())
		if err := m.Boot(); err != nil {
			t.Fatal(err)
		}
		return from
	}
	says(t, m, start(), "running 'init'")
	// cloud-init takes note of what it has begun, before it does it, and would not do it again.
	const unit = "/etc/systemd/system/difyup-agent.service"
	until(t, "files are written", func() bool {
		_, err := m.Run(t.Context(), nil, "ls", "/var/lib/cloud/instance/sem/config_write_files", unit)
		return err == nil
	})
	// As if this one had not been written yet.
	if _, err := m.Run(t.Context(), nil, "rm", unit); err != nil {
		t.Fatal(err)
	}
	cut("while files are written")
	says(t, m, start(), "waiting for Docker")
	cut("while the archive is not reached")
	from := start()
	says(t, m, from, "waiting for Docker")
	w.serve(t, archiveAt+":80", http.FileServer(http.Dir(w.archive)), nil)
	until(t, "the packages are unpacked", func() bool {
		out, err := m.Run(t.Context(), nil, "dpkg-query", "--show", "--showformat=${db:Status-Status}", "containerd")
		return err == nil && out != "" && out != "not-installed"
	})
	cut("while packages are installed")
	start()
	select {
	case <-half:
	case <-time.After(patience):
		state, err := m.Run(t.Context(), nil, "sh", "-c", "dpkg --list containerd runc docker.io docker-compose-v2; dpkg --configure -a; dpkg --audit")
		t.Fatalf("the agent is not fetched; packages: %v\n%s", err, state)
	}
	cut("while the agent is fetched")
	says(t, m, start(), "the metadata are read")
}
