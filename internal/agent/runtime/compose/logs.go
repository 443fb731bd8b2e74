package compose

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// api asks the engine itself: a docker program for each container's log would take as much memory as all of the agent.
type api struct{ client *http.Client }

// newAPI gives the API of the engine that a docker program with this environment finds.
func newAPI(environ []string) (*api, error) {
	host := "unix:///var/run/docker.sock"
	for _, v := range environ {
		if at, ok := strings.CutPrefix(v, "DOCKER_HOST="); ok && at != "" {
			host = at
		}
	}
	path, ok := strings.CutPrefix(host, "unix://")
	if !ok {
		return nil, fmt.Errorf("the engine at %s is not one of this machine", host)
	}
	return &api{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}}, nil
}

func (a *api) get(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("the engine answers %s", resp.Status)
	}
	return resp.Body, nil
}

// containers gives the containers of a project's services, by their IDs: all, or those that run.
func (a *api) containers(ctx context.Context, project string, all bool) (map[string]dify.Name, error) {
	ctx, cancel := context.WithTimeout(ctx, short)
	defer cancel()
	filters, err := json.Marshal(map[string][]string{"label": {"com.docker.compose.project=" + project, "com.docker.compose.oneoff=False"}})
	if err != nil {
		return nil, err
	}
	body, err := a.get(ctx, "/containers/json", url.Values{"filters": {string(filters)}, "all": {strconv.FormatBool(all)}})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var list []struct {
		ID     string `json:"Id"`
		Labels map[string]string
	}
	if err := json.NewDecoder(body).Decode(&list); err != nil {
		return nil, fmt.Errorf("the engine's list of containers: %w", err)
	}
	found := map[string]dify.Name{}
	for _, c := range list {
		found[c.ID] = dify.Name(c.Labels["com.docker.compose.service"])
	}
	return found, nil
}

// state gives how a container is.
func (a *api) state(ctx context.Context, id string) (runtime.State, error) {
	ctx, cancel := context.WithTimeout(ctx, short)
	defer cancel()
	body, err := a.get(ctx, "/containers/"+id+"/json", nil)
	if err != nil {
		return runtime.State{}, err
	}
	defer body.Close()
	var c struct {
		RestartCount int
		State        struct {
			Status string
			Health *struct{ Status string }
		}
	}
	if err := json.NewDecoder(body).Decode(&c); err != nil {
		return runtime.State{}, fmt.Errorf("the engine's words on a container: %w", err)
	}
	s := runtime.State{Well: c.State.Status == "running" && (c.State.Health == nil || c.State.Health.Status == "healthy"), Restarts: c.RestartCount}
	if c.State.Status == "running" {
		s.Memory = a.memory(ctx, id)
	}
	return s, nil
}

// memory gives how much of it a container takes, as `docker stats` counts; 0 when the engine does not say.
func (a *api) memory(ctx context.Context, id string) int64 {
	// Without one-shot it measures for a second, to tell what share of the processors is used.
	body, err := a.get(ctx, "/containers/"+id+"/stats", url.Values{"stream": {"false"}, "one-shot": {"true"}})
	if err != nil {
		return 0
	}
	defer body.Close()
	var c struct {
		Memory struct {
			Usage int64
			Stats map[string]int64
		} `json:"memory_stats"`
	}
	if json.NewDecoder(body).Decode(&c) != nil {
		return 0
	}
	files, old := c.Memory.Stats["total_inactive_file"] // of cgroups v1
	if !old {
		files = c.Memory.Stats["inactive_file"]
	}
	return max(0, c.Memory.Usage-files)
}

// lookForLogs is how often is looked for containers that were started. What they wrote until then is not lost: the engine keeps it.
const lookForLogs = 2 * time.Second

// lastLines is how long is waited for what containers wrote before they ended.
const lastLines = 2 * time.Second

