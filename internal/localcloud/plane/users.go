//go:build linux

package plane

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/difyup/difyup/internal/fault"
)

// usersPerCloud is how many users a local cloud takes: as many instances run at once, at most.
const usersPerCloud = 500

// unclaimed are the ranges of user IDs that nobody gives out: neither distributions, nor systemd for its services and
// containers, nor shadow for subordinate users. Where not all IDs exist, as in a container, the later ones may.
var unclaimed = []idRange{{1879048192, 2147483646}, {65536, 99999}, {60578, 61183}}

// idRange is user or group IDs from first to last.
type idRange struct{ first, last int }

func (r idRange) meets(o idRange) bool  { return r.first <= o.last && o.first <= r.last }
func (r idRange) within(o idRange) bool { return o.first <= r.first && r.last <= o.last }

// Users are the users that instances run as, each as one of its own. They are numbers without a name, a home or a right
// to anything. A local cloud that is not root's has but its owner. It is safe for concurrent use.
type Users struct {
	ids  idRange  // the zero value for the owner alone
	held *os.File // in which a byte is locked for each that is taken; nil where there is no such file

	mu    sync.Mutex
	taken map[int]bool
}

// usersLock is a file in which local clouds lock the byte at the number of each user that they take. Blocks of addresses are taken
// within a network namespace, and IDs are not: clouds in two of them can have chosen the same.
const usersLock = "/run/difyup-users.lock"

// ClaimUsers takes users for the local cloud that has the block n of addresses, by which local clouds of one machine stay
// apart. It passes over IDs that a name, a process or a file in one of the usual places has.
func ClaimUsers(n *Net) (*Users, error) {
	if os.Geteuid() != 0 {
		return &Users{}, nil
	}
	exist, used, err := survey()
	if err != nil {
		return nil, fmt.Errorf("look for users nobody has: %w", err)
	}
	ids, ok := choose(int(n.block)-firstBlock, exist, used)
	if !ok {
		return nil, &fault.Fault{
			Summary: "No user IDs are free",
			Detail:  fmt.Sprintf("Instances run as users that nobody else is, and no %d IDs in a row are free for them.", usersPerCloud),
			Remedy:  "Start the local cloud as a user other than root. Its instances then run as that user.",
		}
	}
	return newUsers(ids), nil
}

func newUsers(ids idRange) *Users {
	u := &Users{ids: ids, taken: map[int]bool{}}
	// Where there can be no such file, as in a container that writes nowhere, it is only seen who runs something.
	if f, err := os.OpenFile(usersLock, os.O_RDWR|os.O_CREATE, 0o600); err == nil {
		u.held = f
	}
	return u
}

// Close gives all users back. Nothing may run as one of them any more.
func (u *Users) Close() error {
	if u.held == nil {
		return nil
	}
	return u.held.Close()
}

// hold locks a user's byte, for this local cloud alone, or gives it back. The kernel does that when the process ends, however it does.
func (u *Users) hold(id int, what int16) error {
	if u.held == nil {
		return nil
	}
	return unix.FcntlFlock(u.held.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: what, Start: int64(id), Len: 1})
}

// choose gives the nth block of IDs that exist and that nobody uses, or another that only the nth cloud would take: what is
// another cloud's would be ended with that one's instances. Where few IDs exist, Take alone keeps clouds apart.
func choose(n int, exist, used []idRange) (idRange, bool) {
	const clouds, tries = lastBlock - firstBlock + 1, 1000
	for _, all := range unclaimed {
		blocks := (all.last - all.first + 1) / usersPerCloud
		for i := range min(blocks, tries) {
			first := all.first + (n+i*clouds)%blocks*usersPerCloud
			ids := idRange{first, first + usersPerCloud - 1}
			if slices.ContainsFunc(exist, ids.within) && !slices.ContainsFunc(used, ids.meets) {
				return ids, true
			}
		}
	}
	return idRange{}, false
}

