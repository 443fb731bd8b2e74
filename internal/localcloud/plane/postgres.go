//go:build linux

package plane

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud/authority"
)

const postgresPort = 5432

// admin is the superuser of every server. Its password exists in this process's memory only. Roles are Cloud SQL's:
// cloudsqladmin is Google's, and whoever is made through the API is in cloudsqlsuperuser.
const (
	admin     = "cloudsqladmin"
	superuser = "cloudsqlsuperuser"
)

// FindPostgres gives the directory of the newest PostgreSQL's programs that has pgvector: $DIFYUP_POSTGRES, the
// system's own, or the one that scripts/install-deps put below /opt/difyup.
func FindPostgres() (string, error) {
	if dir := os.Getenv("DIFYUP_POSTGRES"); dir != "" {
		if hasVector(dir) {
			return dir, nil
		}
		return "", &fault.Fault{
			Summary: "No PostgreSQL with pgvector",
			Detail:  fmt.Sprintf("DIFYUP_POSTGRES is %s, which does not hold initdb, postgres and, beside them, pgvector.", dir),
			Remedy:  "Set it to a directory that does, or unset it.",
		}
	}
	var found []string
	for _, root := range []string{"", "/opt/difyup/postgresql"} {
		dirs, err := filepath.Glob(root + "/usr/lib/postgresql/*/bin")
		if err != nil {
			return "", err
		}
		for _, dir := range dirs {
			if hasVector(dir) {
				found = append(found, dir)
			}
		}
	}
	if len(found) == 0 {
		return "", &fault.Fault{
			Summary: "No PostgreSQL with pgvector",
			Detail:  "The local cloud runs real databases, and found none below /usr/lib/postgresql and /opt/difyup/postgresql.",
			Remedy:  "Install it, from the source tree:\n    make deps",
		}
	}
	return slices.MaxFunc(found, func(a, b string) int { return majorOf(a) - majorOf(b) }), nil
}

func majorOf(bin string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(bin))) // not a number is version 0
	return n
}

// hasVector says whether a PostgreSQL's directory of programs is complete.
func hasVector(bin string) bool {
	for _, program := range []string{"postgres", "initdb"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			return false
		}
	}
	_, ok := shareOf(bin)
	return ok
}

// shareOf gives the directory with pgvector's control file that belongs to a directory of programs. Debian keeps it
// apart from the programs, ROOT/usr/share/postgresql/17; PostgreSQL's own layout is PREFIX/share.
func shareOf(bin string) (string, bool) {
	for _, share := range []string{
		filepath.Join(bin, "../../../../share/postgresql", strconv.Itoa(majorOf(bin))),
		filepath.Join(bin, "../share"), filepath.Join(bin, "../share/postgresql"),
	} {
		if _, err := os.Stat(filepath.Join(share, "extension/vector.control")); err == nil {
			return share, true
		}
	}
	return "", false
}

// SQL runs PostgreSQL servers. It is safe for concurrent use.
type SQL struct {
	net        *Net
	supervisor *Supervisor
	bin        string
	dir        string
	names      authority.Names // in certificates

	prepare func() (string, error) // gives the directory of the programs that are run

	mu      sync.Mutex
	servers map[string]*server
}

type server struct {
	mu       sync.Mutex // one change at a time
	name     string
	dir      string
	addr     netip.Addr
	password string // of admin
	flags    map[string]string
	process  *Process // what answered last; who stops it has its keeper give up

	authorities *authority.Set
	encrypted   bool // connections that are not encrypted are refused
}

// NewSQL gives an engine that keeps its servers' data below dir and runs the programs in bin.
func NewSQL(n *Net, s *Supervisor, bin, dir string) *SQL {
	return &SQL{
		net: n, supervisor: s, bin: bin, dir: dir, names: authority.NoNames, servers: map[string]*server{},
		prepare: sync.OnceValues(func() (string, error) { return private(bin, filepath.Join(dir, "programs")) }),
	}
}

// Version gives the version of the PostgreSQL it runs: "17.4".
func (e *SQL) Version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(e.bin, "postgres"), "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask postgres for its version: %w", err)
	}
	for word := range strings.FieldsSeq(string(out)) {
		if word[0] >= '0' && word[0] <= '9' {
			return word, nil
		}
	}
	return "", fmt.Errorf("postgres --version says %q", out)
}

// SetNames says which names the certificates of servers bear that are created from now on.
func (e *SQL) SetNames(n authority.Names) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.names = n
}