// follow gives the lines of the project's containers to Options.Lines, from where it was left, until the function that it returns is called.
func (e *engine) follow(ctx context.Context, services []dify.Service) (end func()) {
	if e.opts.Lines == nil {
		return func() {}
	}
	engine, err := newAPI(e.opts.Environ)
	if err != nil {
		e.opts.Log.Warn("what containers write cannot be read", "error", err)
		return func() {}
	}
	hide := map[dify.Name]func(string) string{}
	for _, s := range services {
		hide[s.Name] = runtime.Hider(s)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ending, over := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		defer engine.client.CloseIdleConnections()
		var (
			mu       sync.Mutex
			followed = map[string]bool{}
			broke    = map[string]string{}    // what was told of a container's log last
			left     = map[string]time.Time{} // when the log of one that storms was left alone
			streams  sync.WaitGroup
		)
		defer streams.Wait()
		for said, last := "", false; ; {
			all, err := engine.containers(ctx, e.opts.Project, last)
			if err != nil && ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				e.opts.Log.Warn("what containers write cannot be read", "error", err)
			}
			for id, name := range all {
				mu.Lock()
				known, since := followed[id], left[id]
				followed[id] = true
				delete(left, id)
				mu.Unlock()
				if known || last && since.IsZero() {
					continue
				}
				streams.Go(func() {
					// The stream ends with the container. Whatever else ends it, it is tried again.
					err := e.read(ctx, engine, id, name, hide[name], since, stormTail)
					var silent *silence
					for errors.As(err, &silent) {
						err = e.read(ctx, engine, id, name, hide[name], silent.since, silenceTail)
					}
					mu.Lock()
					defer mu.Unlock()
					delete(followed, id)
					if errors.Is(err, errStorm) {
						left[id] = time.Now()
						return
					}
					if err != nil && ctx.Err() == nil && err.Error() != broke[id] {
						broke[id] = err.Error()
						e.opts.Log.Warn("what a container writes cannot be read", "service", name, "error", err)
					}
				})
			}
			if last {
				return
			}
			timer := time.NewTimer(lookForLogs)
			select {
			case <-ending:
				timer.Stop()
				streams.Wait() // of those that storm, the last may be left alone only now
				last = true
			case <-timer.C:
			}
		}
	}()
	return func() {
		close(ending)
		timer := time.NewTimer(lastLines)
		defer timer.Stop()
		select {
		case <-over:
		case <-timer.C:
		}
		cancel()
		<-over
	}
}

// errStorm ends the reading of a log of which too many lines are left out.
var errStorm = errors.New("too many lines")

// silence ends the reading of a log that is silent after a rush, of which nothing is known since a time.
type silence struct{ since time.Time }

func (*silence) Error() string { return "nothing comes any more after a rush" }

// read gives the lines of one container until its log ends: all that were not taken yet, or, of one of which nothing is known since
// a time, the last ones of those that were written after it, so many.
func (e *engine) read(ctx context.Context, engine *api, id string, name dify.Name, hide func(string) string, since time.Time, tail int) error {
	from := place{container: id[:12]}
	if last, ok := parsePlace(e.opts.Lines.Last(string(name))); ok && last.container == from.container {
		from = last
	}
	query := url.Values{"follow": {"1"}, "stdout": {"1"}, "stderr": {"1"}, "timestamps": {"1"}}
	switch {
	case !since.IsZero():
		query.Set("since", fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond()))
		query.Set("tail", strconv.Itoa(tail))
	case from.at != 0:
		query.Set("since", fmt.Sprintf("%d.%09d", from.at/1e9, from.at%1e9))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := engine.get(ctx, "/containers/"+id+"/logs", query)
	if err != nil {
		return err
	}
	defer body.Close()
	var silent atomic.Bool
	waiting := time.AfterFunc(e.silence, func() { silent.Store(true); cancel() })
	waiting.Stop() // until there was a rush
	defer waiting.Stop()
	// The engine gives what is not older: the last lines that were taken come again.
	now := place{container: from.container}
	skipped, pieces, quick, rested := 0, 0, 0, time.Now()
	rest := time.NewTimer(pace)
	defer rest.Stop()
	skip := func(begins bool) bool {
		if pieces++; pieces%paceLines == 0 {
			switch {
			case time.Since(rested) < paceLines*time.Second/rush:
				quick += paceLines
			case quick < rush:
				quick = 0
			}
			rest.Reset(pace)
			select {
			case <-ctx.Done():
			case <-rest.C:
			}
			rested = time.Now()
		}
		if quick >= rush {
			waiting.Reset(e.silence)
		}
		if begins && !e.opts.Lines.Skip(string(name), 1) {
			return false
		}
		if skipped++; skipped == stormLines {
			_ = body.Close() // which ends the reading
		}
		return true
	}
	err = lines(body, skip, func(at time.Time, text string) {
		if at.UnixNano() == now.at {
			now.n++
		} else {
			now.at, now.n = at.UnixNano(), 0
		}
		if from.at == 0 || now.after(from) {
			e.opts.Lines.Add(runtime.Line{Source: string(name), At: at, ID: now.String(), Text: text, Hide: hide})
		}
	})
	switch {
	case skipped >= stormLines:
		return errStorm
	case silent.Load() && skipped == 0:
		return &silence{time.Unix(0, now.at)}
	case silent.Load(): // what is left out is counted, and not to come again
		return &silence{time.Now().Add(-e.silence)}
	}
	return err
}

