package faults

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Set holds the rules in force. It is safe for concurrent use.
type Set struct {
	log *slog.Logger

	mu    sync.Mutex
	next  int
	rules []*active
}

// active is a rule with what it has seen.
type active struct {
	rule    Rule
	ends    time.Time // zero for never
	matched int64
	hits    int64
	byKey   map[string]int64
	cleared context.Context // ends when the rule goes
	clear   context.CancelFunc
}

// NewSet gives a set without rules. The log is told of every hit.
func NewSet(log *slog.Logger) *Set {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Set{log: log}
}

// State is a rule and what became of it.
type State struct {
	Rule
	Matched int64 `json:"matched"` // requests
	Hits    int64 `json:"hits"`    // those that met a fault
	Over    bool  `json:"over"`    // it meets no more
}

// Add puts a rule in force, in place of one that has its name, and gives it with its ID. Rules are asked in the order they
// came in.
func (s *Set) Add(r Rule) Rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Name != "" {
		s.remove(func(a *active) bool { return a.rule.Name == r.Name })
	}
	s.next++
	r.ID = s.next
	a := &active{rule: r, byKey: map[string]int64{}}
	if r.For > 0 {
		a.ends = time.Now().Add(r.For)
	}
	a.cleared, a.clear = context.WithCancel(context.Background())
	s.rules = append(s.rules, a)
	return r
}

// Clear takes rules away: that of an ID, or of a name; all when both are left out. What hangs because of them goes on. It
// gives their number.
func (s *Set) Clear(id int, name string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.remove(func(a *active) bool {
		return id == 0 && name == "" || id != 0 && a.rule.ID == id || name != "" && a.rule.Name == name
	})
}

func (s *Set) remove(which func(*active) bool) int {
	before := len(s.rules)
	s.rules = slices.DeleteFunc(s.rules, func(a *active) bool {
		if which(a) {
			a.clear()
			return true
		}
		return false
	})
	return before - len(s.rules)
}

// List gives the rules, in the order they are asked.
func (s *Set) List() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]State, len(s.rules))
	for i, a := range s.rules {
		out[i] = State{Rule: a.rule, Matched: a.matched, Hits: a.hits, Over: a.over()}
	}
	return out
}

func (a *active) over() bool {
	return a.rule.Next > 0 && a.hits >= a.rule.Next || !a.ends.IsZero() && time.Now().After(a.ends)
}

// Hit is a fault that a request meets. The zero Hit is none.
type Hit struct {
	Fault
	cleared context.Context
}

// Met says what a request meets: any number of latencies, and at most one other fault, the first that a rule decides on.
func (s *Set) Met(q Request) (latency time.Duration, hit Hit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.rules {
		if a.over() || !a.rule.Matches(q) {
			continue
		}
		if a.matched++; a.matched <= a.rule.Skip {
			continue
		}
		key := q.Method + "\x00" + q.Key + "\x00" + q.Caller
		n := a.byKey[key]
		a.byKey[key]++
		f, ok := a.rule.Decide(q, n)
		if !ok || f.What != Latency && hit.What != "" {
			continue
		}
		a.hits++
		s.log.Info("a fault", "rule", a.rule.ID, "seed", a.rule.Seed, "fault", f.String(), "method", q.Method, "key", q.Key, "number", n)
		if f.What == Latency {
			latency += f.Least
			continue
		}
		hit = Hit{Fault: f, cleared: a.cleared}
	}
	return latency, hit
}

// Wait waits as long as a Hang or Hold lasts: until its time is up, its rule is taken away or ctx ends.
func (h Hit) Wait(ctx context.Context) error {
	var over <-chan time.Time
	if h.Least > 0 {
		timer := time.NewTimer(h.Least)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-h.cleared.Done():
	case <-over:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// Any says whether there are rules at all.
func (s *Set) Any() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rules) > 0
}
