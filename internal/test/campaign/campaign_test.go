//go:build linux

package campaign

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/test/cloud"
	"github.com/difyup/difyup/internal/test/need"
)

var (
	kills      = flag.Int("kills", 1, "runs that are killed")
	faulty     = flag.Int("faulty", 1, "runs in which a fifth of all answers is faulty")
	interrupts = flag.Int("interrupts", 1, "runs that are interrupted")
	resets     = flag.Int("resets", 1, "runs whose connections are reset")
	both       = flag.Int("both", 0, "runs that are killed while answers are faulty")
	seed       = flag.Uint64("seed", 1, "of the first run of each mode; the others have the numbers after it")
)

var programs string // a directory with difyup and difyup-agent

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		if testing.Short() {
			return m.Run()
		}
		var err error
		if programs, err = os.MkdirTemp("", "difyup-programs-"); err == nil {
			defer os.RemoveAll(programs)
			if err = os.Chmod(programs, 0o755); err == nil {
				err = cloud.Build(programs, "difyup", "difyup-agent")
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// TestCampaign runs stacks through their lives, each in a local cloud of its own, disturbed as mode and seed have it. A run
// that fails is repeated, with its seed:
//
//	go test ./internal/test/campaign -run TestCampaign -v -kills 1 -faulty 0 -interrupts 0 -seed 17
func TestCampaign(t *testing.T) {
	need.Long(t, "starts local clouds")
	want := undisturbed(t)
	var (
		mu     sync.Mutex
		failed = map[mode][]string{}
		ran    = map[mode]int{}
		began  = time.Now()
		turns  = make(chan struct{}, 2*runtime.GOMAXPROCS(0)) // a run waits half of its time; -parallel must let as many begin
	)
	t.Run("runs", func(t *testing.T) {
		for _, m := range modes {
			for i := range *m.runs {
				s := *seed + uint64(i)
				t.Run(fmt.Sprintf("%s/%d", m.mode, s), func(t *testing.T) {
					t.Parallel()
					turns <- struct{}{}
					defer func() { <-turns }()
					began := time.Now()
					said := live(t, m.mode, s, want)
					mu.Lock()
					defer mu.Unlock()
					ran[m.mode]++
					if said.err != nil {
						failed[m.mode] = append(failed[m.mode], fmt.Sprint(s))
						t.Errorf("seed %d of %s: %v\n%s", s, m.mode, said.err, said.story)
						return
					}
					t.Logf("seed %d of %s: well in %.1f s: %s", s, m.mode, time.Since(began).Seconds(), said.story)
				})
			}
		}
	})
	for _, m := range modes {
		if ran[m.mode] > 0 {
			slices.Sort(failed[m.mode])
			t.Logf("%-9s  %3d runs, %3d failed: %s", m.mode, ran[m.mode], len(failed[m.mode]), strings.Join(failed[m.mode], " "))
		}
	}
	t.Logf("in %s", time.Since(began).Round(time.Second))
}

// mode is how runs are disturbed.
type mode string

const (
	kill      mode = "kill"      // by SIGKILL, at requests
	liar      mode = "faulty"    // by a fifth of all answers
	interrupt mode = "interrupt" // by SIGINT and SIGTERM, at requests
	storm     mode = "reset"     // by resets of several connections in a row, at requests
	worst     mode = "both"      // by SIGKILL, and by a twentieth of all answers
)

var modes = []struct {
	mode mode
	runs *int
}{{kill, kills}, {liar, faulty}, {interrupt, interrupts}, {storm, resets}, {worst, both}}