// stormLines is how many lines of a container, or pieces of long ones, are left out until its log is left alone, to the next look at it: to hand a line
// over costs the engine more than to have it, and us as much again. To read on, but slowly, would not do: the engine (20.10)
// then gave nothing any more after the storm, whose files had come round meanwhile.
//
// stormTail is how many of its last lines are read then: about as many as may be taken after two seconds, so that the newest are.
const (
	stormLines = 10_000
	stormTail  = 2_000
)

// A rest after so many lines, or pieces of them: what is read at once would else keep a processor from the front door, which is of the same
// process, for the 10 ms that Go lets work go on. Some 7,000 lines a second may still come.
const (
	paceLines = 8
	pace      = time.Millisecond
)

// A log that came in a rush, of so many lines in less than a second, and then is silent for longSilence is asked for again, once, for so many of its
// last lines, about as many as may be taken after that time: an engine whose files came round faster than they were read (20.10) gives
// nothing any more, and does not say so.
const (
	rush        = 1000
	longSilence = 10 * time.Second
	silenceTail = 10_000
)

// place is where a line is in a container's log: its time, and which of those with this time it is. Written, it is the line's ID.
type place struct {
	container string
	at        int64
	n         int
}

func (p place) String() string { return fmt.Sprintf("%s-%d-%d", p.container, p.at, p.n) }

func (p place) after(q place) bool { return p.at > q.at || p.at == q.at && p.n > q.n }

func parsePlace(id string) (place, bool) {
	parts := strings.Split(id, "-")
	if len(parts) != 3 {
		return place{}, false
	}
	at, err := strconv.ParseInt(parts[1], 10, 64)
	n, also := strconv.Atoi(parts[2])
	return place{parts[0], at, n}, err == nil && also == nil
}

// longestLine is where a line is cut that does not end.
const longestLine = 256 << 10

// begun is what came of a line that has not ended.
type begun struct {
	stamp []byte // its time, as the engine writes it
	text  []byte
	size  int  // of what came, also of what is left out
	out   bool // it is left out
}

// lines reads the engine's stream of a log: frames of eight bytes that say how long they are, with text, which may be a piece of a line. A
// line's pieces have the same time. It ends with a newline, with the next one, or with the log: of a container that ends in the midst of a
// line, and of what was cut into pieces (by 20.10), no piece has a newline. A line is not looked at if skip says so, which is asked at its beginning,
// and told of its other pieces.
func lines(r io.Reader, skip func(begins bool) bool, give func(at time.Time, text string)) error {
	unknown := errors.New("the engine's log is in no form that is known")
	in := bufio.NewReaderSize(r, 64<<10)
	var head [8]byte
	var frame []byte
	var open [3]begun // by the stream, of 1 and 2
	end := func(l *begun) error {
		text := bytes.TrimSuffix(bytes.TrimSuffix(l.text, []byte("\n")), []byte("\r"))
		if len(text) > 0 {
			at, err := time.Parse(time.RFC3339Nano, string(l.stamp))
			if err != nil {
				return unknown
			}
			give(at, string(text))
		}
		l.text, l.size = l.text[:0], 0
		return nil
	}
	for {
		if _, err := io.ReadFull(in, head[:]); errors.Is(err, io.EOF) {
			return errors.Join(end(&open[0]), end(&open[1]), end(&open[2]))
		} else if err != nil {
			return err
		}
		stream, size := head[0], binary.BigEndian.Uint32(head[4:])
		if stream > 2 || size > 1<<20 {
			return unknown
		}
		frame = slices.Grow(frame[:0], int(size))[:size]
		if _, err := io.ReadFull(in, frame); err != nil {
			return err
		}
		stamp, text, _ := bytes.Cut(frame, []byte(" "))
		l := &open[stream]
		if l.size > 0 && !bytes.Equal(stamp, l.stamp) {
			if err := end(l); err != nil {
				return err
			}
		}
		if l.size == 0 {
			l.stamp, l.out = append(l.stamp[:0], stamp...), skip(true)
		} else if l.out {
			skip(false)
		}
		l.size += len(text)
		if !l.out {
			l.text = append(l.text, text...)
		}
		if bytes.HasSuffix(text, []byte("\n")) || l.size > longestLine {
			if err := end(l); err != nil {
				return err
			}
		}
	}
}
