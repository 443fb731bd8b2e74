//go:build linux

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/ops"
)

// BenchmarkAgent takes the figures of a rehearsal's agents: the memory that they have when nobody asks for anything, and how long one
// takes from its start until it is ready for traffic where there is nothing to wait for but the stand-in.
func BenchmarkAgent(b *testing.B) {
	for b.Loop() {
		r := newRunner(b)
		r.run("apply", "--yes")
		// The third instance finds stores that answer, and databases that are migrated.
		text, err := os.ReadFile(r.file)
		if err != nil {
			b.Fatal(err)
		}
		r.file = filepath.Join(b.TempDir(), "difyup.yaml")
		if err := os.WriteFile(r.file, bytes.Replace(text, []byte("\n  min: 2\n"), []byte("\n  min: 3\n"), 1), 0o600); err != nil {
			b.Fatal(err)
		}
		r.run("apply", "--yes")
		ready := r.ready(3)
		var last time.Time
		var boot time.Duration
		for instance, pid := range r.agents() {
			if began := started(b, pid); began.After(last) {
				last, boot = began, ready[instance].Sub(began)
			}
		}
		figure("an instance boots, its stores are there", seconds(boot), "at most 2 s")

		time.Sleep(20 * time.Second) // what it took to boot is given back
		most := 0
		for _, pid := range r.agents() {
			most = max(most, resident(b, pid))
		}
		figure("an idle agent's memory", fmt.Sprintf("%.0f MiB", float64(most)/1024), "at most 40 MiB")
		r.run("destroy", "--yes")
	}
}

// ready waits for so many agents that are ready for traffic, and gives when each said so.
func (r *runner) ready(n int) map[string]time.Time {
	r.b.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		at := map[string]time.Time{}
		for line := range bytes.Lines(r.output("logs", "-c", "agent", "--json")) {
			var l ops.LogLine
			if err := json.Unmarshal(line, &l); err != nil {
				r.b.Fatalf("%v: %s", err, line)
			}
			if strings.Contains(l.Text, "ready for traffic") {
				at[l.Instance] = l.At
			}
		}
		if len(at) == n {
			return at
		}
		if time.Now().After(end) {
			r.b.Fatalf("%d agents are ready for traffic, want %d", len(at), n)
		}
	}
}

// agents gives the processes of the agents, by their instances.
func (r *runner) agents() map[string]int {
	r.b.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		r.b.Fatal(err)
	}
	found := map[string]int{}
	for _, path := range all {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		program := strings.TrimSuffix(string(raw), "\x00") // without arguments: those of the stand-in have some
		dir := filepath.Dir(program)
		if filepath.Base(program) != "difyup-agent" || !strings.HasPrefix(dir, r.dir) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			r.b.Fatal(err)
		}
		found[filepath.Base(dir)] = pid
	}
	if len(found) == 0 {
		r.b.Fatal("no agent runs")
	}
	return found
}

// started gives when a process was, to a hundredth of a second.
func started(b *testing.B, pid int) time.Time {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	// After the name, which may have anything in it: the state, and 18 fields later the start, in hundredths of a second after the machine's.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	up, err := os.ReadFile("/proc/uptime")
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	since, err := strconv.ParseFloat(strings.Fields(string(up))[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return now.Add(time.Duration(ticks)*10*time.Millisecond - time.Duration(since*float64(time.Second)))
}
