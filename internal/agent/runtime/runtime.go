package runtime

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/sockets"
)

// Runtime runs services on this machine. Its methods may be called at the same time; Run is called once at a time.
// No error of theirs shows a secret value.
type Runtime interface {
	// Prepare does what can be done before the stores answer: it checks that the services can be run, and fetches what they
	// are made of. Of jobs that an earlier runtime left when it died, none is left then. It may be repeated, and costs little when
	// there is nothing to do. Its error is an *Unfetched where nothing else is wrong than that something cannot be fetched.
	Prepare(ctx context.Context, services []dify.Service) error
	// Run starts the services, in the order of their needs, and keeps them running until ctx ends; then it stops them, those
	// that need others first, and returns nil. Its error is that they cannot be kept running, a *Failure where one service is
	// the cause; then nothing is left running that a second Run would not take over.
	Run(ctx context.Context, services []dify.Service) error
	// Stop tells services of Run's to end, and returns when they have; those that have not when ctx ends are killed. Until the
	// next Run they are not started again, and Health does not ask for them. Its error joins a *Failure for each that was killed.
	// Services that do not run are none of its business.
	Stop(ctx context.Context, services []dify.Name) error
	// Job runs one more container of a service's to its end. Its error is that this could not be done; how the program ended
	// is in the result.
	Job(ctx context.Context, job Job) (Result, error)
	// Address gives where a service of Run's answers, IP:PORT; "" for one that cannot be reached from this machine.
	Address(n dify.Name) string
	// Relay gives the address of this machine at which worker_beat finds dify.RelayHost, and from where it comes; from anywhere
	// if peers is not valid. The machine may have the address only while services run.
	Relay() (at netip.Addr, peers netip.Prefix)
	// Identity gives where on this machine a service asks who it is, before anything else of it runs; at is not valid for a service
	// that has no identity. The machine may have the address only while services run.
	Identity(n dify.Name) (at netip.AddrPort, from Asker)
	// Health gives nil if the services that Run runs answer, as far as they can be asked, else a *Failure of one that does not.
	Health(ctx context.Context) error
	// States gives how each service is, as far as is known; of one that does not run there is nothing.
	States(ctx context.Context) (map[dify.Name]State, error)
}

// State is how a service is.
type State struct {
	Well     bool  // it runs, and answers if it can be asked
	Restarts int   // how often it was started again because it had ended
	Memory   int64 // bytes that it takes, without files that can be read again; 0 = not known
}

// Line is a line that a service wrote.
type Line struct {
	Source string // the service's name
	At     time.Time
	ID     string // tells it from all others of its time, always the same for a line; "" = who takes it gives it one
	Text   string
	Hide   func(string) string // takes secret values out of Text; nil = there are none
}

// Lines takes what services write. Its methods never wait for anybody.
type Lines interface {
	Add(Line)
	// Skip counts lines of a source as left out, if it writes too much to take any now. Else it says no, and they are to be added.
	Skip(source string, lines int) bool
	// Last gives the ID of the last line of a source that was taken, also before this process; "" when it is not known.
	Last(source string) (id string)
}

// Asker says how the one who may ask is known; its zero value is that everybody may.
type Asker struct {
	Device string // the network device by which it comes
	Own    bool   // it is a process of this program's user, on this machine
}

// Know tells why a connection is not the asker's.
func (a Asker) Know(c net.Conn) error {
	if a.Device != "" {
		device, err := sockets.Device(c)
		if err == nil && device != a.Device {
			err = fmt.Errorf("it comes by %s, and not by %s", device, a.Device)
		}
		return err
	}
	if a.Own {
		peer, here := c.RemoteAddr().(*net.TCPAddr).AddrPort(), c.LocalAddr().(*net.TCPAddr).AddrPort()
		uid, err := sockets.UserOf(peer, here)
		if err == nil && uid != os.Geteuid() {
			err = fmt.Errorf("it is of user %d", uid)
		}
		return err
	}
	return nil
}

