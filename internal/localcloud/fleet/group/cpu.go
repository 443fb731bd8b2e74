package group

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// usage is the processor time that processes have used, by process ID.
type usage map[int]process

type process struct {
	parent int
	used   time.Duration // its own, and that of children it has waited for
}

// tick is the unit of /proc/PID/stat: USER_HZ is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// readUsage reads all processes. Those that end meanwhile are left out.
func readUsage() (usage, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	all := make(usage, len(files))
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if p, ok := parseStat(data); ok {
			all[pid] = p
		}
	}
	return all, nil
}

// parseStat reads a line of /proc/PID/stat. The second field, the name in parentheses, may hold anything.
func parseStat(data []byte) (process, bool) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return process{}, false
	}
	fields := bytes.Fields(data[end+1:]) // from the state, the third field
	if len(fields) < 15 {
		return process{}, false
	}
	var p process
	var err error
	if p.parent, err = strconv.Atoi(string(fields[1])); err != nil {
		return process{}, false
	}
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			return process{}, false
		}
		p.used += time.Duration(n) * tick
	}
	return p, true
}

// tree is what a process and all below it have used.
func (u usage) tree(root int) time.Duration {
	children := map[int][]int{}
	for pid, p := range u {
		children[p.parent] = append(children[p.parent], pid)
	}
	total := time.Duration(0)
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		total += u[queue[0]].used
		queue = append(queue, children[queue[0]]...)
	}
	return total
}