func (e *SQL) find(name string) (*server, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.servers[name]
	if s == nil {
		return nil, fmt.Errorf("there is no PostgreSQL server %s", name)
	}
	return s, nil
}

func environment(dir string) []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + dir, "LC_ALL=C.UTF-8", "TZ=UTC"}
}

// Create makes a server with an empty database "postgres", starts it and gives its address; the port is 5432. Flags are
// PostgreSQL settings; those of Cloud SQL itself ("cloudsql.…") are not PostgreSQL's and are left out. The server has a
// certificate authority of its own; connections that are not encrypted are taken too.
func (e *SQL) Create(ctx context.Context, name string, flags map[string]string) (addr netip.Addr, err error) {
	s := &server{name: name, dir: filepath.Join(e.dir, strings.ReplaceAll(name, "/", "_")), password: rand.Text(), flags: flags}
	if s.addr, err = e.net.Addr(Database); err != nil {
		return netip.Addr{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.mu.Lock()
	if e.servers[name] != nil {
		e.mu.Unlock()
		e.net.Release(s.addr)
		return netip.Addr{}, fmt.Errorf("there is a PostgreSQL server %s already", name)
	}
	e.servers[name] = s
	names := e.names
	e.mu.Unlock()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create PostgreSQL server %s: %w", name, err), e.remove(context.WithoutCancel(ctx), s))
		}
	}()
	if s.authorities, err = authority.NewSet(names); err != nil {
		return netip.Addr{}, err
	}
	if err := unused(ctx, s.addr, postgresPort); err != nil {
		return netip.Addr{}, err
	}
	if err := e.initialise(ctx, s); err != nil {
		return netip.Addr{}, err
	}
	if err := e.start(ctx, s); err != nil {
		return netip.Addr{}, err
	}
	return s.addr, s.do(ctx, "postgres", func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "CREATE ROLE "+superuser+" NOLOGIN CREATEDB CREATEROLE; GRANT pg_monitor, pg_signal_backend TO "+superuser+" WITH ADMIN OPTION")
		return err
	})
}

func (e *SQL) initialise(ctx context.Context, s *server) error {
	defer e.supervisor.wait()()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if err := own(s.dir); err != nil {
		return err
	}
	bin, err := e.prepare()
	if err != nil {
		return err
	}
	// The password goes through a pipe, not an argument or a file.
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata="+s.data(), "--username="+admin, "--pwfile=/dev/stdin",
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions")
	cred, err := unprivileged()
	if err != nil {
		return err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	var out bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.dir, environment(s.dir), &out, &out
	if cmd.Stdin, err = secretPipe(s.password+"\n", cred); err != nil {
		return err
	}
	defer cmd.Stdin.(*os.File).Close()
	if err := cmd.Run(); err != nil {
		return saying(fmt.Errorf("initdb: %w", err), out.String())
	}
	return errors.Join(certify(s.authorities, s.dir, s.name, s.addr), s.admit())
}

// admit writes who may connect, and how. It holds once the server reads it.
func (s *server) admit() error {
	kind := "host"
	if s.encrypted {
		kind = "hostssl"
	}
	// Loopback connections come from 127.0.0.1 whatever address they go to.
	text := fmt.Sprintf("%[1]s all all 127.0.0.0/8 scram-sha-256\n%[1]s replication all 127.0.0.0/8 scram-sha-256\n", kind)
	path := filepath.Join(s.data(), "pg_hba.conf")
	if err := os.WriteFile(path+".next", []byte(text), 0o600); err != nil {
		return err
	}
	return errors.Join(own(path+".next"), os.Rename(path+".next", path))
}

// reload has the server read again who may connect, and its certificate. Sessions go on.
func (s *server) reload(ctx context.Context) error {
	return s.do(ctx, "postgres", func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "SELECT pg_reload_conf()")
		return err
	})
}

