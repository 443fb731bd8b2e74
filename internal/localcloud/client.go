package localcloud

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/sockets"
)

// Info is a running local cloud, as it says itself.
type Info struct {
	PID       int       `json:"pid"`
	URL       string    `json:"url"` // of Google's APIs: "http://127.64.0.1:4000/"
	Token     string    `json:"-"`   // the owner's access token, from the directory
	Dir       string    `json:"dir"`
	StartedAt time.Time `json:"startedAt"`
	Version   string    `json:"version"` // of difyup
	Addresses string    `json:"addresses"`
	Users     string    `json:"users"` // the IDs of those that instances run as; "" for the owner
	DNS       string    `json:"dns"`
	TimeScale float64   `json:"timeScale"`
	Transient bool      `json:"transient"` // it was started for a stack, and is to end with its last one

	Listeners []Listener     `json:"listeners"`
	Servers   []Server       `json:"servers"`
	Instances []Instance     `json:"instances"`
	Buckets   []Bucket       `json:"buckets"`
	Resources map[string]int `json:"resources"` // number by collection

	Requests int64            `json:"requests"` // to Google's APIs, so far
	Methods  map[string]int64 `json:"methods"`  // the same by method
	Waited   float64          `json:"waited"`   // seconds in which database servers were waited for
}

// Empty says whether nothing of anybody's is left. Enabled APIs and policies are not anybody's.
func (i *Info) Empty() bool {
	for name, n := range i.Resources {
		switch name {
		case "services", "iamPolicies", "serviceAccounts.deleted", "dns.changes":
		default:
			if n > 0 {
				return false
			}
		}
	}
	return true
}

// Listener is a forwarding rule and where it really listens.
type Listener struct {
	Name    string `json:"name"`
	Project string `json:"project"`
	Scheme  string `json:"scheme"`
	Address string `json:"address"`
	Port    int    `json:"port"`            // the rule's, or a free one where that may not be bound
	Taken   int    `json:"taken,omitempty"` // the rule's, where another program has that
}

// URL is where a browser finds it.
func (l Listener) URL() string {
	if l.Scheme == "https" && l.Port == 443 || l.Scheme == "http" && l.Port == 80 {
		return l.Scheme + "://" + l.Address
	}
	return fmt.Sprintf("%s://%s:%d", l.Scheme, l.Address, l.Port)
}

// Server is a database or cache server.
type Server struct {
	Kind    string `json:"kind"` // "PostgreSQL", "Redis"
	Name    string `json:"name"`
	Project string `json:"project"`
	State   string `json:"state"`
	Address string `json:"address"` // with its port
}

// Instance is a machine.
type Instance struct {
	Name    string `json:"name"`
	Project string `json:"project"`
	Zone    string `json:"zone"`
	Status  string `json:"status"`
	Address string `json:"address"`
}

// Bucket is a bucket.
type Bucket struct {
	Name    string `json:"name"`
	Objects int    `json:"objects"`
	Bytes   int64  `json:"bytes"`
}

// DefaultDir is where a local cloud keeps its state: $DIFYUP_LOCAL_DIR, else a directory that root's servers, which run
// as another user, can reach, else below the user's own state directory.
func DefaultDir() (string, error) {
	if dir := os.Getenv("DIFYUP_LOCAL_DIR"); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return "/var/lib/difyup/local", nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "difyup", "local"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the user's home: %w", err)
	}
	return filepath.Join(home, ".local", "state", "difyup", "local"), nil
}

const (
	infoFile  = "cloud.json"
	tokenFile = "token" // the owner's access token, anew at every start
	lockFile  = "lock"
	logFile   = "cloud.log"
)

// ErrNotRunning says that no local cloud runs in a directory.
var ErrNotRunning = errors.New("no local cloud runs there")

// ErrNotThere says that a program of an instance's does not run.
var ErrNotThere = errors.New("it does not run")

// Find gives the local cloud that runs in dir, or ErrNotRunning. What one that was killed left there is believed as little as who has taken
// its address: the process that says where it is must hold the lock, and where that is, only the owner's own file says.
func Find(ctx context.Context, dir string) (*Info, error) {
	path := filepath.Join(dir, infoFile)
	if err := owned(path); errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotRunning
	} else if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	var at Info
	if err := json.Unmarshal(raw, &at); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	token, err := os.ReadFile(filepath.Join(dir, tokenFile)) // is there before infoFile is
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	at.Token = string(token)
	if !held(dir, at.PID) {
		return nil, ErrNotRunning
	}
	var info Info
	if err := at.ask(ctx, http.MethodGet, "local/v1/status", nil, &info); err != nil {
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			return nil, silent(dir, at.PID)
		}
		return nil, ErrNotRunning // it is ending, and another user may have its port already
	}
	info.PID, info.URL, info.Token, info.Dir = at.PID, at.URL, at.Token, at.Dir
	return &info, nil
}

// Dialer makes connections to a local cloud. It is safe for concurrent use.
type Dialer struct {
	mu    sync.Mutex // held while the kernel is asked who listens
	at    netip.AddrPort
	began time.Time // when it was asked last, and what it said
	uid   int
	found bool
	err   error
}

