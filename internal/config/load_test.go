package config_test

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/fault"
)

var update = flag.Bool("update", false, "rewrite the expected faults in testdata/faults")

// Every archive in testdata/faults holds a file and all that is wrong with it.
func TestFaults(t *testing.T) {
	paths, err := filepath.Glob("testdata/faults/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(archive.Files) != 2 || archive.Files[0].Name != "difyup.yaml" || archive.Files[1].Name != "faults" {
				t.Fatalf("%s: want difyup.yaml and faults", path)
			}
			_, err = config.Parse("difyup.yaml", archive.Files[0].Data)
			got := show(err)
			if *update {
				archive.Files[1].Data = []byte(got)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(archive.Files[1].Data), got); d != "" {
				t.Errorf("faults (-want +got):\n%s\nIf this is what it should say: go test ./internal/config -update", d)
			}
		})
	}
}

// show prints faults with all their parts.
func show(err error) string {
	var b strings.Builder
	for _, f := range fault.All(err) {
		fmt.Fprintf(&b, "%s\n", f.Summary)
		if f.At.Text != "" {
			fmt.Fprintf(&b, "  %s\n    %s\n", f.At, f.At.Text)
			if f.At.Column > 0 {
				fmt.Fprintf(&b, "    %s^\n", strings.Repeat(" ", f.At.Column-1))
			}
		} else {
			fmt.Fprintf(&b, "  %s\n", f.At)
		}
		fmt.Fprintf(&b, "  %s\n", f.Detail)
		for line := range strings.SplitSeq(f.Remedy, "\n") {
			fmt.Fprintf(&b, "  > %s\n", line)
		}
		b.WriteString("\n")
	}
	if b.Len() == 0 && err != nil {
		return err.Error() + "\n"
	}
	return b.String()
}

func TestSummariesHoldNoUserData(t *testing.T) {
	seen := map[string]bool{}
	paths, err := filepath.Glob("testdata/faults/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = config.Parse("difyup.yaml", archive.Files[0].Data)
		for _, f := range fault.All(err) {
			seen[f.Summary] = true
			if strings.ContainsAny(f.Summary, "`\"\n") || strings.HasSuffix(f.Summary, ".") || f.Detail == "" || f.Remedy == "" || f.At.File == "" {
				t.Errorf("%s: not a whole fault: %+v", path, f)
			}
		}
	}
	if len(seen) < 30 {
		t.Errorf("the cases show %d kinds of faults only", len(seen))
	}
}

