//go:build linux

package plane

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/test/need"
)

func TestChoose(t *testing.T) {
	everything := []idRange{{0, 4294967294}}
	for _, tc := range []struct {
		name        string
		n           int
		exist, used []idRange
		want        string
	}{
		{"the first cloud", 0, everything, nil, "1879048192-1879048691"},
		{"the fourth", 3, everything, []idRange{{1000, 1000}, {524288, 589823}}, "1879049692-1879050191"},
		{"somebody has one of them", 0, everything, []idRange{{1879048200, 1879048200}}, "1879141692-1879142191"},
		{"somebody has the last of them", 0, everything, []idRange{{1879048691, 1879048691}}, "1879141692-1879142191"},
		{"a container with 65536 IDs", 0, []idRange{{0, 65535}}, nil, "60578-61077"},
		{"a container with 65536 IDs, somebody there", 5, []idRange{{0, 65535}}, []idRange{{61000, 61000}}, ""},
		{"a container with 100000 IDs", 1, []idRange{{0, 99999}}, nil, "66036-66535"},
		{"a user namespace of one", 0, []idRange{{0, 0}}, nil, ""},
		{"two pieces, neither large enough", 0, []idRange{{60578, 60800}, {60801, 61183}}, nil, ""},
	} {
		ids, ok := choose(tc.n, tc.exist, tc.used)
		got := ""
		if ok {
			got = fmt.Sprintf("%d-%d", ids.first, ids.last)
		}
		if got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestChooseApart checks that no two clouds have the same IDs, whichever of these somebody else has already.
func TestChooseApart(t *testing.T) {
	var used []idRange
	of := map[idRange]int{}
	for round := range 4 {
		var taken []idRange
		for n := range lastBlock - firstBlock + 1 {
			ids, ok := choose(n, []idRange{{0, 4294967294}}, used)
			if other, twice := of[ids]; !ok || twice && other != n {
				t.Fatalf("in round %d clouds %d and %d have %v, %t", round, other, n, ids, ok)
			}
			of[ids] = n
			if n%(round+2) == 0 {
				taken = append(taken, idRange{ids.first, ids.first})
			}
		}
		used = append(used, taken...)
	}
}

func TestListed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(path, []byte("root:x:0:0:root:/root:/bin/sh\n\n+::::::\n# none\nbad:x:one:1\nuser:x:1000:1000::/home/user:/bin/sh"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := listed(path, 2, -1)
	if d := cmp.Diff([]idRange{{0, 0}, {1000, 1000}}, got, cmp.AllowUnexported(idRange{})); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if got, err := listed(path+".none", 2, -1); got != nil || err != nil {
		t.Errorf("no table: %v, %v", got, err)
	}
}

func TestUsers(t *testing.T) {
	u := &Users{ids: idRange{70000, 70001}, taken: map[int]bool{}}
	var got []int
	for range 2 {
		id, err := u.Take()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id)
	}
	if _, err := u.Take(); err == nil {
		t.Error("a third of two was given")
	}
	u.Release(70000)
	id, err := u.Take()
	if d := cmp.Diff([]int{70000, 70001, 70000}, append(got, id)); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}

// TestUsersOfTwoClouds has two clouds that chose the same IDs, as in two network namespaces: no user is given to both, until the one
// that has it gives it back, or ends.
func TestUsersOfTwoClouds(t *testing.T) {
	need.Root(t, "root's local clouds alone have users")
	ids := idRange{1900001000, 1900001003}
	one, other := newUsers(ids), newUsers(ids)
	defer other.Close()
	var got []int
	for _, u := range []*Users{one, other, one, other} {
		id, err := u.Take()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id)
	}
	if id, err := other.Take(); err == nil {
		t.Errorf("%d was given", id)
	}
	one.Release(got[2])
	one.Release(got[1]) // which is not its own
	again, err := other.Take()
	if err != nil {
		t.Fatal(err)
	}
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	last, err := other.Take()
	if d := cmp.Diff([]int{1900001000, 1900001001, 1900001002, 1900001003, 1900001002, 1900001000}, append(got, again, last)); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}

// TestUserInUse checks that a user who runs something is not given.
func TestUserInUse(t *testing.T) {
	need.Root(t, "root alone can start programs as other users")
	u := &Users{ids: idRange{1900000000, 1900000001}, taken: map[int]bool{}}
	s := NewSupervisor(nil)
	defer s.Close(context.Background(), time.Second)
	p, err := s.Start(t.Context(), Spec{Name: "test", Path: "/bin/sleep", Args: []string{"1000"}, Dir: "/", Log: filepath.Join(t.TempDir(), "log"), UID: u.ids.first})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := u.Take(); err != nil || got != u.ids.last {
		t.Errorf("%d, %v; want %d", got, err, u.ids.last)
	}
	if got, err := u.Take(); err == nil {
		t.Errorf("%d was given", got)
	}
	if err := p.Stop(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if got, err := u.Take(); err != nil || got != u.ids.first {
		t.Errorf("%d, %v; want %d", got, err, u.ids.first)
	}
}

// TestUserOfItsOwn runs a program as a user of its own: with no group and no right, without a way to get any, and when it
// ends, what it left behind ends too.
func TestUserOfItsOwn(t *testing.T) {
	need.Root(t, "root alone can start programs as other users")
	n, err := Claim()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	users, err := ClaimUsers(n)
	if err != nil {
		t.Fatal(err)
	}
	defer users.Close()
	uid, err := users.Take()
	if err != nil {
		t.Fatal(err)
	}
	s := NewSupervisor(nil)
	defer s.Close(context.Background(), time.Second)
	log := filepath.Join(t.TempDir(), "log")
	p, err := s.Start(t.Context(), Spec{
		Name: "test", Path: "/bin/sh", Dir: "/", Log: log, Env: []string{"PATH=/usr/bin:/bin"}, UID: uid,
		Args: []string{"-c", `grep -E '^(Uid|Gid|Groups|CapEff|CapPrm|NoNewPrivs):' /proc/self/status
			setsid sh -c 'trap "" TERM HUP; while :; do sleep 60; done' &
			setsid sh -c 'sleep 1000' &
			echo started; wait`},
	})
	if err != nil {
		t.Fatal(err)
	}
	said := ""
	for end := time.Now().Add(time.Minute); !strings.Contains(said, "started") || count(t, uid) < 4; time.Sleep(5 * time.Millisecond) {
		raw, err := os.ReadFile(log)
		if said = string(raw); err != nil || time.Now().After(end) {
			t.Fatalf("%d processes, %v: %s", count(t, uid), err, said)
		}
	}
	id := strconv.Itoa(uid)
	four := strings.Join([]string{id, id, id, id}, "\t")
	want := "Uid:\t" + four + "\nGid:\t" + four + "\nGroups:\t \nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nstarted\n"
	if d := cmp.Diff(want, said); d != "" {
		t.Errorf("the program (-want +got):\n%s", d)
	}
	if err := p.Stop(t.Context(), 10*time.Millisecond); err != nil {
		t.Error(err)
	}
	if n := count(t, uid); n > 0 {
		t.Errorf("%d processes of its user are left", n)
	}
}

// count tells how many processes a user has.
func count(t *testing.T, uid int) int {
	t.Helper()
	all, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, p := range all {
		if p.uid == uid {
			n++
		}
	}
	return n
}

// TestLogIsNoLink checks that a server's log is not written where a link leads, which the server's user could have made.
func TestLogIsNoLink(t *testing.T) {
	dir := t.TempDir()
	target, log := filepath.Join(dir, "target"), filepath.Join(dir, "log")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, log); err != nil {
		t.Fatal(err)
	}
	s := NewSupervisor(nil)
	defer s.Close(context.Background(), time.Second)
	if _, err := s.Start(t.Context(), Spec{Name: "test", Path: "/bin/echo", Args: []string{"words"}, Dir: "/", Log: log}); err == nil || !strings.Contains(err.Error(), syscall.ELOOP.Error()) {
		t.Errorf("it was started: %v", err)
	}
}
