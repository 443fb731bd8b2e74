package state

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Process is where a process can be looked for by others of its host. Fields are zero where they are not known, as on
// systems other than Linux; then only the lease tells whether it lives.
type Process struct {
	PID     int    `json:"pid"`
	Boot    string `json:"boot"`              // tells one boot of the host's kernel from another
	Space   string `json:"space,omitempty"`   // the namespaces in which the number and the start are meant
	Started string `json:"started,omitempty"` // since the boot, in the kernel's ticks: tells apart processes of one number
}

// self is this process.
func self() Process {
	p := Process{PID: os.Getpid()}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return p
	}
	p.Boot = strings.TrimSpace(string(boot))
	// Seen through the /proc of another namespace, numbers would be other processes'.
	if seen, err := os.Readlink("/proc/self"); err != nil || seen != strconv.Itoa(p.PID) {
		return p
	}
	pids, err1 := os.Readlink("/proc/self/ns/pid")
	times, err2 := os.Readlink("/proc/self/ns/time")
	_, started, err3 := stat(p.PID)
	if errors.Join(err1, err2, err3) == nil {
		p.Space, p.Started = pids+" "+times, started
	}
	return p
}

// dead says whether the process is certainly not there any more. One of another boot, host or namespace may be.
func (p Process) dead() bool {
	me := self()
	if p.Boot == "" || p.Boot != me.Boot || p.Space == "" || p.Space != me.Space || p.Started == "" {
		return false
	}
	state, started, err := stat(p.PID)
	if errors.Is(err, os.ErrNotExist) { // or hidden from this user
		return gone(p.PID)
	}
	return err == nil && (started != p.Started || state == "Z" || state == "X")
}

func gone(pid int) bool {
	p, err := os.FindProcess(pid)
	if err != nil {
		return false
	}
	return errors.Is(p.Signal(syscall.Signal(0)), os.ErrProcessDone)
}

// stat gives the state of a process and when it started.
func stat(pid int) (state, started string, err error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", "", err
	}
	// The name, in parentheses, may hold anything. Behind it come the state, and 19 fields further the start.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 20 {
		return "", "", fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	return fields[0], fields[19], nil
}

// hostID tells this machine from others of its name. It is random, and kept with the user's settings; where nothing can
// be kept, it is this process's.
var hostID = sync.OnceValue(func() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return rand.Text()
	}
	return keptID(filepath.Join(dir, "difyup", "host-id"))
})

// keptID gives the ID that a file keeps, which is made if need be.
func keptID(path string) string {
	id := rand.Text()
	if raw, err := os.ReadFile(path); err == nil && len(raw) == len(id) {
		return string(raw)
	}
	if os.MkdirAll(filepath.Dir(path), 0o700) != nil {
		return id
	}
	// Of several runs that begin at once, one is first, and the file is never half written.
	f, err := os.CreateTemp(filepath.Dir(path), "host-id-")
	if err != nil {
		return id
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(id)
	if f.Close() != nil || err != nil {
		return id
	}
	if os.Link(f.Name(), path) == nil {
		return id
	}
	if raw, err := os.ReadFile(path); err == nil && len(raw) == len(id) {
		return string(raw)
	}
	return id
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "unknown"
}

func hostName() string {
	if h, err := os.Hostname(); err == nil {
		return h
	}
	return "unknown"
}

// Me names the user and host of this process, for the history.
func Me() string { return userName() + "@" + hostName() }
