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
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/test/cloud"
)

// polls are not counted when a moment is sought: how many there are depends on how fast the machine is.
const polls = "*perations.*"

// tries bounds how often a command is given until it goes through faulty answers.
const tries = 40

// interrupted is the exit code of a command that a signal ended.
const interrupted = 130

// patience bounds one command.
const patience = 10 * time.Minute

// phase is a part of a stack's life: a command, and the cloud after it.
type phase struct {
	name    string
	command []string
	edit    bool  // the description is changed before
	length  int64 // how many requests an undisturbed run makes, about, without polls
}

var phases = []phase{
	{"create", []string{"apply", "--yes", "--timeout", "10m"}, false, 250},
	{"update", []string{"apply", "--yes", "--timeout", "10m"}, true, 90},
	{"destroy", []string{"destroy", "--yes"}, false, 90},
}

// undisturbed gives the dumps of the cloud after each phase. Two lives must have the same: else there would be nothing to compare with.
func undisturbed(t *testing.T) map[string]string {
	t.Helper()
	var (
		wg    sync.WaitGroup
		lives [2]map[string]string
		errs  [2]error
	)
	for i := range lives {
		s := newStack(t)
		wg.Go(func() { lives[i], errs[i] = s.live() })
	}
	wg.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	all := lives[0]
	for _, p := range phases {
		if d := difference(all[p.name], lives[1][p.name]); d != "" {
			t.Fatalf("two undisturbed lives differ after %s:\n%s", p.name, d)
		}
	}
	if left := all["destroy"]; strings.Contains(left, "demo-") {
		t.Errorf("something of the stack is left after destroy:\n%s", left)
	}
	return all
}

// live takes a stack through its life, undisturbed.
func (s *stack) live() (map[string]string, error) {
	all := map[string]string{}
	for _, p := range phases {
		if err := s.prepare(p); err != nil {
			return nil, err
		}
		if _, err := s.run(p.command...); err != nil {
			return nil, err
		}
		dump, err := s.dump()
		if err != nil {
			return nil, err
		}
		all[p.name] = dump
	}
	s.down()
	return all, nil
}

// story is what happened in a run: err is nil when it ended as it should.
type story struct {
	err   error
	story string
}

