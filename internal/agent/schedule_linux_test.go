package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/standin"
	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/localcloud/plane"
	"github.com/difyup/difyup/internal/report"
)

// runAgent has the test's program be an agent, until it is told to end.
func runAgent() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	host := os.Getenv("GCE_METADATA_HOST")
	err := Run(ctx, Options{
		MetadataHost: host, Log: slog.New(slog.DiscardHandler),
		Runtimes: map[string]func(Instance) runtime.Runtime{"standin": func(i Instance) runtime.Runtime {
			return standin.NewProcesses(standin.ProcessOptions{
				Program: os.Args[0], Address: i.Address, Instance: i.Name, Version: i.Settings.DifyVersion, Environ: os.Environ(), Output: io.Discard, Log: i.Log,
				Environment: map[string]string{"STORAGE_EMULATOR_HOST": i.Endpoint},
			})
		}},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestSchedulerMoves has two agents that are programs of their own, with the stand-in's beats. The one whose scheduler runs is
// frozen, while its beat goes on; the other takes over; the frozen one wakes, and enqueues nothing. Then the other is killed.
func TestSchedulerMoves(t *testing.T) {
	data, settings := storesOf(t, "standin")
	config, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}

	clouds, agents := map[string]*cloud{}, map[string]*exec.Cmd{}
	for _, name := range []string{"vm-1", "vm-2"} {
		google := &cloud{config: string(config), objects: map[string]string{}}
		if google.ip, err = data.Net.Addr(plane.Instance); err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/computeMetadata/v1/instance/name" {
				io.WriteString(w, name)
				return
			}
			google.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		cmd := exec.Command(self, "agent")
		cmd.Env = append(os.Environ(), "GCE_METADATA_HOST="+server.Listener.Addr().String())
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		clouds[name], agents[name] = google, cmd
		t.Cleanup(func() {
			// Awake, or it could not end.
			_ = errors.Join(cmd.Process.Signal(syscall.SIGCONT), cmd.Process.Signal(syscall.SIGTERM)) // it may have been killed
			_ = cmd.Wait()
		})
	}

	conf, err := stores.PostgresConfig(net.DefaultResolver, settings.Stores.Database.Host, 5432, "dify", secretOf("demo-db-password"), "dify")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.ConnectConfig(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	// polls gives how many tasks of an instance's scheduler were done.
	polls := func(name string) (count int) {
		err := conn.QueryRow(t.Context(), `SELECT polls FROM standin_polls WHERE instance = $1`, name).Scan(&count)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) && !strings.Contains(err.Error(), "42P01") {
			t.Fatal(err)
		}
		return count
	}
	more := func(name string, than int) {
		t.Helper()
		for end := time.Now().Add(3 * time.Minute); polls(name) <= than; time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s has done %d, and not more", name, than)
			}
		}
	}
	here, there := "vm-1", "vm-2"
	for end := time.Now().Add(3 * time.Minute); polls(here) == 0; here, there = there, here {
		if time.Sleep(50 * time.Millisecond); time.Now().After(end) {
			t.Fatal("nothing is scheduled")
		}
	}
	if count := polls(there); count > 0 {
		t.Errorf("both schedule: %s has done %d", there, count)
	}

	if err := agents[here].Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	more(there, 0)
	more(there, polls(there)) // what the frozen one had enqueued before is done: it is one queue
	frozen := polls(here)
	if err := agents[here].Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	more(there, polls(there)+2)
	if count := polls(here); count != frozen {
		t.Errorf("the one that woke has enqueued %d", count-frozen)
	}
	// It says so itself.
	latest := func(name string) string {
		c := clouds[name]
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.reports) == 0 {
			return ""
		}
		d, err := report.Parse(c.reports[len(c.reports)-1])
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(d.Phase, " ", d.Scheduler)
	}
	for end := time.Now().Add(3 * time.Minute); latest(here) != "serves "+there || latest(there) != "serves "+there; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s reports %q, %s %q", here, latest(here), there, latest(there))
		}
	}

	if err := agents[there].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	more(here, frozen)
}
