package migrate_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/agent/migrate"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
)

var (
	rounds = flag.Int("rounds", 5, "rounds of kills and freezes of migrations")
	seed   = flag.Uint64("seed", 5, "of the first round; the others have the numbers after it")
)

// The test's program is an instance that migrates too, and the job that it starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "instance" || os.Args[1] == "job") {
		do := instanceMain
		if os.Args[1] == "job" {
			do = jobMain
		}
		if err := do(context.Background(), os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, os.Args[1], err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// jobOf gives the process of an instance's job, 0 if there is none. The database is the round's.
func jobOf(instance, database string) int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, e := range entries {
		args, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		words := strings.Split(string(args), "\x00")
		if pid, bad := strconv.Atoi(e.Name()); err == nil && bad == nil && len(words) > 5 && words[1] == "job" && words[2] == instance && words[5] == database {
			return pid
		}
	}
	return 0
}

// killJob ends an instance's job.
func killJob(instance, database string) error {
	for pid := jobOf(instance, database); pid != 0; pid = jobOf(instance, database) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && err != syscall.ESRCH {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// instanceMain is an agent's way to migrated databases: NAME VERSION HOST DATABASE.
func instanceMain(ctx context.Context, args []string) error {
	name, version, host, database := args[0], args[1], args[2], args[3]
	config, err := stores.PostgresConfig(net.DefaultResolver, host, 5432, "dify", password, database)
	if err != nil {
		return err
	}
	r, err := dify.Lookup(version)
	if err != nil {
		return err
	}
	// As a runtime prepares itself.
	if err := killJob(name, database); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	job := func(ctx context.Context, j runtime.Job) (runtime.Result, error) {
		if j.Service.Name != dify.API {
			return runtime.Result{}, nil
		}
		// Like a container's, its process does not end with the agent's.
		cmd := exec.Command(self, "job", name, r.Schema, host, database)
		cmd.Env = append(os.Environ(), "PGAPPNAME="+j.Environment["PGAPPNAME"])
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return runtime.Result{}, err
		}
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() }) // it may have ended
		defer stop()
		err := cmd.Wait()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return runtime.Result{}, err
		}
		return runtime.Result{Status: max(cmd.ProcessState.ExitCode(), -1) & 255}, ctx.Err()
	}
	for {
		schema, err := migrate.Run(ctx, migrate.Options{
			Main: config, Release: r, Instance: name, Job: job, Say: func(string) {}, Log: slog.New(slog.DiscardHandler),
			Services: []dify.Service{{Name: dify.API}, {Name: dify.PluginDaemon}},
			Look:     50 * time.Millisecond, Ping: 100 * time.Millisecond, Lost: lost,
		})
		if err == nil {
			fmt.Println("ready", schema.Version, schema.Head)
			return nil
		}
		fmt.Println("again", err)
		time.Sleep(20 * time.Millisecond)
	}
}

// lost is how long a job without a connection may be about. On a busy machine, one that was not killed takes long to connect.
const lost = 8 * time.Second

// steps are the revisions of a job's way, of which each is a transaction, as Alembic's are in Dify.
const steps = 4