// live takes a stack through its life in a cloud of its own.
func live(t *testing.T, m mode, seed uint64, want map[string]string) (told story) {
	s := newStack(t)
	defer s.down()
	draw := rand.New(rand.NewPCG(seed, 0))
	var tale strings.Builder
	fail := func(p phase, err error) story {
		return story{fmt.Errorf("%s: %w", p.name, err), tale.String() + s.hits()}
	}
	for _, p := range phases {
		if p.edit && draw.IntN(3) > 0 {
			continue
		}
		if err := s.prepare(p); err != nil {
			return fail(p, err)
		}
		if m == liar || m == worst {
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
				signal, at := syscall.SIGKILL, int64(float64(p.length)*math.Pow(draw.Float64(), 2))
				if m == interrupt {
					signal = []syscall.Signal{syscall.SIGINT, syscall.SIGTERM}[draw.IntN(2)]
				}
				if m == storm {
					n := 1 + draw.Int64N(6)
					fmt.Fprintf(&tale, "%s: %d connections reset from request %d\n", p.name, n, at)
					if err := s.reset(at, n, seed, p.command...); err != nil {
						return fail(p, err)
					}
					continue
				}
				what := []string{faults.Hang, faults.Hold}[draw.IntN(2)] // done or not when the signal comes
				hit, err := s.cut(at, what, signal, m == worst, p.command...)
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
			if _, err = s.run(p.command...); err == nil {
				break
			}
			if errors.Is(err, errAccused) || m != liar && m != worst {
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
		got, err := s.dump()
		for end := time.Now().Add(time.Minute); err == nil && got != want[p.name] && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			got, err = s.dump() // what a killed run set off may still be under way: an operation, an instance that leaves
		}
		if err != nil {
			return fail(p, err)
		}
		if d := difference(want[p.name], got); d != "" {
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

// errAccused says that a command said what is not so. It is none of the failures that a disturbance justifies.
var errAccused = errors.New("it is said, and it is not so")

// judge gives the error of a command: how it ended, whether it hung, and what it said that is not so, however it ended.
func judge(ctx context.Context, out string, err error, args []string) error {
	said := accusation(out)
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("it hangs: %w", ctx.Err())
	case said != "":
		err = fmt.Errorf("%q: %w", said, errAccused)
	case err == nil:
		return nil
	}
	return fmt.Errorf("difyup %s: %w\n%s", strings.Join(args, " "), err, out)
}

// run gives all that a command says.
func (s *stack) run(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	out, err := s.command(ctx, args...).CombinedOutput()
	return string(out), judge(ctx, string(out), err, args)
}

// cut sends a command a signal while the answer to its n-th request is held back, and says whether it came that far. By itself the
// command fails only where it may, and after the signal only because of that.
func (s *stack) cut(n int64, what string, signal syscall.Signal, mayFail bool, args ...string) (bool, error) {
	i := s.info()
	rule, err := i.AddFault(s.t.Context(), faults.Rule{
		Name: "cut", Surface: faults.API, Caller: "owner", Except: polls, Rate: 1, Skip: n, Next: 1, Faults: []faults.Fault{{What: what}},
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
			err = judge(ctx, out.String(), err, args)
			switch exit := (*exec.ExitError)(nil); {
			case err == nil && hit && signal == syscall.SIGKILL:
				return hit, errors.New("a killed command says that it succeeded")
			case err == nil, errors.Is(err, errAccused), !errors.As(err, &exit):
				return hit, err
			case hit && !exit.Exited(), hit && signal != syscall.SIGKILL && exit.ExitCode() == interrupted, mayFail:
				return hit, nil
			}
			return hit, fmt.Errorf("by itself: %w", err)
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

// reset has n connections reset, from a command's request at on, before or after the request was done. The command may fail.
func (s *stack) reset(at, n int64, seed uint64, args ...string) error {
	rule, err := s.info().AddFault(s.t.Context(), faults.Rule{
		Name: "reset", Surface: faults.API, Caller: "owner", Except: polls, Rate: 1, Skip: at, Next: n, Seed: seed, Faults: []faults.Fault{{What: faults.ResetBefore}, {What: faults.ResetAfter}},
	})
	if err != nil {
		return err
	}
	if _, err := s.run(args...); errors.Is(err, errAccused) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	_, err = s.info().ClearFaults(s.t.Context(), rule.ID, "")
	return err
}

// lies are what answers are replaced by, the usual more often than the rare.
var lies = []string{
	"503", "503", "500", "429", "429:1s", "reset-before", "reset-before", "reset-after", "reset-after", "truncate", "hang:200ms", "html", "empty", "double",
	"operation:INTERNAL_ERROR:An internal error has occurred",
}

// lie has answers be faulty.
func (s *stack) lie(rate float64, seed uint64) error {
	rules := []faults.Rule{
		{Surface: faults.API, Rate: rate, Seed: seed},
		// 412 is an answer to a precondition; elsewhere it would mean something, and be believed.
		{Surface: faults.API, Rate: rate / 4, Seed: seed, Service: "storage", Method: "storage.objects.*", Faults: []faults.Fault{{What: faults.Status, Code: http.StatusPreconditionFailed}}},
	}
	for _, text := range lies {
		f, err := faults.Parse(text)
		if err != nil {
			return err
		}
		rules[0].Faults = append(rules[0].Faults, f)
	}
	i := s.info()
	for _, rule := range rules {
		if _, err := i.AddFault(s.t.Context(), rule); err != nil {
			return err
		}
	}
	return nil
}

// hits gives the faults that requests met which change something, as the local cloud's log has them.
func (s *stack) hits() string {
	raw, err := os.ReadFile(filepath.Join(s.dir, "cloud.log"))
	if err != nil {
		return err.Error()
	}
	var out strings.Builder
	for line := range strings.Lines(string(raw)) {
		_, hit, ok := strings.Cut(line, `msg="a fault" `)
		if ok && !strings.Contains(hit, ".get") && !strings.Contains(hit, ".list") && !strings.Contains(hit, ".wait") && !strings.Contains(hit, ".access") {
			out.WriteString(hit)
		}
	}
	return out.String()
}

// truth has all answers be true again.
func (s *stack) truth() error {
	_, err := s.info().ClearFaults(s.t.Context(), 0, "")
	return err
}