func TestLoadFileFaults(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.yaml")
	if err := os.WriteFile(large, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	utf16 := filepath.Join(dir, "utf16.yaml")
	if err := os.WriteFile(utf16, []byte("\xff\xfes\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	latin := filepath.Join(dir, "latin.yaml")
	if err := os.WriteFile(latin, []byte("stack: demo\nproject: caf\xe9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ path, summary, remedy string }{
		{filepath.Join(dir, "none.yaml"), "No configuration file", "cp examples/difyup.yaml ."},
		{dir, "Configuration is a directory", "-f " + filepath.Join(dir, "difyup.yaml")},
		{large, "Configuration is too large", "-f"},
		{utf16, "Configuration is not UTF-8", "iconv"},
		{latin, "Configuration is not UTF-8", "UTF-8"},
	} {
		_, err := config.Load(t.Context(), tc.path)
		all := fault.All(err)
		if len(all) != 1 || all[0].Summary != tc.summary || !strings.Contains(all[0].Remedy, tc.remedy) {
			t.Errorf("%s: got %v", tc.path, err)
		}
	}
	if _, err := config.Load(t.Context(), filepath.Join(dir, "none.yaml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cause is lost: %v", err)
	}
	if _, err := config.Load(t.Context(), latin); fault.All(err)[0].At.String() != latin+":2:13" {
		t.Errorf("place: %v", err)
	}
}

const minimal = "stack: demo\nproject: demo-project\nregion: asia-northeast1\n"

func TestDefaults(t *testing.T) {
	got, err := config.Parse("difyup.yaml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	sql := config.SQL{
		Version: 16, Edition: "enterprise", Tier: "db-custom-2-8192", DiskGB: 20, MaxConnections: 2000, TLS: "required", DeletionProtection: true,
		Backups: config.Backups{Enabled: true, StartTime: "18:00", Retained: 7, PointInTimeRecovery: true, LogDays: 7},
	}
	want := &config.Spec{
		Stack: "demo", Project: "demo-project", Region: "asia-northeast1",
		Dify:         config.Dify{Version: "1.17.1", APIWorkers: 2, APIConnections: 100, APIDatabaseConnections: 80, WorkerConcurrency: 8, PrivateServices: []string{}, ProxiedServices: []string{}},
		Network:      config.Network{CIDR: "10.10.0.0/20", ServicesCIDR: "10.64.0.0/16", SSHRanges: []string{}, IAPSSH: true},
		LoadBalancer: config.LoadBalancer{Certificate: "self-signed", HTTPRedirect: true, TLSProfile: "modern", MinTLS: "1.2", TimeoutSeconds: 3600, DrainSeconds: 60, AccessLogs: true},
		Compute: config.Compute{
			MachineType: "e2-standard-4", DiskGB: 50, DiskType: "pd-balanced", Zones: []string{"asia-northeast1-a", "asia-northeast1-b", "asia-northeast1-c"},
			Min: 2, Max: 4, CPUTarget: 0.6, CooldownSeconds: 300, MaxSurge: 3, HealingDelaySeconds: 1800,
		},
		Database: config.Database{SQL: sql}, Vector: config.Vector{SQL: sql},
		Redis: config.Redis{MemoryGB: 1, Version: "7.2", Auth: true, Persistence: "none", MaxmemoryPolicy: "noeviction"},
		Storage: config.Storage{
			Bucket: "demo-project-demo-files", Location: "asia-northeast1", Versioning: true, SoftDeleteDays: 7,
			Lifecycle: []config.LifecycleRule{{Action: "delete", NoncurrentDays: 30, Prefixes: []string{}}, {Action: "abort-uploads", AgeDays: 7, Prefixes: []string{}}},
		},
	}
	if d := cmp.Diff(want, got, cmp.FilterPath(func(p cmp.Path) bool {
		last := p.Last().String()
		return last == ".places" || last == ".file"
	}, cmp.Ignore())); d != "" {
		t.Errorf("spec (-want +got):\n%s", d)
	}
}

func TestDerived(t *testing.T) {
	for _, tc := range []struct {
		name, yaml string
		get        func(s *config.Spec) any
		want       any
	}{
		{"certificate with a domain", "domain: dify.example.com\n", func(s *config.Spec) any { return s.LoadBalancer.Certificate }, "managed"},
		{"certificate as set", "domain: dify.example.com\nload_balancer: {certificate: self-signed}\n", func(s *config.Spec) any { return s.LoadBalancer.Certificate }, "self-signed"},
		{"cors for the domain", "domain: dify.example.com\n", func(s *config.Spec) any { return s.Storage.CORS },
			[]config.CORS{{Origins: []string{"https://dify.example.com"}, Methods: []string{"GET", "HEAD"}, Headers: []string{"Content-Type"}, MaxAgeSeconds: 3600}}},
		{"no cors if so set", "domain: dify.example.com\nstorage: {cors: []}\n", func(s *config.Spec) any { return len(s.Storage.CORS) }, 0},
		{"defaults of an entry", "storage: {cors: [{origins: ['*']}]}\n", func(s *config.Spec) any { return s.Storage.CORS },
			[]config.CORS{{Origins: []string{"*"}, Methods: []string{"GET", "HEAD"}, Headers: []string{"Content-Type"}, MaxAgeSeconds: 3600}}},
		{"no lifecycle if so set", "storage: {lifecycle: []}\n", func(s *config.Spec) any { return len(s.Storage.Lifecycle) }, 0},
		{"surge follows the zones", "compute: {zones: [asia-northeast1-b]}\n", func(s *config.Spec) any { return s.Compute.MaxSurge }, 1},
		{"surge as set", "compute: {max_surge: 0, max_unavailable: 3}\n", func(s *config.Spec) any { return s.Compute.MaxSurge }, 0},
		{"version keeps its text", "redis: {version: 7.0}\n", func(s *config.Spec) any { return s.Redis.Version }, "7.0"},
		{"a text may look like a number", "vector: {flags: {build: 1.10, since: 2026-01-01}}\n", func(s *config.Spec) any { return s.Vector.Flags }, map[string]string{"build": "1.10", "since": "2026-01-01"}},
		{"byte order mark and CRLF", "domain: dify.example.com\r\n", func(s *config.Spec) any { return s.Domain }, "dify.example.com"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, err := config.Parse("difyup.yaml", []byte("\xef\xbb\xbf"+minimal+tc.yaml))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, tc.get(s)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	s, err := config.Parse("difyup.yaml", []byte("stack: demo\nproject: demo-project\nregion: us-east1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"us-east1-b", "us-east1-c", "us-east1-d"}, s.Compute.Zones); d != "" {
		t.Errorf("zones of us-east1 (-want +got):\n%s", d)
	}
}

func TestAt(t *testing.T) {
	s, err := config.Parse("difyup.yaml", []byte(minimal+"compute:\n  zones:\n    - asia-northeast1-a\n    - asia-northeast1-b\n"))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"stack": "difyup.yaml:1:8", "compute": "difyup.yaml:4:1", "compute.zones[1]": "difyup.yaml:7:7",
		"compute.zones[7]": "difyup.yaml:5:3", "compute.min": "difyup.yaml:4:1", "redis.version": "difyup.yaml",
	} {
		if got := s.At(path).String(); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	if !s.Has("compute.zones") || s.Has("compute.min") {
		t.Error("Has is wrong")
	}
}

func TestExamples(t *testing.T) {
	paths, err := filepath.Glob("../../examples/*.yaml")
	if err != nil || len(paths) < 2 {
		t.Fatalf("examples: %v, %v", paths, err)
	}
	for _, path := range paths {
		if _, err := config.Load(t.Context(), path); err != nil {
			t.Errorf("%s:\n%s", path, show(err))
		}
	}
}

func FuzzParse(f *testing.F) {
	paths, err := filepath.Glob("testdata/faults/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(archive.Files[0].Data)
	}
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("stack: \xff\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := config.Parse("difyup.yaml", data)
		if (s == nil) == (err == nil) {
			t.Fatalf("a spec and an error, or neither: %v, %v", s, err)
		}
		for _, p := range fault.All(err) {
			if p.Summary == "" || p.Detail == "" || p.Remedy == "" {
				t.Errorf("not a whole fault: %+v", p)
			}
		}
	})
}

// A wrong file of the largest size is refused in a moment.
func TestManyFaults(t *testing.T) {
	var b strings.Builder
	for i := range 40_000 {
		fmt.Fprintf(&b, "wibble_wobble_%d: 1\n", i)
	}
	_, err := config.Parse("difyup.yaml", []byte(b.String()))
	all := fault.All(err)
	if len(all) != 101 || all[100].Summary != "More problems" {
		t.Fatalf("%d faults", len(all))
	}
	if want := "These are the first 100 problems; there are 39903 more."; all[100].Detail != want { // and the three required ones
		t.Errorf("got %s, want %s", all[100].Detail, want)
	}
	if _, err := config.Parse("difyup.yaml", []byte(strings.Repeat("a:\n  - b\n c\n", 60_000))); len(fault.All(err)) != 1 {
		t.Errorf("got %v", err)
	}
}

func BenchmarkParse(b *testing.B) {
	data, err := os.ReadFile("../../examples/production.yaml")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := config.Parse("difyup.yaml", data); err != nil {
			b.Fatal(err)
		}
	}
}
