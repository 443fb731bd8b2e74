package logs_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/agent/logs"
	"github.com/difyup/difyup/internal/agent/runtime"
)

// taker is Cloud Logging: it takes entries, refuses while refuse says so, and knows an entry again.
type taker struct {
	refuse func() error
	calls  int
	again  int // entries that it had already
	ids    map[string]bool
	lines  []string // "container: text", in the order of their coming
}

type sent struct {
	Timestamp             time.Time
	InsertID, TextPayload string
	Severity              string
	Labels                map[string]string
}

func (t *taker) take(_ context.Context, b logs.Batch) error {
	t.calls++
	if t.refuse != nil {
		if err := t.refuse(); err != nil {
			return err
		}
	}
	var entries []sent
	if err := json.Unmarshal(slices.Concat([]byte("["), b.Entries, []byte("]")), &entries); err != nil {
		return err
	}
	if len(entries) != b.N {
		return fmt.Errorf("%d entries, and it says %d", len(entries), b.N)
	}
	for _, e := range entries {
		key := e.Timestamp.String() + e.InsertID
		if t.ids[key] {
			t.again++
			continue
		}
		if t.ids == nil {
			t.ids = map[string]bool{}
		}
		t.ids[key] = true
		severity := ""
		if e.Severity != "" {
			severity = e.Severity + " "
		}
		t.lines = append(t.lines, e.Labels["container"]+": "+severity+e.TextPayload)
	}
	return nil
}

func open(t *testing.T, o logs.Options) *logs.Book {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	b, err := logs.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func line(source, text string) runtime.Line {
	return runtime.Line{Source: source, At: time.Now(), Text: text}
}

// check compares lines, and says which are missing or too many.
func check(t *testing.T, got, want []string) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("lines (-want +got):\n%.4000s", d)
	}
}

