//go:build linux

package lifecycle

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/test/need"
)

// impostor listens where a local cloud did, answers as that would, but with a directory of its own, and keeps what it is sent. Where
// root runs the test it is another user's.
type impostor struct {
	mu   sync.Mutex
	got  []string
	sent chan struct{} // has something once anything was sent
}

// impersonate takes the address of a local cloud that was killed.
func impersonate(t *testing.T, was *localcloud.Info) *impostor {
	t.Helper()
	at, err := url.Parse(was.URL)
	if err != nil {
		t.Fatal(err)
	}
	answer := *was
	answer.Dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(answer.Dir, "token"), []byte("the impostor's"), 0o644); err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	for end := time.Now().Add(2 * time.Minute); l == nil; time.Sleep(time.Millisecond) { // the dying one may still have it
		if l, err = listenAsStranger(at.Host); err != nil && (!errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end)) {
			t.Fatal(err)
		}
	}
	i := &impostor{sent: make(chan struct{}, 1)}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // what came counts
		i.mu.Lock()
		i.got = append(i.got, r.Method+" "+r.URL.Path+" "+r.Header.Get("Authorization")+" "+string(body))
		i.mu.Unlock()
		select {
		case i.sent <- struct{}{}:
		default:
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return i
}

// listenAsStranger has the kernel take a listener for another user's, if that may be.
func listenAsStranger(at string) (net.Listener, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if os.Geteuid() == 0 {
		if _, err := unix.SetfsuidRetUid(1_900_000_123); err != nil {
			return nil, err
		}
		defer unix.SetfsuidRetUid(0)
	}
	return net.Listen("tcp4", at)
}

// nothing checks that the impostor was sent nothing.
func (i *impostor) nothing(t *testing.T, by string) {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.got) > 0 {
		t.Errorf("%s sends the impostor\n%s", by, strings.Join(i.got, "\n"))
	}
	i.got = nil
}

// TestImpostor kills a local cloud, and another program takes its address and answers as it did. No command sends that anything or
// believes it.
func TestImpostor(t *testing.T) {
	s := newStack(t)
	s.run("local", "up")
	before := s.info()
	if err := syscall.Kill(before.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	other := impersonate(t, before)
	const down = "The local cloud is not running"
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"local", "status"}, down}, {[]string{"local", "env", "-f", s.file}, down}, {[]string{"local", "fault", "list"}, down},
		{[]string{"status"}, down}, {[]string{"ssh", "demo-vm-0"}, down}, {[]string{"plan"}, "60 to create"}, {[]string{"local", "up"}, s.dir},
	} {
		out, err := s.command(tc.args...).CombinedOutput()
		if !strings.Contains(string(out), tc.want) || (err == nil) != (tc.want != down) {
			t.Errorf("%v: %v\n%s", tc.args, err, out)
		}
		other.nothing(t, strings.Join(tc.args, " "))
	}
	after := s.info()
	if after.PID == before.PID || after.URL == before.URL || after.Dir != s.dir || after.Token == before.Token {
		t.Errorf("what runs now is %+v", after)
	}
	s.run("local", "down")
	other.nothing(t, "local down")

	// One that is ending still holds its directory, when its address is free already.
	need.Root(t, "root alone can play another user")
	defer s.ending(os.Getpid(), before.URL)()
	if info, err := localcloud.Find(t.Context(), s.dir); !errors.Is(err, localcloud.ErrNotRunning) {
		t.Errorf("found %+v, %v", info, err)
	}
	other.nothing(t, "Find")
}

// TestImpostorMeanwhile kills the local cloud while apply waits for it, and another user takes its address: apply sends that nothing,
// and says what has happened.
func TestImpostorMeanwhile(t *testing.T) {
	need.Root(t, "root alone can play another user")
	s := newStack(t)
	s.run("local", "up", "--fresh")
	info := s.info()
	if _, err := info.AddFault(t.Context(), faults.Rule{Name: "hang", Surface: faults.API, Rate: 1, Skip: 50, Faults: []faults.Fault{{What: faults.Hang}}}); err != nil {
		t.Fatal(err)
	}
	apply := s.command("apply", "--yes")
	var out bytes.Buffer
	apply.Stdout, apply.Stderr = &out, &out
	if err := apply.Start(); err != nil {
		t.Fatal(err)
	}
	met := func(f faults.State) bool { return f.Hits > 0 }
	for end := time.Now().Add(5 * time.Minute); ; time.Sleep(time.Millisecond) {
		all, err := info.Faults(t.Context())
		if err != nil || time.Now().After(end) {
			t.Fatalf("apply waits for no answer: %v", err)
		}
		if slices.ContainsFunc(all, met) {
			break
		}
	}
	if err := syscall.Kill(info.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	other := impersonate(t, info)
	ended := make(chan error, 1)
	go func() { ended <- apply.Wait() }()
	var err error
	select {
	case err = <-ended:
	case <-other.sent: // it goes on with whom it believes
		if err := apply.Process.Kill(); err != nil {
			t.Error(err)
		}
		err = <-ended
	}
	other.nothing(t, "apply")
	if err == nil || !strings.Contains(out.String(), "Another user has the local cloud's address") {
		t.Errorf("apply: %v\n%s", err, out.String())
	}
}
