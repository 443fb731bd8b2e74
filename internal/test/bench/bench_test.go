//go:build linux

package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/carried"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/test/cloud"
)

// usage is what one run of a program took.
type usage struct {
	wall time.Duration
	peak float64 // MiB of memory
}

// runner runs the programs that `make build` made, on one local cloud.
type runner struct {
	b    *testing.B
	bin  string
	dir  string
	file string
}

func newRunner(b *testing.B) *runner {
	b.Helper()
	root, err := filepath.Abs("../../..")
	if err != nil {
		b.Fatal(err)
	}
	r := &runner{b: b, bin: filepath.Join(root, "bin", "difyup"), dir: cloud.Dir(b), file: filepath.Join(root, "examples", "difyup.yaml")}
	if _, err := os.Stat(r.bin); err != nil {
		b.Fatalf("%v; build first: make build", err)
	}
	b.Cleanup(func() {
		if _, err := localcloud.Down(context.Background(), r.dir, nil); err != nil {
			b.Error(err)
		}
	})
	return r
}

// command is one of difyup's, of the stack on the local cloud where it is about one.
func (r *runner) command(args ...string) *exec.Cmd {
	if args[0] != "version" {
		args = append(args, "--local", "--file", r.file, "--dir", r.dir)
	}
	return exec.CommandContext(r.b.Context(), r.bin, args...)
}

// output gives what a command writes.
func (r *runner) output(args ...string) []byte {
	r.b.Helper()
	out, err := r.command(args...).Output()
	if err != nil {
		r.b.Fatalf("%v: %v", args, err)
	}
	return out
}

func (r *runner) run(args ...string) usage {
	r.b.Helper()
	cmd := r.command(args...)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	if err != nil {
		r.b.Fatalf("%v: %v\n%s", args, err, out)
	}
	return usage{took, float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1024}
}

func (r *runner) info() *localcloud.Info {
	r.b.Helper()
	i, err := localcloud.Find(r.b.Context(), r.dir)
	if err != nil {
		r.b.Fatal(err)
	}
	return i
}

// median runs something several times, and gives the middle one by time.
func median(n int, f func() usage) usage {
	var all []usage
	for range n {
		all = append(all, f())
	}
	slices.SortFunc(all, func(a, b usage) int { return int(a.wall - b.wall) })
	return all[n/2]
}

func figure(name, value, limit string) {
	if limit != "" {
		limit = "   (" + limit + ")"
	}
	fmt.Printf("%-44s %12s%s\n", name, value, limit)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.0f ms", float64(d.Microseconds())/1000) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// ours counts the requests that are none of instances' own logs and metrics.
func ours(i *localcloud.Info) int64 {
	return i.Requests - i.Methods["logging.entries.write"] - i.Methods["monitoring.projects.timeSeries.create"]
}

// BenchmarkStack takes every figure in one pass over the example stack's life.
func BenchmarkStack(b *testing.B) {
	for b.Loop() {
		r := newRunner(b)
		fmt.Println()
		size, err := os.Stat(r.bin)
		if err != nil {
			b.Fatal(err)
		}
		figure("difyup, the program", fmt.Sprintf("%.1f MB", float64(size.Size())/1e6), "at most 60 MB")
		agent, err := carried.Find()
		if err != nil {
			b.Fatal(err)
		}
		if agent == nil {
			b.Fatal("bin/difyup carries no agent; build first: make build")
		}
		figure("  the agent inside, by itself", fmt.Sprintf("%.1f MB", float64(agent.Size)/1e6), fmt.Sprintf("at most %.0f MB", carried.Limit/1e6))
		figure("difyup version", ms(median(9, func() usage { return r.run("version") }).wall), "at most 30 ms")

		up := r.run("apply", "--yes")
		waited := time.Duration(r.info().Waited * float64(time.Second))
		figure("apply --local from nothing", seconds(up.wall), "at most 20 s")
		figure("  of which not waiting for database servers", seconds(up.wall-waited), "at most 2 s")
		figure("  peak memory", fmt.Sprintf("%.0f MiB", up.peak), "")

		before := ours(r.info())
		plan := r.run("plan", "--exit-code")
		figure("no-op plan, requests", fmt.Sprint(ours(r.info())-before), "at most 45")
		plan = median(9, func() usage { return r.run("plan", "--exit-code") })
		figure("no-op plan, time", ms(plan.wall), "at most 100 ms")
		figure("no-op plan, peak memory", fmt.Sprintf("%.0f MiB", plan.peak), "at most 64 MiB")
		late := func(d time.Duration) time.Duration {
			if err := r.info().SetDelay(b.Context(), d); err != nil {
				b.Fatal(err)
			}
			return median(5, func() usage { return r.run("plan", "--exit-code") }).wall
		}
		slow, slower := late(100*time.Millisecond), late(600*time.Millisecond)
		late(0)
		figure("no-op plan, every request 100 ms late", ms(slow), "at most 450 ms")
		// What half a second more in every request adds is waited for one round after another.
		figure("no-op plan, rounds of requests", fmt.Sprintf("%.1f", (slower-slow).Seconds()/0.5), "at most 2")

		down := r.run("destroy", "--yes")
		figure("destroy --local", seconds(down.wall), "at most 3 s")
		b.ReportMetric(float64(plan.wall.Milliseconds()), "plan-ms")
		b.ReportMetric(up.wall.Seconds(), "apply-s")
		b.ReportMetric(down.wall.Seconds(), "destroy-s")
	}
}
