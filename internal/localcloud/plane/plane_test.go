//go:build linux

package plane_test

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

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/localcloud/plane"
)

// start gives a block of addresses, a supervisor and a directory that PostgreSQL's user can reach.
func start(t *testing.T) (*plane.Net, *plane.Supervisor, string) {
	t.Helper()
	dir := t.TempDir() // is removed after the servers have stopped
	n, err := plane.Claim()
	if err != nil {
		t.Fatal(err)
	}
	s := plane.NewSupervisor(nil)
	t.Cleanup(func() {
		if err := s.Close(context.Background(), 10*time.Second); err != nil {
			t.Error(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return n, s, dir
}

// newSQL gives an engine of PostgreSQL servers with this block, supervisor and directory.
func newSQL(t *testing.T, n *plane.Net, s *plane.Supervisor, dir string) *plane.SQL {
	t.Helper()
	bin, err := plane.FindPostgres()
	if err != nil {
		t.Fatal(err)
	}
	return plane.NewSQL(n, s, bin, dir)
}

func connect(t *testing.T, addr netip.Addr, user, password, database string) (*pgx.Conn, error) {
	t.Helper()
	c, err := pgx.Connect(t.Context(), fmt.Sprintf("postgres://%s:%s@%s:5432/%s?sslmode=disable", user, password, addr, database))
	if err == nil {
		t.Cleanup(func() { c.Close(context.Background()) })
	}
	return c, err
}

func TestSQL(t *testing.T) {
	n, s, dir := start(t)
	e := newSQL(t, n, s, dir)
	ctx := t.Context()
	addr, err := e.Create(ctx, "p/main", map[string]string{"max_connections": "77", "cloudsql.iam_authentication": "on"})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.SetUser(ctx, "p/main", "dify", "first's"), e.SetUser(ctx, "p/main", "dify", "second"), e.CreateDatabase(ctx, "p/main", "dify")); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, addr, "dify", "first%27s", "dify"); err == nil {
		t.Error("the old password still works")
	}
	c, err := connect(t, addr, "dify", "second", "dify")
	if err != nil {
		t.Fatal(err)
	}
	// What Dify and its plugin daemon do, as a user who is no superuser.
	for _, q := range []string{
		`CREATE EXTENSION vector`, `CREATE EXTENSION "uuid-ossp"`, `CREATE TABLE v (id int, e vector(3))`,
		`INSERT INTO v VALUES (1, '[1,0,0]'), (2, '[0,1,0]')`, `CREATE INDEX ON v USING hnsw (e vector_l2_ops)`, `CREATE DATABASE another`,
	} {
		if _, err := c.Exec(ctx, q); err != nil {
			t.Errorf("%s: %v", q, err)
		}
	}
	var id int
	if err := c.QueryRow(ctx, `SELECT id FROM v ORDER BY e <-> '[0.1,0.9,0]' LIMIT 1`).Scan(&id); err != nil || id != 2 {
		t.Errorf("the nearest is %d, %v; want 2", id, err)
	}
	if _, err := c.Exec(ctx, `COPY v TO '/tmp/no'`); err == nil {
		t.Error("the user is a superuser")
	}
	var max string
	if err := c.QueryRow(ctx, "SHOW max_connections").Scan(&max); err != nil || max != "77" {
		t.Errorf("max_connections is %s, %v; want 77", max, err)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "p_main", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	crash(t, string(pid))
	c = nil
	for end := time.Now().Add(time.Minute); c == nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		c, _ = connect(t, addr, "dify", "second", "dify")
	}
	if c == nil {
		t.Fatal("the server was not started again after it crashed")
	}
	if err := c.QueryRow(ctx, `SELECT count(*) FROM v`).Scan(&id); err != nil || id != 2 {
		t.Errorf("after the crash there are %d rows, %v; want 2", id, err)
	}
	if err := c.QueryRow(ctx, "SHOW max_connections").Scan(&max); err != nil || max != "77" {
		t.Errorf("after the crash max_connections is %s, %v; want 77", max, err)
	}
	if err := e.DropUser(ctx, "p/main", "dify"); err == nil || !strings.Contains(err.Error(), "depend") {
		t.Errorf("a user who owns objects was dropped: %v", err)
	}

	if err := e.SetFlags(ctx, "p/main", map[string]string{"max_connections": "many"}); err == nil || !strings.Contains(err.Error(), "max_connections") {
		t.Errorf("a senseless flag: %v", err)
	}
	if err := e.SetFlags(ctx, "p/main", map[string]string{"max_connections": "88"}); err != nil {
		t.Error(err)
	}
	c, err = connect(t, addr, "dify", "second", "dify")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.QueryRow(ctx, "SHOW max_connections").Scan(&max); err != nil || max != "88" {
		t.Errorf("after the restart max_connections is %s, %v; want 88", max, err)
	}
	log, err := os.ReadFile(filepath.Join(dir, "p_main", "postgres.log"))
	if err != nil || strings.Contains(string(log), "second") || strings.Contains(string(log), "first") {
		t.Errorf("a password is in the log, or there is none: %v", err)
	}

	if _, err := e.Create(ctx, "p/main", nil); err == nil {
		t.Error("a name was given twice")
	}
	if err := e.Delete(ctx, "p/main"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p_main")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("data is left: %v", err)
	}
	if _, err := connect(t, addr, "dify", "second", "dify"); err == nil {
		t.Error("the deleted server answers")
	}
}

// crash kills the process whose number a text begins with.
func crash(t *testing.T, text string) {
	t.Helper()
	var pid int
	if _, err := fmt.Sscan(text, &pid); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestFlagsThatDoNotServe checks that a server which does not come up with its flags, or comes up and serves nobody, is told of
// within seconds, in its own words, and has its old flags back.
func TestFlagsThatDoNotServe(t *testing.T) {
	n, s, dir := start(t)
	e := newSQL(t, n, s, dir)
	ctx := t.Context()
	addr, err := e.Create(ctx, "p/main", map[string]string{"max_connections": "50"})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetUser(ctx, "p/main", "dify", "secret"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		flags map[string]string
		want  string
	}{
		{map[string]string{"session_preload_libraries": "x.so"}, `it said: FATAL:  could not access file "x.so": No such file or directory`},
		{map[string]string{"max_connections": "20", "superuser_reserved_connections": "20"}, `"superuser_reserved_connections"`},
		{map[string]string{"shared_buffers": "1073741823"}, "it said: "},
		{map[string]string{"max_connections": "many"}, `invalid value for parameter "max_connections": "many"`},
	} {
		began := time.Now()
		err := e.SetFlags(ctx, "p/main", tc.flags)
		if took := time.Since(began); err == nil || !strings.Contains(err.Error(), tc.want) || took > 30*time.Second {
			t.Errorf("%v: after %s %v; want %s", tc.flags, took, err, tc.want)
		}
		if !e.Running("p/main") {
			t.Fatalf("%v: the server does not run", tc.flags)
		}
		c, err := connect(t, addr, "dify", "secret", "postgres")
		if err != nil {
			t.Fatalf("%v: %v", tc.flags, err)
		}
		var max string
		if err := c.QueryRow(ctx, "SHOW max_connections").Scan(&max); err != nil || max != "50" {
			t.Errorf("%v: max_connections is %s, %v; want 50 again", tc.flags, max, err)
		}
	}
	began := time.Now()
	if _, err := e.Create(ctx, "p/other", map[string]string{"session_preload_libraries": "x.so"}); err == nil || !strings.Contains(err.Error(), `file "x.so"`) || time.Since(began) > time.Minute {
		t.Errorf("created after %s: %v", time.Since(began), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "p_other")); !errors.Is(err, os.ErrNotExist) || e.Running("p/other") {
		t.Errorf("something of it is left: %v", err)
	}
}

func TestCache(t *testing.T) {
	n, s, dir := start(t)
	path, err := plane.FindRedis()
	if err != nil {
		t.Fatal(err)
	}
	e := plane.NewCache(n, s, path, dir)
	ctx := t.Context()
	addr, err := e.Create(ctx, "p/cache", "secret", map[string]string{"maxmemory": "1073741824", "maxmemory-policy": "noeviction"})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(password string) *redis.Client {
		r := redis.NewClient(&redis.Options{Addr: addr.String() + ":6379", Password: password, MaxRetries: -1})
		t.Cleanup(func() { r.Close() })
		return r
	}
	if err := dial("").Ping(ctx).Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("without a password: %v", err)
	}
	r := dial("secret")
	if err := r.Set(ctx, "k", "v", 0).Err(); err != nil {
		t.Error(err)
	}
	if err := errors.Join(e.SetConfig(ctx, "p/cache", map[string]string{"maxmemory-policy": "volatile-lru"}), e.SetPassword(ctx, "p/cache", "other")); err != nil {
		t.Error(err)
	}
	if got, err := dial("other").ConfigGet(ctx, "maxmemory-policy").Result(); err != nil || got["maxmemory-policy"] != "volatile-lru" {
		t.Errorf("maxmemory-policy: %v, %v", got, err)
	}
	about, err := dial("other").Info(ctx, "server").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, pid, _ := strings.Cut(about, "process_id:")
	crash(t, pid)
	var got map[string]string
	for end := time.Now().Add(time.Minute); got == nil && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		got, _ = dial("other").ConfigGet(ctx, "maxmemory*").Result()
	}
	if got["maxmemory-policy"] != "volatile-lru" || got["maxmemory"] != "1073741824" {
		t.Errorf("after a crash its settings are %v", got)
	}
	if err := e.SetConfig(ctx, "p/cache", map[string]string{"maxmemory-policy": "nonsense"}); err == nil {
		t.Error("a senseless setting was taken")
	}
	if _, err := e.Create(ctx, "p/bad", "", map[string]string{"maxmemory-policy": "nonsense"}); err == nil || !strings.Contains(err.Error(), "maxmemory-policy") {
		t.Errorf("a server was created with a senseless setting, or Redis' words are lost: %v", err)
	}
	if err := e.Delete(ctx, "p/cache"); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// TestStranger checks that a server whose address somebody else has, who takes connections and never says a word, is not
// created, and that the stranger is not called.
func TestStranger(t *testing.T) {
	n, s, dir := start(t)
	path, err := plane.FindRedis()
	if err != nil {
		t.Fatal(err)
	}
	sql, cache := newSQL(t, n, s, dir), plane.NewCache(n, s, path, dir)
	ctx := t.Context()
	for _, tc := range []struct {
		use    plane.Use
		port   uint16
		create func() (netip.Addr, error)
		remove func() error
	}{
		{
			plane.Database, 5432, func() (netip.Addr, error) { return sql.Create(ctx, "p/main", nil) },
			func() error { return sql.Delete(ctx, "p/main") },
		},
		{
			plane.Redis, 6379, func() (netip.Addr, error) { return cache.Create(ctx, "p/cache", "", nil) },
			func() error { return cache.Delete(ctx, "p/cache") },
		},
		{
			plane.Redis, 6378, func() (netip.Addr, error) { return cache.CreateEncrypted(ctx, "p/cache", "secret", nil) },
			func() error { return cache.Delete(ctx, "p/cache") },
		},
	} {
		addr, err := n.Addr(tc.use)
		if err != nil {
			t.Fatal(err)
		}
		n.Release(addr)
		l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, tc.port)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := tc.create()
		if want := fmt.Sprintf("%s:%d: bind: address already in use: another program listens there", addr, tc.port); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
		if err := l.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Error(err)
		}
		if c, err := l.Accept(); err == nil {
			t.Errorf("port %d: the stranger was called", tc.port)
			c.Close()
		}
		l.Close()
		if got, err = tc.create(); err != nil || got != addr {
			t.Fatalf("with the stranger gone: %s, %v; want %s", got, err, addr)
		}
		if err := tc.remove(); err != nil {
			t.Error(err)
		}
	}
}

