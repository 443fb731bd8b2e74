package group

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	got, ok := parseStat([]byte("42 (a b) c) S 7 42 42 0 -1 4194304 100 0 0 0 12 3 4 1 20 0 1 0 100 0 0"))
	if d := cmp.Diff(process{parent: 7, used: 200 * time.Millisecond}, got, cmp.AllowUnexported(process{})); d != "" || !ok {
		t.Errorf("process (-want +got):\n%s", d)
	}
	if _, ok := parseStat([]byte("nonsense")); ok {
		t.Error("nonsense is understood")
	}
}

func TestTreeAddsDescendants(t *testing.T) {
	u := usage{1: {0, 100}, 2: {1, 10}, 3: {2, 5}, 4: {1, 1}, 9: {8, 1000}}
	if got := u.tree(2); got != 15 {
		t.Errorf("tree(2) = %d", got)
	}
	if got := u.tree(1); got != 116 {
		t.Errorf("tree(1) = %d", got)
	}
	all, err := readUsage()
	if err != nil || all.tree(os.Getpid()) < 0 || len(all) == 0 {
		t.Errorf("this machine's processes: %d, %v", len(all), err)
	}
}
