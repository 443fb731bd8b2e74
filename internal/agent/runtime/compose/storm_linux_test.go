package compose_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/agent/frontdoor"
	"github.com/difyup/difyup/internal/agent/logs"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/runtime/compose"
	"github.com/difyup/difyup/internal/dify"
)

var storms = flag.Int("storms", 1, "how many storms TestStorm has read, one after the other, and calm before each")

// TestStorm has a container write 50 MB a second for six seconds. Requests to another one go on being answered; of what is handed over,
// what is too much is left out, and every line is sent or counted; neither the engine's files nor the spool grow beyond what they may.
// How much slower requests are, lookups of names, and commands in containers, is printed, as the machine may be doing other things.
func TestStorm(t *testing.T) {
	e, all, _, _ := world(t)
	ctx, cancel := patience(t)
	defer cancel()
	if group, err := e.Yield(); err != nil {
		t.Fatal(err)
	} else if group == "" {
		t.Log("no controller of the processor's can be had: the engine does not yield, as it does on an instance")
	}
	var log lockedBuffer
	spool := t.TempDir()
	book, err := logs.Open(logs.Options{Dir: spool, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	var (
		mu         sync.Mutex
		came, left int // lines that are sent, and that are told to be left out
	)
	told := regexp.MustCompile(`(\d+) lines of worker were left out`)
	shipping, stop := context.WithCancel(ctx)
	var shipper sync.WaitGroup
	defer shipper.Wait()
	defer stop()
	shipper.Go(func() {
		book.Run(shipping, func(_ context.Context, batch logs.Batch) error {
			mu.Lock()
			defer mu.Unlock()
			came += strings.Count(string(batch.Entries), stormLine)
			if !bytes.Contains(batch.Entries, []byte("were left out")) {
				return nil
			}
			for _, m := range told.FindAllSubmatch(batch.Entries, -1) {
				n, err := strconv.Atoi(string(m[1]))
				if err != nil {
					t.Error(err)
				}
				left += n
			}
			return nil
		})
	})
	given := &handed{Lines: book}
	r := compose.New(compose.Options{
		Dir: filepath.Join(t.TempDir(), "compose"), Project: "dify", Environ: e.Environ, Pull: "never", Look: time.Second, Dial: e.Dial,
		Lines: given, Nft: nft(e), Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	identify(t, e, r)
	if err := r.Prepare(ctx, all); err != nil {
		t.Fatal(err)
	}
	for _, m := range dify.Migrations(all) {
		if got, err := r.Job(ctx, runtime.Job{Service: m.Service, Command: m.Command, Environment: m.Environment}); err != nil || got.Status != 0 {
			t.Fatalf("the migration of %s ended with %+v, %v", m.Service.Name, got, err)
		}
	}
	defer running(ctx, t, r, all, &log)()
	door, err := frontdoor.Open(netip.MustParseAddrPort("127.0.0.1:0"), frontdoor.Options{Instance: "vm-1", Log: slog.New(slog.DiscardHandler), Backend: relayed(t, e, r)})
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close(ctx)
	door.Ready()
	client := &http.Client{Timeout: time.Minute}
	defer client.CloseIdleConnections()
	// ask sends one request after the other until it is told to stop, and gives how long they took, the shortest first.
	ask := func(until <-chan struct{}) (took []time.Duration) {
		t.Helper()
		for {
			select {
			case <-until:
				slices.Sort(took)
				return took
			case <-time.After(2 * time.Millisecond):
			}
			began := time.Now()
			resp, err := client.Get("http://" + door.Addr().String() + "/console/api/setup")
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("a request is answered with %s, %v", resp.Status, err)
			}
			took = append(took, time.Since(began))
		}
	}
	// while asks for as long as something takes.
	while := func(f func() error) (took []time.Duration) {
		t.Helper()
		over := make(chan struct{})
		var err error
		go func() {
			defer close(over)
			err = f()
		}()
		if took = ask(over); err != nil {
			t.Fatal(err)
		}
		return took
	}
	var worker struct {
		Config     struct{ Image string }
		HostConfig struct {
			LogConfig struct {
				Type   string
				Config map[string]string
			}
			NanoCpus, CPUShares int64
		}
	}
	about, err := e.Docker(ctx, nil, "inspect", "--format", "{{json .}}", "dify-worker-1")
	if err == nil {
		err = json.Unmarshal([]byte(about), &worker)
	}
	if err != nil {
		t.Fatal(err)
	}
	// apart has the same storm, of a container that nobody reads.
	apart := func(name, driver string, options map[string]string) func() error {
		return func() error {
			args := []string{
				"run", "--detach", "--name", name, "--network", "none", "--pull", "never", "--entrypoint", "/bin/storm",
				"--cpus", fmt.Sprint(float64(worker.HostConfig.NanoCpus) / 1e9), "--cpu-shares", fmt.Sprint(worker.HostConfig.CPUShares), "--log-driver", driver,
			}
			for _, key := range slices.Sorted(maps.Keys(options)) {
				args = append(args, "--log-opt", key+"="+options[key])
			}
			if _, err := e.Docker(ctx, nil, append(args, worker.Config.Image, "50", "6")...); err != nil {
				return err
			}
			status, err := e.Docker(ctx, nil, "wait", name)
			if err == nil && strings.TrimSpace(status) != "0" {
				err = fmt.Errorf("the storm of %s ended with %s", name, status)
			}
			return err
		}
	}
	calm := func() error {
		timer := time.NewTimer(5 * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	before := while(calm)
	// What of a slower answer is the writer's and the pipe's, and what is the engine's, which keeps what was written.
	lost := while(apart("lost", "none", nil))
	unread := while(apart("unread", worker.HostConfig.LogConfig.Type, worker.HostConfig.LogConfig.Config))
	count := func() (int, int) {
		mu.Lock()
		defer mu.Unlock()
		return came, left
	}
	// settled waits until for a time nothing has been handed over and nothing has come, and gives what has, and since when.
	settled := func(silence time.Duration) (sent, dropped int, still time.Time) {
		t.Helper()
		earlier := 0
		for still = time.Now(); time.Since(still) < silence; time.Sleep(200 * time.Millisecond) {
			g, _ := given.count()
			if s, d := count(); g != earlier || s != sent || d != dropped {
				earlier, sent, dropped, still = g, s, d, time.Now()
			}
			if ctx.Err() != nil {
				t.Fatal("it does not come to an end")
			}
		}
		return sent, dropped, still
	}
	var during []time.Duration
	written, began := 0, time.Now()
	for i := range max(1, *storms) {
		if i > 0 {
			settled(3 * time.Second)
			before = append(before, while(calm)...)
		}
		during = append(during, while(func() error {
			said, err := e.Docker(ctx, nil, "exec", "dify-worker-1", "storm", "50", "6")
			lines := 0
			if err == nil {
				_, err = fmt.Sscan(said, &lines)
			}
			written += lines
			return err
		})...)
	}
	slices.Sort(before)
	slices.Sort(during)
	at := func(all []time.Duration, part float64) time.Duration {
		return all[int(float64(len(all)-1)*part)].Round(10 * time.Microsecond)
	}
	figures := func(name string, all []time.Duration) {
		var sum time.Duration
		for _, took := range all {
			sum += took
		}
		t.Logf("%d requests %s: median %s, 90 of 100 within %s, 99 within %s, mean %s", len(all), name,
			at(all, .5), at(all, .9), at(all, .99), (sum / time.Duration(len(all))).Round(10*time.Microsecond))
	}
	t.Logf("%d lines, %d MB", written, written/10_000)
	figures("before", before)
	figures("during a storm that nobody keeps", lost)
	figures("during one that nobody reads", unread)
	figures("during the one that is read", during)

	// What is left out is told, and with what came is no more than was written.
	ended := time.Now()
	sent, dropped, still := settled(15 * time.Second) // it is told at most every 10 s, and asked for again after as long
	t.Logf("%d lines came, %d were left out and counted, until %s after the end; the engine kept %d from us", sent, dropped,
		still.Sub(ended).Round(100*time.Millisecond), written-sent-dropped)
	// Lines of the worker's own may be among those that are left out.
	if storm, own := given.count(); sent == 0 || sent+dropped < storm || sent+dropped > storm+own || storm > written+own {
		t.Errorf("%d lines came and %d were counted, of %d and %d others that were handed over, of %d", sent, dropped, storm, own, written)
	}
	// On a machine that does much else the engine hands over less than may be sent, and none is left out.
	const line = 200 // bytes that one of them is counted as, at least
	if most := 8<<20 + int(still.Sub(began).Seconds()*(512<<10)); sent*line > most {
		t.Errorf("%d lines were sent in %s, wants %d at most", sent, still.Sub(began), most/line)
	}
	// What is too much is hardly read: to read a storm costs the machine more than to have it.
	if most := 1000 + 20*int(still.Sub(began).Milliseconds()); dropped > most {
		t.Errorf("%d lines that are left out were read in %s, wants %d at most", dropped, still.Sub(began), most)
	}
	figures("after it", while(calm)) // a machine that others use too is not the same all the time
	if _, err := e.Docker(ctx, nil, "exec", "dify-worker-1", "storm", "1", "1"); err != nil {
		t.Fatal(err)
	}
	for s := sent; s == sent; s, _ = count() {
		if ctx.Err() != nil {
			t.Fatal("after the storm no line comes any more")
		}
		time.Sleep(20 * time.Millisecond)
	}
	size := func(dir string) (sum int64) {
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return nil // it was removed meanwhile
			}
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return sum
	}
	id, err := e.Docker(ctx, nil, "inspect", "--format", "{{.ID}}", "dify-"+string(dify.Worker)+"-1")
	if err != nil {
		t.Fatal(err)
	}
	root, err := e.Docker(ctx, nil, "info", "--format", "{{.DockerRootDir}}")
	if err != nil {
		t.Fatal(err)
	}
	kept := size(filepath.Join(strings.TrimSpace(root), "containers", strings.TrimSpace(id), "local-logs"))
	t.Logf("on disk: %d KiB of the engine's, %d KiB of the spool", kept>>10, size(spool)>>10)
	if kept == 0 || kept > 64<<20 || size(spool) > 65<<20 {
		t.Errorf("on disk are %d bytes of the engine's and %d of the spool", kept, size(spool))
	}

	// What else the engine does for containers: it tells them names that it alone knows, and runs what asks for their health.
	for _, when := range []string{"before a storm", "in a storm"} {
		var storm sync.WaitGroup
		if when == "in a storm" {
			storm.Go(func() {
				if _, err := e.Docker(ctx, nil, "exec", "dify-worker-1", "storm", "50", "5"); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(time.Second)
		}
		said, err := e.Docker(ctx, nil, "exec", "dify-api-1", "try", "names:"+string(dify.Sandbox), "names:"+string(dify.Web))
		if err != nil || strings.Contains(said, "lookup") {
			t.Errorf("names are not found: %s, %v", said, err)
		}
		t.Logf("%s, of one that it is told, and of one that the engine is asked for:\n%s", when, said)
		for range 3 {
			began := time.Now()
			if _, err := e.Docker(ctx, nil, "exec", "dify-web-1", "try"); err != nil {
				t.Error(err)
			}
			t.Logf("%s a command in a container takes %s", when, time.Since(began).Round(time.Millisecond))
		}
		storm.Wait()
	}
}
