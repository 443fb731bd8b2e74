//go:build linux

package plane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKeeperGivesUp has servers that ended by themselves not start again, and checks that who tries to start them leaves it once
// they are deleted, or restarted by somebody else.
func TestKeeperGivesUp(t *testing.T) {
	dir := t.TempDir() // is removed after the servers have stopped
	n, err := Claim()
	if err != nil {
		t.Fatal(err)
	}
	s := NewSupervisor(nil)
	t.Cleanup(func() {
		if err := errors.Join(s.Close(context.Background(), 10*time.Second), n.Close()); err != nil {
			t.Error(err)
		}
	})
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not seen: %s", what)
			}
		}
	}
	// crash ends a server that cannot be started again, and returns when that was tried.
	crash := func(p *Process, log, says string) {
		t.Helper()
		must(syscall.Kill(p.PID(), syscall.SIGKILL))
		until("a failed start", func() bool {
			raw, _ := os.ReadFile(log)
			return strings.Contains(string(raw), says)
		})
	}
	// gone checks that nobody looks after the server any more, and that nothing of it is left.
	gone := func(addr netip.Addr, port uint16, dir string) {
		t.Helper()
		left := make(chan struct{})
		go func() {
			defer close(left)
			s.keepers.Wait()
		}()
		select {
		case <-left:
		case <-time.After(time.Minute):
			t.Fatal("somebody goes on starting it")
		}
		if c, err := net.Dial("tcp4", netip.AddrPortFrom(addr, port).String()); err == nil {
			c.Close()
			t.Error("it listens")
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its directory: %v", err)
		}
	}
	ctx := t.Context()

	redis, err := FindRedis()
	must(err)
	wrapper, obstacle := filepath.Join(dir, "redis"), filepath.Join(dir, "obstacle")
	must(os.WriteFile(wrapper, fmt.Appendf(nil, "#!/bin/sh\nif [ -e %s ]; then echo not today; exit 1; fi\nexec %s \"$@\"\n", obstacle, redis), 0o755))
	cache := NewCache(n, s, wrapper, filepath.Join(dir, "caches"))
	must(os.Mkdir(cache.dir, 0o755))
	addr, err := cache.Create(ctx, "p/cache", "secret", nil)
	must(err)
	c, err := cache.find("p/cache")
	must(err)
	must(os.WriteFile(obstacle, nil, 0o644))
	crash(c.process, filepath.Join(c.dir, "redis.log"), "not today")
	must(cache.Delete(ctx, "p/cache"))
	must(os.Remove(obstacle))
	gone(addr, redisPort, c.dir)
	_, err = cache.Create(ctx, "p/cache", "secret", nil)
	must(err)
	must(cache.Delete(ctx, "p/cache"))

	bin, err := FindPostgres()
	must(err)
	sql := NewSQL(n, s, bin, dir)
	addr, err = sql.Create(ctx, "p/main", nil)
	must(err)
	v, err := sql.find("p/main")
	must(err)
	must(os.Rename(v.data(), v.data()+".away"))
	crash(v.process, v.log(), "No such file or directory")
	must(os.Rename(v.data()+".away", v.data()))
	must(sql.Restart(ctx, "p/main"))
	if !sql.Running("p/main") {
		t.Error("it does not run after its restart")
	}
	must(sql.Delete(ctx, "p/main"))
	gone(addr, postgresPort, v.dir)
}