// survey tells which IDs exist here, and which somebody has.
func survey() (exist, used []idRange, err error) {
	users, err := mapped("/proc/self/uid_map")
	if err != nil {
		return nil, nil, err
	}
	groups, err := mapped("/proc/self/gid_map")
	if err != nil {
		return nil, nil, err
	}
	for _, u := range users { // a user's group has the same number
		for _, g := range groups {
			if both := (idRange{max(u.first, g.first), min(u.last, g.last)}); both.first <= both.last {
				exist = append(exist, both)
			}
		}
	}
	for _, table := range []struct {
		path         string
		first, count int // fields
	}{{"/etc/passwd", 2, -1}, {"/etc/group", 2, -1}, {"/etc/subuid", 1, 2}, {"/etc/subgid", 1, 2}} {
		ids, err := listed(table.path, table.first, table.count)
		if err != nil {
			return nil, nil, err
		}
		used = append(used, ids...)
	}
	for _, dir := range []string{"/home", "/run", "/run/user", "/tmp", "/var/lib", "/var/tmp"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // there is no such place
		}
		for _, e := range entries {
			if about, err := e.Info(); err == nil {
				uid := int(about.Sys().(*syscall.Stat_t).Uid)
				used = append(used, idRange{uid, uid})
			}
		}
	}
	all, err := processes()
	if err != nil {
		return nil, nil, err
	}
	for _, p := range all {
		used = append(used, idRange{p.uid, p.uid})
	}
	return exist, used, nil
}

// mapped reads the IDs that exist in this user namespace: lines of first, first outside, count.
func mapped(path string) ([]idRange, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []idRange
	for line := range strings.Lines(string(raw)) {
		var first, outside, count int
		if _, err := fmt.Sscan(line, &first, &outside, &count); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		out = append(out, idRange{first, first + count - 1})
	}
	return out, nil
}

// listed reads IDs from a table of lines with colons; count is the field with how many there are from the first, or -1.
// What is no entry is passed over, as the system does.
func listed(path string, first, count int) ([]idRange, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []idRange
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) <= max(first, count) {
			continue
		}
		id, err := strconv.Atoi(fields[first])
		if err != nil {
			continue
		}
		n := 1
		if count >= 0 {
			if n, err = strconv.Atoi(fields[count]); err != nil {
				continue
			}
		}
		out = append(out, idRange{id, id + n - 1})
	}
	return out, lines.Err()
}

// running is a process and its user.
type running struct{ pid, uid int }

// processes gives those that run, and not those that only wait to be reaped.
func processes() ([]running, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []running
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if uid, ok := userOf(pid); ok {
			all = append(all, running{pid, uid})
		}
	}
	return all, nil
}

// userOf gives the user of a process that runs. Who /proc says that the directory belongs to would not do: a process can
// have that be root.
func userOf(pid int) (uid int, ok bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false // it has ended
	}
	for line := range strings.Lines(string(raw)) {
		switch key, value, _ := strings.Cut(line, ":"); key {
		case "State":
			if state := strings.TrimSpace(value); strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X") {
				return 0, false
			}
		case "Uid":
			_, err := fmt.Sscan(value, &uid)
			return uid, err == nil
		}
	}
	return 0, false
}

// String gives the IDs, "1879048192-1879048691"; "" where there is but the owner.
func (u *Users) String() string {
	if u.ids == (idRange{}) {
		return ""
	}
	return fmt.Sprintf("%d-%d", u.ids.first, u.ids.last)
}

// Take gives the lowest free user; the owner where there is no other. One that another local cloud holds, or that runs
// something, is not free.
func (u *Users) Take() (int, error) {
	if u.ids == (idRange{}) {
		return os.Geteuid(), nil
	}
	all, err := processes()
	if err != nil {
		return 0, fmt.Errorf("look for users nobody has: %w", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for id := u.ids.first; id <= u.ids.last; id++ {
		if u.taken[id] || slices.ContainsFunc(all, func(r running) bool { return r.uid == id }) {
			continue
		}
		switch err := u.hold(id, unix.F_WRLCK); {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EACCES):
			continue
		case err != nil:
			return 0, fmt.Errorf("take the user %d: %w", id, err)
		}
		u.taken[id] = true
		return id, nil
	}
	return 0, errors.New("the local cloud has no user left for this")
}

// Release gives a user back.
func (u *Users) Release(uid int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.taken[uid] {
		delete(u.taken, uid)
		_ = u.hold(uid, unix.F_UNLCK) // else it is given back with the file
	}
}

// endAll ends every process of a user by force, and returns when none is left or ctx ends. Its parents do not matter: a
// program can have left children behind that are nobody's.
func endAll(ctx context.Context, uid int) error {
	for {
		all, err := processes()
		if err != nil {
			return err
		}
		left := 0
		for _, r := range all {
			if r.uid != uid {
				continue
			}
			left++
			p, err := os.FindProcess(r.pid) // a handle: should the process end now, no other of its number is meant
			if err != nil {
				continue
			}
			if owner, ok := userOf(r.pid); ok && owner == uid {
				_ = p.Kill() // it may be gone already
			}
			_ = p.Release()
		}
		if left == 0 {
			return nil
		}
		timer := time.NewTimer(2 * time.Millisecond)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("end %d processes of user %d: %w", left, uid, ctx.Err())
		case <-timer.C:
		}
	}
}
