package plugins_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/agent/plugins"
)

// TestWait follows instances that wait, second by second.
func TestWait(t *testing.T) {
	const a, b, c, d = "x/a:1", "x/b:1", "x/c:1", "x/d:1"
	here := func(names ...string) plugins.State { return plugins.State{Here: names} }
	type look struct {
		at   int // seconds
		s    plugins.State
		err  error
		want string
	}
	broken := errors.New("it answers 500")
	for name, looks := range map[string][]look{
		"nothing is installed":   {{0, plugins.State{}, nil, ""}},
		"all of it runs":         {{0, here(a, b), nil, ""}},
		"others run it":          {{0, plugins.State{Elsewhere: []string{a}}, nil, "the plugin x/a:1 of other instances to run here"}, {599, plugins.State{Elsewhere: []string{a}}, nil, "the plugin x/a:1 of other instances to run here"}, {600, plugins.State{Elsewhere: []string{a}}, nil, ""}},
		"it comes":               {{0, plugins.State{Elsewhere: []string{a, b}}, nil, "the plugins x/a:1, x/b:1 of other instances to run here"}, {90, plugins.State{Here: []string{a}, Elsewhere: []string{b}}, nil, "the plugin x/b:1 of other instances to run here"}, {200, here(a, b), nil, ""}},
		"nobody runs it":         {{0, plugins.State{Nowhere: []string{a}}, nil, "the plugin x/a:1, which no instance runs yet"}, {59, plugins.State{Nowhere: []string{a}}, nil, "the plugin x/a:1, which no instance runs yet"}, {60, plugins.State{Nowhere: []string{a}}, nil, ""}},
		"a stack that is new":    {{0, plugins.State{Nowhere: []string{a, b, c, d}}, nil, "the plugins x/a:1, x/b:1, x/c:1 and 1 more, which no instance runs yet"}, {50, plugins.State{Here: []string{a}, Nowhere: []string{b, c, d}}, nil, "the plugins x/b:1, x/c:1, x/d:1, which no instance runs yet"}, {109, plugins.State{Here: []string{a}, Nowhere: []string{b, c, d}}, nil, "the plugins x/b:1, x/c:1, x/d:1, which no instance runs yet"}, {110, plugins.State{Here: []string{a}, Nowhere: []string{b, c, d}}, nil, ""}},
		"one here, one nowhere":  {{0, plugins.State{Elsewhere: []string{a}, Nowhere: []string{b}}, nil, "the plugin x/a:1 of other instances to run here"}, {300, plugins.State{Here: []string{a}, Nowhere: []string{b}}, nil, "the plugin x/b:1, which no instance runs yet"}, {360, plugins.State{Here: []string{a}, Nowhere: []string{b}}, nil, ""}},
		"it cannot be told":      {{0, plugins.State{}, broken, "the plugin daemon has not said yet which plugins run"}, {59, plugins.State{}, broken, "the plugin daemon has not said yet which plugins run"}, {60, plugins.State{}, broken, ""}},
		"it cannot be told once": {{0, plugins.State{}, broken, "the plugin daemon has not said yet which plugins run"}, {1, here(a), nil, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			w := plugins.Wait{Most: 10 * time.Minute, Alone: time.Minute}
			began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			for _, l := range looks {
				if got := w.For(began.Add(time.Duration(l.at)*time.Second), l.s, l.err); got != l.want {
					t.Errorf("after %d s it waits for %q, want %q", l.at, got, l.want)
				}
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	s := plugins.State{Here: []string{"a"}, Elsewhere: []string{"b", "c"}, Nowhere: []string{"d"}}
	if d := cmp.Diff([]string{"the plugins b, c run on other instances and not on this one", "the plugin d runs on no instance, and is installed"}, s.Warnings()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got := (plugins.State{Here: []string{"a"}}).Warnings(); got != nil {
		t.Errorf("of what runs it warns: %q", got)
	}
	// A plugin that other instances have lost meanwhile is missing still.
	got := s.Still(plugins.State{Here: []string{"c"}, Elsewhere: []string{"d"}, Nowhere: []string{"b"}})
	if d := cmp.Diff(plugins.State{Here: []string{"a"}, Elsewhere: []string{"b"}, Nowhere: []string{"d"}}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