// SetEncrypted says whether a server refuses connections that are not encrypted. Sessions that there are go on.
func (e *SQL) SetEncrypted(ctx context.Context, name string, encrypted bool) error {
	s, err := e.find(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.encrypted = encrypted
	return errors.Join(s.admit(), s.reload(ctx))
}

// Authorities gives the certificate authorities of a server, the oldest first, and the SHA1 of the active one.
func (e *SQL) Authorities(name string) (all []authority.Authority, active string, err error) {
	s, err := e.find(name)
	if err != nil {
		return nil, "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all, active = s.authorities.List()
	return all, active, nil
}

// AddAuthority gives a server another certificate authority, to rotate to. It replaces one that waits for that already.
func (e *SQL) AddAuthority(name string) error {
	s, err := e.find(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.authorities.Add()
}

// RotateAuthority gives a server a certificate of the authority with this SHA1, or of the next one for "". Sessions go on.
func (e *SQL) RotateAuthority(ctx context.Context, name, sha1 string) error {
	s, err := e.find(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.authorities.Rotate(sha1); err != nil {
		return err
	}
	return errors.Join(certify(s.authorities, s.dir, s.name, s.addr), s.reload(ctx))
}

// secretPipe gives the reading end of a pipe that holds a short text and belongs to the user, who may open it by name.
func secretPipe(text string, cred *syscall.Credential) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	if cred != nil {
		err = r.Chown(int(cred.Uid), int(cred.Gid))
	}
	if err == nil {
		_, err = w.WriteString(text) // fits the pipe's buffer
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }
func (s *server) log() string  { return filepath.Join(s.dir, "postgres.log") }

// start runs the server, waits until it answers, and keeps it running.
func (e *SQL) start(ctx context.Context, s *server) error {
	defer e.supervisor.wait()()
	args := []string{
		"-D", s.data(), "-c", "listen_addresses=" + s.addr.String(), "-c", "port=" + strconv.Itoa(postgresPort), "-c", "unix_socket_directories=",
		"-c", "shared_buffers=32MB", "-c", "log_timezone=UTC", "-c", "timezone=UTC", "-c", "password_encryption=scram-sha-256", "-c", "wal_level=replica",
		"-c", "min_wal_size=32MB", // what PostgreSQL sets aside by itself suits bigger machines
		// Syncing guards against a crash of the machine, which no local cloud survives.
		"-c", "fsync=off",
		"-c", "ssl=on", "-c", "ssl_cert_file=" + filepath.Join(s.dir, certificateFile), "-c", "ssl_key_file=" + filepath.Join(s.dir, keyFile),
	}
	for _, flag := range slices.Sorted(maps.Keys(s.flags)) {
		if !strings.HasPrefix(flag, "cloudsql.") {
			args = append(args, "-c", flag+"="+s.flags[flag])
		}
	}
	bin, err := e.prepare()
	if err != nil {
		return err
	}
	said := size(s.log())
	p, err := e.supervisor.Start(ctx, Spec{
		Name: "postgres " + s.name, Path: filepath.Join(bin, "postgres"), Args: args, Env: environment(s.dir), Dir: s.dir, Log: s.log(),
		Signal: syscall.SIGINT, Unprivileged: true, // fast shutdown: sessions are ended, not waited for
	})
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	// Where it found its address taken it ends, and a stranger there may keep a connection waiting for ever.
	alive, abandon := p.while(limited)
	defer abandon()
	var refused time.Time // when it first refused a connection for a reason that does not pass
	for {
		err := s.do(alive, "postgres", func(*pgx.Conn) error { return nil })
		if err == nil {
			s.process = p
			e.supervisor.keep(p, func(ctx context.Context) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				if p.stopped.Load() {
					return nil
				}
				return e.start(ctx, s)
			})
			return nil
		}
		switch passing := startingUp(err); {
		case passing:
			refused = time.Time{}
		case refused.IsZero():
			refused = time.Now()
		case time.Since(refused) > refusedLimit:
			return errors.Join(logged(errors.New("postgres refuses every connection"), s.log(), said), p.Stop(ctx, time.Second))
		}
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case <-p.Done():
			timer.Stop()
			return logged(fmt.Errorf("postgres ended: %w", errors.Join(p.Err(), errEnded)), s.log(), said)
		case <-limited.Done():
			timer.Stop()
			if ctx.Err() != nil {
				return errors.Join(ctx.Err(), err, p.Stop(ctx, 0))
			}
			return errors.Join(logged(fmt.Errorf("postgres did not answer within %s: %w", startLimit, err), s.log(), said), p.Stop(ctx, time.Second))
		case <-timer.C:
		}
	}
}

// How long a server may take until it answers: long enough to recover from a crash on a busy machine. One that is up and
// refuses the superuser goes on doing so.
const (
	startLimit   = 2 * time.Minute
	refusedLimit = 3 * time.Second
)

var errEnded = errors.New("it does not run")

// startingUp says whether a connection failed for a reason that passes while a server starts: nobody listens yet, or the
// server says that it is starting up.
func startingUp(err error) bool {
	var refusal *pgconn.PgError
	return !errors.As(err, &refusal) || refusal.Code == "57P03"
}

// do runs f on a connection of the superuser. What fails is not written to the server's log with its statement, which may
// hold a password.
func (s *server) do(ctx context.Context, database string, f func(*pgx.Conn) error) error {
	config, err := pgx.ParseConfig("")
	if err != nil {
		return err
	}
	config.Host, config.Port, config.User, config.Password, config.Database = s.addr.String(), postgresPort, admin, s.password, database
	config.Fallbacks, config.TLSConfig = nil, s.authorities.Client()
	config.RuntimeParams = map[string]string{"log_min_error_statement": "panic", "application_name": "difyup local cloud"}
	config.DialFunc = (&net.Dialer{Timeout: 5 * time.Second}).DialContext
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	err = f(c)
	if refusal := (*pgconn.PgError)(nil); errors.As(err, &refusal) && refusal.Code == "53100" {
		err = errors.Join(err, syscall.ENOSPC)
	}
	return err
}

// Running says whether the server runs.
func (e *SQL) Running(name string) bool {
	s, err := e.find(name)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil || s.process.stopped.Load() {
		return false
	}
	select {
	case <-s.process.Done():
		return false
	default:
		return true
	}
}

// Delete ends a server and removes its data.
func (e *SQL) Delete(ctx context.Context, name string) error {
	s, err := e.find(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.remove(ctx, s)
}

func (e *SQL) remove(ctx context.Context, s *server) error {
	defer e.supervisor.wait()()
	var err error
	if s.process != nil {
		// Nothing needs to be saved: "immediate" shutdown.
		_ = s.process.cmd.Process.Signal(syscall.SIGQUIT)
		err = s.process.Stop(ctx, 5*time.Second)
	}
	err = errors.Join(err, os.RemoveAll(s.dir))
	e.net.Release(s.addr)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.servers, s.name)
	return err
}

// SetFlags restarts a server with other flags. When it does not start with them, it gets its old ones back and the error
// says what PostgreSQL said.
func (e *SQL) SetFlags(ctx context.Context, name string, flags map[string]string) error {
	s, err := e.find(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.flags
	if err := e.restart(ctx, s, flags); err != nil {
		return errors.Join(fmt.Errorf("set flags of %s: %w", name, err), e.restart(context.WithoutCancel(ctx), s, old))
	}
	return nil
}

// Restart restarts a server.
func (e *SQL) Restart(ctx context.Context, name string) error {
	s, err := e.find(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.restart(ctx, s, s.flags)
}

func (e *SQL) restart(ctx context.Context, s *server, flags map[string]string) error {
	stopped := e.supervisor.wait()
	err := s.process.Stop(ctx, 30*time.Second)
	stopped()
	if err != nil {
		return err
	}
	s.flags = flags
	return e.start(ctx, s)
}

// CreateDatabase makes a database that belongs to cloudsqlsuperuser, as Cloud SQL's do.
func (e *SQL) CreateDatabase(ctx context.Context, name, database string) error {
	return e.admin(ctx, name, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "CREATE DATABASE "+quote(database)+" OWNER "+superuser)
		return err
	})
}

// DropDatabase removes a database and ends the sessions in it.
func (e *SQL) DropDatabase(ctx context.Context, name, database string) error {
	return e.admin(ctx, name, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(database)+" WITH (FORCE)")
		return err
	})
}

// SetUser makes a user that may log in with a password, with the rights that Cloud SQL gives, or changes the password.
func (e *SQL) SetUser(ctx context.Context, name, user, password string) error {
	return e.admin(ctx, name, func(c *pgx.Conn) error {
		var exists bool
		if err := c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", user).Scan(&exists); err != nil {
			return err
		}
		verb, rights := "ALTER ROLE ", ""
		if !exists {
			verb, rights = "CREATE ROLE ", " CREATEDB CREATEROLE IN ROLE "+superuser
		}
		_, err := c.Exec(ctx, verb+quote(user)+" LOGIN"+rights+" PASSWORD '"+strings.ReplaceAll(password, "'", "''")+"'")
		return err
	})
}

// DropUser removes a user. It fails while objects belong to it, with PostgreSQL's message.
func (e *SQL) DropUser(ctx context.Context, name, user string) error {
	return e.admin(ctx, name, func(c *pgx.Conn) error {
		_, err := c.Exec(ctx, "DROP ROLE IF EXISTS "+quote(user))
		return err
	})
}

func (e *SQL) admin(ctx context.Context, name string, f func(*pgx.Conn) error) error {
	s, err := e.find(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.do(ctx, "postgres", f)
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
