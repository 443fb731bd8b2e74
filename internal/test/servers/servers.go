//go:build linux

package servers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/localcloud/plane"
	"github.com/difyup/difyup/internal/test/need"
)

// Servers are those of a test. They are stopped, and their addresses given back, when it ends.
type Servers struct {
	Net   *plane.Net
	SQL   *plane.SQL
	Cache *plane.Cache
	Dir   string // what they keep
}

// Open gives servers of which none is started yet. A short test is skipped.
func Open(t testing.TB) *Servers {
	t.Helper()
	need.Long(t, "starts PostgreSQL or Redis")
	dir := Dir(t) // is removed after the servers have stopped
	n, err := plane.Claim()
	if err != nil {
		t.Fatal(err)
	}
	supervisor := plane.NewSupervisor(nil)
	t.Cleanup(func() {
		if err := errors.Join(supervisor.Close(context.Background(), 10*time.Second), n.Close()); err != nil {
			t.Error(err)
		}
	})
	postgres, err := plane.FindPostgres()
	if err != nil {
		t.Fatal(err)
	}
	redis, err := plane.FindRedis()
	if err != nil {
		t.Fatal(err)
	}
	return &Servers{Net: n, SQL: plane.NewSQL(n, supervisor, postgres, dir), Cache: plane.NewCache(n, supervisor, redis, dir), Dir: dir}
}

// Dir gives a directory whose parents another user may pass, as servers run that root starts.
func Dir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
