//go:build linux

package campaign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/test/cloud"
)

// tries bounds how often a command is given until it goes through faulty answers.
const tries = 40

// patience bounds one command.
const patience = 10 * time.Minute

// phase is a part of a stack's life: a command, and the cloud after it.
type phase struct {
	name    string
	command []string
	edit    bool // the description is changed before
}

var phases = []phase{
	{"create", []string{"apply", "--yes", "--timeout", "10m"}, false},
	{"update", []string{"apply", "--yes", "--timeout", "10m"}, true},
	{"destroy", []string{"destroy", "--yes"}, false},
}

// outcome is what a phase comes to when nobody disturbs it.
type outcome struct {
	dump     string
	requests int64
}

// undisturbed gives the outcomes by phase. Two lives must have the same: else there would be nothing to compare with.
func undisturbed(t *testing.T) map[string]outcome {
	t.Helper()
	all := map[string]outcome{}
	for round := range 2 {
		s := newStack(t)
		for _, p := range phases {
			before := s.info().Requests
			if err := s.prepare(p); err != nil {
				t.Fatal(err)
			}
			if _, err := s.run(p.command...); err != nil {
				t.Fatal(err)
			}
			o := outcome{s.dump(), s.info().Requests - before}
			if d := difference(all[p.name].dump, o.dump); round > 0 && d != "" {
				t.Fatalf("two undisturbed lives differ after %s:\n%s", p.name, d)
			}
			all[p.name] = o
		}
		s.down()
	}
	if left := all["destroy"].dump; strings.Contains(left, "demo-") {
		t.Errorf("something of the stack is left after destroy:\n%s", left)
	}
	return all
}

// story is what happened in a run: err is nil when it ended as it should.
type story struct {
	err   error
	story string
}

// live takes a stack through its life in a cloud of its own.
func live(t *testing.T, m mode, seed uint64, want map[string]outcome) (told story) {
	s := newStack(t)
	defer s.down()
	draw := rand.New(rand.NewPCG(seed, 0))
	var tale strings.Builder
	fail := func(p phase, err error) story {
		return story{fmt.Errorf("%s: %w", p.name, err), tale.String()}
	}
	for _, p := range phases {
		if p.edit && draw.IntN(3) > 0 {
			continue
		}
		if err := s.prepare(p); err != nil {
			return fail(p, err)
		}
		if m != kill && m != interrupt {
			rate := 0.2
			if m == worst {
				rate = 0.05
			}
			if err := s.lie(rate, seed); err != nil {
				return fail(p, err)
			}
		}
		if m != liar {
			for range 1 + draw.IntN(4) {
				// Most moments lie in the first half: the end of a run is waiting, and a run that was cut off before is shorter.
				signal, at := syscall.SIGKILL, int64(float64(want[p.name].requests)*math.Pow(draw.Float64(), 2))
				if m == interrupt {
					signal = []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}[draw.IntN(2)]
				}
				what := []string{faults.Hang, faults.Hold}[draw.IntN(2)] // done or not when the signal comes
				hit, err := s.cut(at, what, signal, p.command...)
				fmt.Fprintf(&tale, "%s: %s at request %d (%s), hit %t\n", p.name, signal, at, what, hit)
				if err != nil {
					return fail(p, err)
				}
			}
		}
		// What is left is done without disturbance, or again and again in spite of it.
		n, err := 0, error(nil)
		for n < tries {
			n++
			var out string
			if out, err = s.run(p.command...); err == nil {
				break
			}
			if said := accusation(out); said != "" {
				return fail(p, fmt.Errorf("%q is said, and it is not so:\n%s", said, out))
			}
			if m == kill || m == interrupt {
				return fail(p, err)
			}
		}
		fmt.Fprintf(&tale, "%s: went through at try %d\n", p.name, n)
		if err != nil {
			return fail(p, fmt.Errorf("after %d tries: %w", n, err))
		}
		if err := s.truth(); err != nil {
			return fail(p, err)
		}
		if p.name != "destroy" {
			if out, err := s.run("plan", "--exit-code"); err != nil {
				return fail(p, fmt.Errorf("something is left to do: %w\n%s", err, out))
			}
		}
		got := s.dump()
		for end := time.Now().Add(time.Minute); got != want[p.name].dump && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			got = s.dump() // what a killed run set off may still be under way: an operation, an instance that leaves
		}
		if d := difference(want[p.name].dump, got); d != "" {
			return fail(p, fmt.Errorf("the cloud differs (-undisturbed +this):\n%s", d))
		}
	}
	return story{nil, strings.ReplaceAll(strings.TrimSpace(tale.String()), "\n", "; ")}
}

// stack runs the programs on a stack and a local cloud of the test's own.
type stack struct {
	t    *testing.T
	dir  string
	file string
}