// Dial connects to a local cloud of this user's. Whoever listens at its address when it has ended may be any user of the machine: a
// connection to another one's program is an error, and nothing is sent.
func (d *Dialer) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	uid, found, err := d.listener(c.RemoteAddr().(*net.TCPAddr).AddrPort())
	switch {
	case err != nil:
		err = fmt.Errorf("see whose program listens at %s: %w", address, err)
	case !found:
		err = fmt.Errorf("nobody listens at %s any more", address)
	case uid != os.Geteuid():
		err = &fault.Fault{
			Summary: "Another user has the local cloud's address",
			Detail:  fmt.Sprintf("The local cloud has ended, and at %s listens a program of user %d. It was sent nothing.", address, uid),
			Remedy:  "Start the local cloud anew, which takes another address:\n    difyup local up",
		}
	default:
		return c, nil
	}
	c.Close()
	return nil, err
}

// listener gives who listens at an address to which there is a connection by now. Who listens there later is who it came to: a listener that
// is closed takes its connections along. So one look serves all that were there when it began; a plan makes dozens at once.
func (d *Dialer) listener(at netip.AddrPort) (uid int, found bool, err error) {
	connected := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.at != at || d.began.Before(connected) {
		d.at, d.began = at, time.Now()
		d.uid, d.found, d.err = sockets.ListenerOf(at)
	}
	return d.uid, d.found, d.err
}

// delay has every request to Google's APIs answered that much later.
func delay(d time.Duration) faults.Rule {
	return faults.Rule{Name: "delay", Surface: faults.API, Rate: 1, Faults: []faults.Fault{{What: faults.Latency, Least: d}}}
}

// SetDelay has every request to Google's APIs answered that much later, in place of an earlier delay.
func (i *Info) SetDelay(ctx context.Context, d time.Duration) error {
	if d == 0 {
		_, err := i.ClearFaults(ctx, 0, "delay")
		return err
	}
	_, err := i.AddFault(ctx, delay(d))
	return err
}

// AddFault puts a rule in force, and gives it as it is now. A RefusedError says why a rule makes no sense.
func (i *Info) AddFault(ctx context.Context, r faults.Rule) (faults.Rule, error) {
	var got faults.Rule
	err := i.ask(ctx, http.MethodPost, "local/v1/faults", r, &got)
	return got, err
}

// Faults gives the rules in force.
func (i *Info) Faults(ctx context.Context) ([]faults.State, error) {
	var all []faults.State
	err := i.ask(ctx, http.MethodGet, "local/v1/faults", nil, &all)
	return all, err
}

// ClearFaults takes away the rule with an ID, or a name, or all when neither is given. It gives how many there were.
func (i *Info) ClearFaults(ctx context.Context, id int, name string) (int, error) {
	q := url.Values{}
	if id != 0 {
		q.Set("id", strconv.Itoa(id))
	}
	if name != "" {
		q.Set("name", name)
	}
	var got struct{ Cleared int }
	err := i.ask(ctx, http.MethodDelete, "local/v1/faults?"+q.Encode(), nil, &got)
	return got.Cleared, err
}

// Dump is all that a local cloud knows: bodies by collection and key, versions of secrets with hashes of their payloads,
// and every generation of every object.
type Dump struct {
	Collections map[string]map[string]map[string]any `json:"collections"`
	Secrets     map[string][]map[string]any          `json:"secrets"`
	Objects     map[string][]map[string]any          `json:"objects"`
}

// Dump gives all that the local cloud knows.
func (i *Info) Dump(ctx context.Context) (Dump, error) {
	var d Dump
	err := i.ask(ctx, http.MethodGet, "local/v1/dump", nil, &d)
	return d, err
}

// RefusedError is why the local cloud does not do what makes no sense.
type RefusedError struct{ Message string }

// Error gives the sentence.
func (e *RefusedError) Error() string { return e.Message }

// How long the local cloud may take to answer what is its own, which takes milliseconds; and when a look is taken whether
// it was stopped, which needs no more patience.
const patience, impatience = 10 * time.Second, time.Second

// longest bounds an answer. A dump of a large stack takes a few megabytes.
const longest = 64 << 20

// Keep has a transient local cloud outlive its last stack: somebody wants it for itself.
func (i *Info) Keep(ctx context.Context) error {
	i.Transient = false
	return i.ask(ctx, http.MethodPost, "local/v1/keep", nil, nil)
}

// ask calls what is the local cloud's own, not Google's. The error is context.DeadlineExceeded when it does not answer.
func (i *Info) ask(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	timer := time.AfterFunc(impatience, func() {
		if stopped(i.PID) {
			giveUp(context.DeadlineExceeded)
		}
	})
	defer timer.Stop()
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, i.URL+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+i.Token)
	client := &http.Client{Transport: &http.Transport{DialContext: new(Dialer).Dial, DisableKeepAlives: true}} // never through a proxy
	resp, err := client.Do(req)
	if err != nil {
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return context.DeadlineExceeded
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusBadRequest {
		why, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		if err != nil {
			return err
		}
		return &RefusedError{strings.TrimSpace(string(why))}
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s", method, i.URL+path, resp.Status)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(resp.Body, longest)).Decode(out)
}

// lastLines gives the end of a log, for an error.
func lastLines(path string, n int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