// jobMain plays Dify's migration: INSTANCE HEAD HOST DATABASE. Who else is at it, it writes down for everybody to see.
func jobMain(ctx context.Context, args []string) error {
	pause := func() { time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond) }
	pause() // Dify loads its modules
	pause()
	config, err := stores.PostgresConfig(net.DefaultResolver, args[2], 5432, "dify", password, args[3])
	if err != nil {
		return err
	}
	config.RuntimeParams["application_name"] = os.Getenv("PGAPPNAME")
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, `INSERT INTO seen SELECT $1, count(*) FILTER (WHERE starts_with(application_name, 'difyup-migrate-') AND pid <> pg_backend_pid()) FROM pg_stat_activity WHERE datname = current_database()`, args[0]); err != nil {
		return err
	}
	for step := 1; step <= steps; step++ {
		if step > 1 {
			pause()
		}
		head := fmt.Sprint("step", step)
		if step == steps {
			head = args[1]
		}
		err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			var done bool
			if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM work WHERE step = $1)`, head).Scan(&done); err != nil || done {
				return err
			}
			// As ALTER TABLE does, it takes a while.
			for _, q := range []string{`SELECT pg_sleep(0.03)`, `DELETE FROM alembic_version`, `INSERT INTO alembic_version VALUES ('` + head + `')`, `INSERT INTO work VALUES ('` + head + `', '` + args[0] + `')`} {
				if _, err := tx.Exec(ctx, q); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// migrator is an instance's process, and what it said.
type migrator struct {
	name  string
	cmd   *exec.Cmd
	ready chan string // its last line, when it has ended
}

// TestOneMigration has 1, 2 and 5 instances migrate a database, whose agents and jobs are killed and frozen, and whose sessions
// are ended, as a seed has it; a machine is lost for good, too. Seen from the database there is one job at a time, each revision is
// done once, and all instances that are left end with the head recorded. A round that fails is repeated by its seed:
//
//	go test ./internal/agent/migrate -run TestOneMigration -rounds 1 -seed 17
func TestOneMigration(t *testing.T) {
	w := newWorld(t)
	jobs := 0
	for n := *seed; n < *seed+uint64(*rounds); n++ {
		jobs += w.round(n)
		if t.Failed() {
			t.Fatalf("seed %d", n)
		}
	}
	t.Logf("%d rounds, %d jobs", *rounds, jobs)
	if jobs < *rounds*3/2 {
		t.Errorf("%d jobs only: the rounds prove little", jobs)
	}
}

func (w *world) round(n uint64) (jobs int) {
	w.t.Helper()
	t := w.t
	r := rand.New(rand.NewPCG(n, 0))
	config := w.database()
	err := execute(t.Context(), config, `CREATE TABLE seen (instance text, others int)`, `CREATE TABLE work (step text PRIMARY KEY, instance text)`, `CREATE TABLE alembic_version (version_num varchar(32))`)
	if err != nil {
		t.Fatal(err)
	}
	c, err := pgx.ConnectConfig(t.Context(), config.Copy())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(t.Context()))
	version := []string{"1.16.0", "1.17.1"}[n%2]
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	all := make([]*migrator, []int{1, 2, 5}[n%3])
	start := func(k int) {
		m := &migrator{name: fmt.Sprint("vm-", k), ready: make(chan string, 1)}
		m.cmd = exec.Command(self, "instance", m.name, version, w.at, config.Database)
		out, err := m.cmd.StdoutPipe()
		if err == nil {
			err = m.cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			last := ""
			for lines := bufio.NewScanner(out); lines.Scan(); {
				last = lines.Text()
			}
			_ = m.cmd.Wait() // what it said counts
			m.ready <- last
		}()
		all[k] = m
	}
	for k := range all {
		start(k)
	}
	signal := func(pid int, s syscall.Signal) { _ = syscall.Kill(pid, s) } // it may have ended, and is not waited for before ready
	job := func(m *migrator) int { return jobOf(m.name, config.Database) }
	frozen := map[int]bool{}
	thaw := func() {
		for pid := range frozen {
			signal(pid, syscall.SIGCONT)
		}
		clear(frozen)
	}
	gone := func(m *migrator) {
		if m != nil {
			signal(m.cmd.Process.Pid, syscall.SIGKILL)
			<-m.ready
			if err := killJob(m.name, config.Database); err != nil {
				t.Error(err)
			}
		}
	}
	defer func() {
		thaw()
		for _, m := range all {
			gone(m)
		}
	}()
	most := 0
	look := func() {
		var now int
		if err := c.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'difyup-migrate-') AND datname = current_database()`).Scan(&now); err != nil {
			t.Fatal(err)
		}
		most = max(most, now)
	}
	sleep := func(most int) {
		for end := time.Now().Add(time.Duration(r.IntN(most)) * time.Millisecond); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
			look()
		}
	}
	losesMachine := len(all) > 1 && r.IntN(6) == 0
	sleep(300)
	for range 4 + r.IntN(5) {
		k := r.IntN(len(all))
		for try := range all { // the one that counts, mostly
			if i := (k + try) % len(all); all[i] != nil && job(all[i]) != 0 && r.IntN(4) > 0 {
				k = i
				break
			}
		}
		m := all[k]
		if m == nil {
			continue
		}
		// One that is ready has ended, and may be started again, as an agent is.
		switch what := r.IntN(8); {
		case what <= 1: // kill -9 of the agent: its job is left over
			signal(m.cmd.Process.Pid, syscall.SIGKILL)
			m.ready <- <-m.ready
			sleep(400)
			start(k)
		case what == 2: // of the job
			if pid := job(m); pid != 0 {
				signal(pid, syscall.SIGKILL)
			}
		case what == 3:
			if pid := m.cmd.Process.Pid; len(m.ready) == 0 {
				frozen[pid] = true
				signal(pid, syscall.SIGSTOP)
			}
		case what == 4:
			if pid := job(m); pid != 0 {
				frozen[pid] = true
				signal(pid, syscall.SIGSTOP)
			}
		case what == 5: // the session with the lock is lost
			err = execute(t.Context(), config, `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'`)
		case what == 6: // all sessions are, as when a server fails over
			err = execute(t.Context(), config, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND pid <> `+fmt.Sprint(c.PgConn().PID()))
		case what == 7 && losesMachine && slices.IndexFunc(all, func(m *migrator) bool { return m == nil }) < 0:
			delete(frozen, m.cmd.Process.Pid)
			gone(m)
			all[k] = nil
		}
		if err != nil {
			t.Fatal(err)
		}
		sleep(350)
		if r.IntN(2) == 0 {
			thaw()
		}
	}
	thaw()
	want := "ready " + version + " " + release(t, version).Schema
	for _, m := range all {
		if m == nil {
			continue
		}
		for end := time.Now().Add(3 * time.Minute); len(m.ready) == 0; time.Sleep(2 * time.Millisecond) {
			if look(); time.Now().After(end) {
				t.Fatalf("seed %d: %s does not become ready", n, m.name)
			}
		}
		last := <-m.ready
		if m.ready <- last; last != want {
			t.Errorf("seed %d: %s ends with %q, want %q", n, m.name, last, want)
		}
	}
	var others, done, recorded, left int
	err = c.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM seen), (SELECT coalesce(max(others), 0) FROM seen), (SELECT count(*) FROM work),
		(SELECT count(*) FROM difyup.migrations WHERE version = $1 AND head = $2), (SELECT count(*) FROM difyup.migrating)`, version, release(t, version).Schema).Scan(&jobs, &others, &done, &recorded, &left)
	if err != nil {
		t.Fatal(err)
	}
	if most > 1 || others > 0 {
		t.Errorf("seed %d: %d jobs at once, and a job saw %d others", n, most, others)
	}
	if done != steps || recorded != 1 || left != 0 {
		t.Errorf("seed %d: %d revisions are done, %d recorded, %d attempts are left", n, done, recorded, left)
	}
	return jobs
}