// TestRefusedForFiveMinutes has Cloud Logging refuse for five minutes, in which lines go on to be written: adding one takes no time,
// none is lost, none comes twice, and all stay in order. How often is asked meanwhile is bounded.
func TestRefusedForFiveMinutes(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := open(t, logs.Options{Dir: dir})
		began := time.Now()
		to := &taker{refuse: func() error {
			if time.Since(began) < 5*time.Minute {
				return errors.New("Cloud Logging: 503 Service Unavailable")
			}
			return nil
		}}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); b.Run(ctx, to.take) }()
		var want []string
		for i := range 6 * 60 * 10 {
			at := time.Now()
			b.Add(line("api", fmt.Sprint(i)))
			if time.Since(at) != 0 {
				t.Fatal("adding a line waited")
			}
			want = append(want, fmt.Sprint("api: ", i))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		stop()
		<-ended
		lines := slices.DeleteFunc(to.lines, func(l string) bool { return strings.HasPrefix(l, "agent: ") })
		check(t, lines, want)
		if to.again > 0 {
			t.Errorf("%d entries came twice", to.again)
		}
		if to.calls > 200 {
			t.Errorf("Cloud Logging was asked %d times in six minutes", to.calls)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestAgentKilled opens a book again and again that was never closed, as after kill -9, also in the middle of a line and between what
// was sent and the note of it: what was added comes, once for whoever knows IDs, and a source goes on from its last line.
func TestAgentKilled(t *testing.T) {
	dir := t.TempDir()
	to := &taker{}
	var want []string
	refused := errors.New("no")
	for life := range 4 {
		b := open(t, logs.Options{Dir: dir})
		last := 0
		if id := b.Last("api"); id != "" {
			if _, err := fmt.Sscanf(id, "c-%d", &last); err != nil {
				t.Fatal(err)
			}
		}
		if last != life*10 {
			t.Fatalf("life %d goes on from line %d, not %d", life, last, life*10)
		}
		for i := last + 1; i <= last+10; i++ {
			b.Add(runtime.Line{Source: "api", At: time.Unix(int64(i), 0), ID: fmt.Sprint("c-", i), Text: fmt.Sprint(i)})
			want = append(want, fmt.Sprint("api: ", i))
		}
		switch life {
		case 0: // not sent
		case 1: // sent, and killed before that was noted
			err := b.Flush(t.Context(), func(ctx context.Context, batch logs.Batch) error {
				if err := to.take(ctx, batch); err != nil {
					return err
				}
				return refused
			})
			if !errors.Is(err, refused) {
				t.Fatal(err)
			}
		case 2: // in the middle of a line
			if err := b.Flush(t.Context(), to.take); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			f, err := os.OpenFile(files[len(files)-1], os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(`{"timestamp":"1970-01-01T00:00:31Z","insertId":"c-31","la`); err != nil {
				t.Fatal(err)
			}
			f.Close()
		case 3:
			if err := b.Flush(t.Context(), to.take); err != nil {
				t.Fatal(err)
			}
		}
	}
	check(t, to.lines, want)
	if to.again != 10 { // that they were sent was not noted
		t.Errorf("%d entries were sent twice, not 10", to.again)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 2 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// TestBounded writes more than a book holds while nothing is taken. It stays within its bounds on disk, keeps the newest lines, and every
// line that was written comes or is counted.
func TestBounded(t *testing.T) {
	dir := t.TempDir()
	const most = 64 << 10
	b := open(t, logs.Options{Dir: dir, Most: most, Rate: 1 << 30, Burst: 1 << 30})
	const n = 2000
	for i := range n {
		b.Add(line("worker", fmt.Sprintf("%04d %s", i, strings.Repeat("x", 200))))
		if i%100 != 0 {
			continue
		}
		size := int64(0)
		files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			info, err := os.Stat(f)
			if err != nil {
				t.Fatal(err)
			}
			size += info.Size()
		}
		if size > most {
			t.Fatalf("the spool has %d bytes, and may have %d", size, most)
		}
	}
	to := &taker{}
	if err := b.Flush(t.Context(), to.take); err != nil {
		t.Fatal(err)
	}
	lost, came := 0, 0
	for _, l := range to.lines {
		if strings.HasPrefix(l, "agent: ") {
			if _, err := fmt.Sscanf(l, "agent: WARNING %d lines were lost", &lost); err != nil {
				t.Errorf("%q: %v", l, err)
			}
			continue
		}
		came++
	}
	if came == 0 || lost == 0 || came+lost != n {
		t.Errorf("%d lines came and %d are counted as lost, of %d", came, lost, n)
	}
	if at := slices.IndexFunc(to.lines, func(l string) bool { return strings.HasPrefix(l, fmt.Sprintf("worker: %04d ", n-1)) }); at < 0 {
		t.Error("the newest line is lost")
	}
}

// TestUnsaved has a disk that takes no other cursor: all that waits is sent, and what that means for the next agent is told once.
func TestUnsaved(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "cursor.json.next"), 0o700); err != nil { // in its place
		t.Fatal(err)
	}
	b := open(t, logs.Options{Dir: dir, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	var want []string
	for i := range 5000 {
		b.Add(line("worker", fmt.Sprint(i)))
		want = append(want, fmt.Sprint("worker: ", i))
	}
	to := &taker{}
	for range 2 {
		if err := b.Flush(t.Context(), to.take); err != nil {
			t.Fatal(err)
		}
		b.Add(line("worker", "one more"))
	}
	own := func(l string) bool { return strings.HasPrefix(l, "agent: WARNING") }
	if n := len(to.lines) - len(slices.DeleteFunc(slices.Clone(to.lines), own)); n != 1 {
		t.Errorf("that it is not noted is told %d times", n)
	}
	check(t, slices.DeleteFunc(to.lines, own), append(want, "worker: one more"))
}

// TestCatchesUp has much wait for Cloud Logging, as after some minutes of refusal: it is taken as fast as it goes, not one batch for
// every time that lines are waited for.
func TestCatchesUp(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := open(t, logs.Options{Dir: dir, Rate: 1 << 30, Burst: 1 << 30})
		const n = 50_000
		for i := range n {
			b.Add(line("worker", fmt.Sprintf("%05d %s", i, strings.Repeat("x", 100))))
		}
		ctx, cancel := context.WithCancel(t.Context())
		to, began := &taker{}, time.Now()
		came, took := 0, time.Duration(0)
		b.Run(ctx, func(ctx context.Context, batch logs.Batch) error {
			time.Sleep(20 * time.Millisecond) // an answer's time
			if came += batch.N; came == n {
				took = time.Since(began)
				cancel()
			}
			return to.take(ctx, batch)
		})
		if took == 0 || took > 3*time.Second {
			t.Errorf("%d of %d lines were taken in %s", came, n, took)
		}
	})
}

// TestStorm has one container write much more than it may. What is too much is counted and told, within seconds; others' lines all come.
func TestStorm(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := open(t, logs.Options{Dir: dir, Rate: 10 << 10, Burst: 20 << 10})
		to := &taker{}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); b.Run(ctx, to.take) }()
		const n = 1000
		for i := range n {
			b.Add(line("sandbox", strings.Repeat("x", 1000)))
			if i%50 == 0 {
				b.Add(line("api", fmt.Sprint(i)))
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(30 * time.Second)
		stop()
		<-ended
		storm, others, counted := 0, 0, 0
		for _, l := range to.lines {
			switch {
			case strings.HasPrefix(l, "sandbox: "):
				storm++
			case strings.HasPrefix(l, "api: "):
				others++
			default:
				left := 0
				if _, err := fmt.Sscanf(l, "agent: WARNING %d lines of sandbox were left out: it writes more than 10 KiB a second", &left); err != nil {
					t.Errorf("%q: %v", l, err)
				}
				counted += left
			}
		}
		if storm < 20 || storm > 40 || storm+counted != n {
			t.Errorf("%d lines of the storm came and %d are counted, of %d", storm, counted, n)
		}
		if others != n/50 {
			t.Errorf("%d of the others' lines came, not %d", others, n/50)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestStormInPieces writes a storm as a pipe gives it, in pieces that end anywhere. Every line comes whole, or is counted.
func TestStormInPieces(t *testing.T) {
	b := open(t, logs.Options{Dir: t.TempDir(), Rate: 1 << 20, Burst: 20 << 10})
	w := &runtime.LineWriter{To: b, Source: "sandbox"}
	const n = 20000
	var all strings.Builder
	for i := range n {
		fmt.Fprintf(&all, "%06d %s\n", i, strings.Repeat("x", i%300))
	}
	for text := all.String(); text != ""; {
		piece := text[:min(len(text), 3001)]
		if _, err := io.WriteString(w, piece); err != nil {
			t.Fatal(err)
		}
		text = text[len(piece):]
	}
	w.End()
	to := &taker{}
	if err := b.Flush(t.Context(), to.take); err != nil {
		t.Fatal(err)
	}
	came, counted := 0, 0
	for _, l := range to.lines {
		var i, left int
		var rest string
		if _, err := fmt.Sscanf(l, "agent: WARNING %d lines of sandbox were left out", &left); err == nil {
			counted += left
			continue
		}
		fmt.Sscanf(l, "sandbox: %d %s", &i, &rest) // of an empty rest, it gives an error
		if l != strings.TrimSuffix(fmt.Sprintf("sandbox: %06d %s", i, strings.Repeat("x", i%300)), "") {
			t.Errorf("a line that was not written: %q", l)
		}
		came++
	}
	if came == 0 || counted == 0 || came+counted != n {
		t.Errorf("%d lines came and %d are counted, of %d", came, counted, n)
	}
}

// TestLines shows what lines become: without secret values, in parts when they are too long, and the agent's own with severities.
func TestLines(t *testing.T) {
	var text strings.Builder
	b := open(t, logs.Options{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))})
	w := &runtime.LineWriter{To: b, Source: "web", Hide: strings.NewReplacer("s3cret", "***").Replace}
	for _, part := range []string{"one\r\ntw", "o has s3cret\n\n", "\xff<&>\n", "three"} {
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
	}
	w.End()
	b.Add(line("api", strings.Repeat("é", 20<<10)))
	log := b.Log().With("instance", "vm-1")
	log.Warn("waiting", "for", "the stores")
	log.Error("gone")
	to := &taker{}
	if err := b.Flush(t.Context(), to.take); err != nil {
		t.Fatal(err)
	}
	check(t, to.lines, []string{
		"web: one", "web: two has ***", "web: \ufffd<&>", "web: three", "api: " + strings.Repeat("é", 16<<10), "api: " + strings.Repeat("é", 4<<10),
		`agent: WARNING msg=waiting instance=vm-1 for="the stores"`, "agent: ERROR msg=gone instance=vm-1",
	})
	if want := "level=WARN msg=waiting instance=vm-1 for=\"the stores\"\nlevel=ERROR msg=gone instance=vm-1\n"; text.String() != want {
		t.Errorf("the log itself has %q, want %q", text.String(), want)
	}
}

// TestRefusedForGood passes over entries that Cloud Logging will never take, and says so.
func TestRefusedForGood(t *testing.T) {
	b := open(t, logs.Options{Dir: t.TempDir()})
	b.Add(line("api", "bad"))
	to := &taker{refuse: func() error { return &logs.Refused{Entries: 1, Err: errors.New("400 Bad Request")} }}
	if err := b.Flush(t.Context(), to.take); err != nil {
		t.Fatal(err)
	}
	to.refuse = nil
	b.Add(line("api", "good"))
	if err := b.Flush(t.Context(), to.take); err != nil {
		t.Fatal(err)
	}
	check(t, to.lines, []string{"api: good", "agent: WARNING 1 lines were refused by Cloud Logging, and are lost"})
}