// newStack starts a cloud that something of somebody else's keeps alive.
func newStack(t *testing.T) *stack {
	t.Helper()
	s := &stack{t: t, dir: cloud.Dir(t), file: filepath.Join(t.TempDir(), "difyup.yaml")}
	example, err := os.ReadFile("../../../examples/difyup.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file, example, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.down)
	if _, err := s.run("local", "up", "--fresh"); err != nil {
		t.Fatal(err)
	}
	i := s.info()
	for _, body := range []string{
		"POST v1/projects/keeper-project/services/storage.googleapis.com:enable {}",
		`POST storage/v1/b?project=keeper-project {"name":"keeper-of-the-cloud"}`,
	} {
		parts := strings.SplitN(body, " ", 3)
		req, err := http.NewRequestWithContext(t.Context(), parts[0], i.URL+parts[1], strings.NewReader(parts[2]))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+i.Token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", body, resp.Status)
		}
	}
	return s
}

func (s *stack) down() {
	if _, err := localcloud.Down(context.Background(), s.dir, nil); err != nil {
		s.t.Error(err)
	}
}

func (s *stack) info() *localcloud.Info {
	s.t.Helper()
	i, err := localcloud.Find(s.t.Context(), s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return i
}

func (s *stack) prepare(p phase) error {
	if !p.edit {
		return nil
	}
	raw, err := os.ReadFile(s.file)
	if err != nil {
		return err
	}
	edited := bytes.Replace(raw, []byte("e2-standard-2"), []byte("e2-standard-8"), 1)
	if bytes.Equal(edited, raw) {
		return errors.New("the example has no machine type to change")
	}
	return os.WriteFile(s.file, edited, 0o644)
}

func (s *stack) command(ctx context.Context, args ...string) *exec.Cmd {
	if args[0] != "local" {
		args = append(args[:len(args):len(args)], "--local", "-f", s.file)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "difyup"), append(args, "--dir", s.dir)...)
	cmd.Env = append(os.Environ(), "NO_COLOR=1")
	return cmd
}

// run gives all that a command says.
func (s *stack) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	out, err := s.command(ctx, args...).CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("it hangs: %w", ctx.Err())
	}
	if said := accusation(string(out)); err == nil && said != "" {
		err = fmt.Errorf("%q is said, and it is not so", said)
	}
	if err != nil {
		return string(out), fmt.Errorf("difyup %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// cut sends a command a signal while the answer to its n-th request is held back, and says whether it came that far.
func (s *stack) cut(n int64, what string, signal syscall.Signal, args ...string) (bool, error) {
	i := s.info()
	rule, err := i.AddFault(s.t.Context(), faults.Rule{
		Name: "cut", Surface: faults.API, Caller: "owner", Rate: 1, Skip: n, Next: 1, Faults: []faults.Fault{{What: what}},
	})
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := s.command(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return false, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	hit := false
	for {
		select {
		case err = <-ended:
			if _, clearErr := i.ClearFaults(s.t.Context(), rule.ID, ""); clearErr != nil {
				return hit, clearErr
			}
			said := accusation(out.String())
			switch {
			case ctx.Err() != nil:
				return hit, fmt.Errorf("difyup %s hangs:\n%s", strings.Join(args, " "), out.String())
			case said != "":
				return hit, fmt.Errorf("%q is said, and it is not so:\n%s", said, out.String())
			case err == nil && hit && signal == syscall.SIGKILL:
				return hit, errors.New("a killed command says that it succeeded")
			}
			return hit, nil
		case <-time.After(2 * time.Millisecond):
		}
		if hit {
			continue
		}
		all, err := i.Faults(s.t.Context())
		if err != nil {
			return false, err
		}
		for _, f := range all {
			if f.ID == rule.ID && f.Hits > 0 {
				hit = true
				if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
					return hit, err
				}
			}
		}
	}
}

// lies are what answers are replaced by, the usual more often than the rare.
var lies = []string{
	"503", "503", "500", "429", "429:1s", "412", "reset-before", "reset-before", "reset-after", "reset-after", "truncate", "hang:200ms", "html", "empty", "double",
	"operation:INTERNAL_ERROR:An internal error has occurred",
}

// lie has answers be faulty.
func (s *stack) lie(rate float64, seed uint64) error {
	rule := faults.Rule{Name: "lies", Surface: faults.API, Rate: rate, Seed: seed}
	for _, text := range lies {
		f, err := faults.Parse(text)
		if err != nil {
			return err
		}
		rule.Faults = append(rule.Faults, f)
	}
	_, err := s.info().AddFault(s.t.Context(), rule)
	return err
}

// truth has all answers be true again.
func (s *stack) truth() error {
	_, err := s.info().ClearFaults(s.t.Context(), 0, "")
	return err
}