// TestStrangerAtRestart checks that a server is not waited for that ended because such a stranger took its address before it
// was started again.
func TestStrangerAtRestart(t *testing.T) {
	n, s, dir := start(t)
	e := newSQL(t, n, s, dir)
	ctx := t.Context()
	addr, err := e.Create(ctx, "p/main", nil)
	if err != nil {
		t.Fatal(err)
	}
	listening := make(chan net.Listener, 1)
	go func() {
		for ctx.Err() == nil {
			if l, err := net.Listen("tcp4", netip.AddrPortFrom(addr, 5432).String()); err == nil {
				listening <- l
				return
			}
		}
	}()
	for won := false; !won && !t.Failed(); { // the server itself may be quicker
		began := time.Now()
		err := e.Restart(ctx, "p/main")
		took := time.Since(began)
		select {
		case l := <-listening:
			won = true
			l.Close()
			if err == nil || !strings.Contains(err.Error(), "already running on port 5432") || took > time.Minute {
				t.Errorf("after %s %v", took, err)
			}
		default:
			if err != nil {
				t.Errorf("nobody has its address: %v", err)
			}
		}
	}
	if err := e.Restart(ctx, "p/main"); err != nil {
		t.Error(err)
	}
}

// TestStop ends a process that does not listen to polite requests, and its child.
func TestStop(t *testing.T) {
	_, s, dir := start(t)
	log := filepath.Join(dir, "log")
	p, err := s.Start(t.Context(), plane.Spec{
		Name: "stubborn", Path: "/bin/sh", Args: []string{"-c", `trap "" TERM; sleep 1000 & echo $!; wait; wait; sleep 1000`}, Dir: dir, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	var child int
	for child == 0 && t.Context().Err() == nil {
		raw, _ := os.ReadFile(log)
		fmt.Sscan(string(raw), &child)
		time.Sleep(5 * time.Millisecond)
	}
	if err := p.Stop(t.Context(), 50*time.Millisecond); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if errors.Is(err, os.ErrNotExist) || strings.Contains(string(raw), ") Z ") || errors.Is(syscall.Kill(child, 0), syscall.ESRCH) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the child %d lives", child)
}

func TestNet(t *testing.T) {
	a, _, _ := start(t)
	b, _, _ := start(t)
	if a.Block().Overlaps(b.Block()) {
		t.Errorf("two clouds have %s", a.Block())
	}
	first, err := a.Addr(plane.Database)
	if err != nil || !a.Block().Contains(first) {
		t.Fatalf("%s, %v", first, err)
	}
	second, err := a.Addr(plane.Database)
	if err != nil || second == first {
		t.Errorf("%s twice, %v", first, err)
	}
	a.Release(first)
	if again, err := a.Addr(plane.Database); err != nil || again != first {
		t.Errorf("got %s, %v; want the released %s", again, err, first)
	}
}