// IdentityVariables are what Google's clients find a metadata server by. Go's knows the first alone; Python's asks the
// second whether it is on Google, and the third is an older name of the first.
func IdentityVariables(at netip.AddrPort) map[string]string {
	host := at.String()
	if at.Port() == 80 {
		host = at.Addr().String()
	}
	return map[string]string{"GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "GCE_METADATA_ROOT": host}
}

// Job is one container to be run to its end.
type Job struct {
	Service     dify.Service      // whose image, environment, networks and limits it has
	Command     []string          // nil = the service's
	Environment map[string]string // instead of, or besides, the service's
}

// Result is how a job ended.
type Result struct {
	Status int    // exit status; above 128 it was a signal, less 128
	Lines  string // the last lines of what it said, without secret values
}

// Unfetched is that what services are made of cannot be fetched, for which others than this machine may be the cause.
type Unfetched struct{ Err error }

func (u *Unfetched) Error() string { return u.Err.Error() }
func (u *Unfetched) Unwrap() error { return u.Err }

// Failure is that one service does not run or answer.
type Failure struct {
	Service dify.Name
	State   string // "exited with status 1", "does not answer: …"
	Ended   bool   // it does not run: to ask it again has no use
	Lines   string // the last lines of what it said, without secret values; "" when they are not known
}

func (f *Failure) Error() string {
	text := fmt.Sprintf("%s %s", f.Service, f.State)
	if f.Lines != "" {
		text += ": " + strings.Join(strings.FieldsFunc(f.Lines, func(r rune) bool { return r == '\n' }), " | ")
	}
	return text
}

// Killed is the state of a service that Stop had to kill.
const Killed = "did not end in time and was killed"

// patience is how long a service may take to say that it is well. One that hangs is known within three times that.
const patience = 4 * time.Second

// Ask asks a service at an address, as its health says, once.
func Ask(ctx context.Context, client *http.Client, address string, h dify.Health) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if h.Path == "" {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		return c.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+h.Path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // the status is all that counts
	if resp.StatusCode >= 400 {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}

// Hide replaces the secret values of services in a text, also as they are written in URLs and between quotes. Values of three
// characters and less are left: they are in every text.
func Hide(text string, services ...dify.Service) string { return Hider(services...)(text) }

// Hider gives Hide for many texts.
func Hider(services ...dify.Service) func(string) string {
	var words []string
	for _, s := range services {
		for name, value := range s.Environment {
			if len(value) <= 3 || !s.Secret(name) {
				continue
			}
			words = append(words, value, url.PathEscape(value), url.QueryEscape(value), strings.Trim(strconv.Quote(value), `"`))
			// Of a key of several lines, a program may show one.
			for line := range strings.Lines(value) {
				if line = strings.TrimSpace(line); len(line) > 3 {
					words = append(words, line)
				}
			}
		}
	}
	// One that is part of another would leave the rest of that.
	slices.SortFunc(words, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	var pairs []string
	for _, w := range slices.Compact(words) {
		pairs = append(pairs, w, "***")
	}
	return strings.NewReplacer(pairs...).Replace
}

// LineWriter makes lines of what a service writes.
type LineWriter struct {
	To     Lines
	Source string
	Hide   func(string) string

	part []byte // a line that has not ended
}

// longestLine is where a line is cut that does not end.
const longestLine = 64 << 10

// Write never fails.
func (w *LineWriter) Write(p []byte) (int, error) {
	n := len(p)
	// Of one that storms no line is looked at.
	if last := bytes.LastIndexByte(p, '\n'); last >= 0 && w.To.Skip(w.Source, bytes.Count(p, []byte("\n"))) {
		w.part = append(w.part[:0], p[last+1:]...)
		return n, nil
	}
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			if w.part = append(w.part, p...); len(w.part) >= longestLine {
				w.End()
			}
			break
		}
		w.part = append(w.part, p[:end]...)
		p = p[end+1:]
		w.End()
	}
	return n, nil
}

// End ends the line that is being written, if there is one.
func (w *LineWriter) End() {
	if text := bytes.TrimRight(w.part, "\r"); len(text) > 0 {
		w.To.Add(Line{Source: w.Source, At: time.Now(), Text: string(text), Hide: w.Hide})
	}
	w.part = w.part[:0]
}

// Tail keeps the last lines of what is written to it. The zero value is ready, and may be written to by several.
type Tail struct {
	mu   sync.Mutex
	text []byte
}

// What Tail keeps at most.
const (
	tailLines = 20
	tailBytes = 8 << 10
)

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailBytes; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// String gives the last lines.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}
