package faults_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/faults"
)

var insert = faults.Request{Surface: faults.API, Caller: "owner", Service: "compute", Method: "compute.networks.insert", Key: "p/net", Operation: true}

func parse(t *testing.T, texts ...string) []faults.Fault {
	t.Helper()
	var all []faults.Fault
	for _, text := range texts {
		f, err := faults.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}

// TestParse checks that what is typed comes back, and what is wrong is said.
func TestParse(t *testing.T) {
	for _, text := range []string{
		"503", "429:2s", "reset-before", "reset-after", "truncate", "hang", "hang:5s", "hold", "hold:100ms", "html", "empty", "double", "latency:50ms",
		"latency:20ms-200ms", "operation:QUOTA_EXCEEDED:Quota 'CPUS' exceeded: 8",
	} {
		if got := parse(t, text)[0].String(); got != text {
			t.Errorf("%s came back as %s", text, got)
		}
	}
	for text, want := range map[string]string{
		"":              `"" is not known; the nearest is "429"`,
		"reset":         `"reset" is not known; the nearest is "reset-after"`,
		"reset-aftr":    `"reset-aftr" is not known; the nearest is "reset-after"`,
		"200":           "200 is not among the statuses 403 404 408 409 412 429 500 502 503 504",
		"401":           "401 is not among the statuses 403 404 408 409 412 429 500 502 503 504",
		"429:soon":      `"soon" is no number of whole seconds for Retry-After, as 2s is`,
		"429:1500ms":    `"1500ms" is no number of whole seconds for Retry-After, as 2s is`,
		"hang:-1s":      `"-1s" is no duration, as 5s is`,
		"html:5":        "html takes nothing behind it",
		"latency":       `"" is no duration, as 50ms or 20ms-200ms is`,
		"latency:2s-1s": `"2s-1s" is no duration, as 50ms or 20ms-200ms is`,
		"operation":     "an operation needs the code of its error behind it: operation:QUOTA_EXCEEDED:MESSAGE",
	} {
		if _, err := faults.Parse(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	methods := []string{"compute.networks.insert", "compute.networks.list", "sql.instances.get"}
	good := faults.Rule{Surface: faults.API, Rate: 1, Faults: parse(t, "503"), Method: "compute.*.insert"}
	if err := good.Check(methods); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*faults.Rule){
		"no fault is named":                          func(r *faults.Rule) { r.Faults = nil },
		"the rate 0 is not above 0 and at most 1":    func(r *faults.Rule) { r.Rate = 0 },
		"the rate 1.5 is not above 0 and at most 1":  func(r *faults.Rule) { r.Rate = 1.5 },
		"a number of requests or a time is negative": func(r *faults.Rule) { r.Next = -1 },
		`there are no faults of "moon"`:              func(r *faults.Rule) { r.Surface = "moon" },
		`"[" is no pattern`:                          func(r *faults.Rule) { r.Caller = "[" },
		`no method is called "compute.network.list"; the nearest is "compute.networks.list"`: func(r *faults.Rule) { r.Method = "compute.network.list" },
		`no method is called "sql.get"; the nearest is "sql.instances.get"`:                  func(r *faults.Rule) { r.Except = "sql.get" },
		`no service is called "sqladmin"; the nearest is "sql"`:                              func(r *faults.Rule) { r.Service = "sqladmin" },
		"200 is not among the statuses 403 404 408 409 412 429 500 502 503 504":              func(r *faults.Rule) { r.Faults = []faults.Fault{{What: faults.Status, Code: 200}} },
	} {
		r := good
		change(&r)
		if err := r.Check(methods); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestDecide checks that decisions depend on seed, rule, request and number alone, and come as often as the rate says.
func TestDecide(t *testing.T) {
	r := faults.Rule{ID: 1, Surface: faults.API, Rate: 0.2, Seed: 42, Faults: parse(t, "503", "reset-after", "double", "latency:10ms-20ms")}
	decide := func(r faults.Rule, q faults.Request) string {
		var line []string
		for n := range int64(1000) {
			if f, ok := r.Decide(q, n); ok {
				line = append(line, fmt.Sprint(n, f))
			}
		}
		return strings.Join(line, " ")
	}
	first := decide(r, insert)
	if again := decide(r, insert); again != first {
		t.Error("the same seed decides otherwise")
	}
	if n := len(strings.Fields(first)); n < 150 || n > 520 { // number and fault may be two words
		t.Errorf("%d words for a fifth of 1000", n)
	}
	if strings.Contains(first, "double") {
		t.Error("a POST is carried out twice")
	}
	other, seed, rule := insert, r, r
	other.Key = "p/other"
	seed.Seed, rule.ID = 43, 2
	for what, line := range map[string]string{"another thing": decide(r, other), "another seed": decide(seed, insert), "another rule": decide(rule, insert)} {
		if line == first {
			t.Errorf("%s meets the same", what)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, tc := range []struct {
		rule faults.Rule
		want bool
	}{
		{faults.Rule{}, true},
		{faults.Rule{Caller: "owner", Service: "comp*", Method: "compute.*.insert"}, true},
		{faults.Rule{Caller: "demo-vm@*"}, false},
		{faults.Rule{Service: "sql"}, false},
		{faults.Rule{Method: "compute.*.get"}, false},
		{faults.Rule{Except: "*.get"}, true},
		{faults.Rule{Except: "*.insert"}, false},
		{faults.Rule{Faults: parse(t, "double")}, false},
	} {
		tc.rule.Surface = faults.API
		if tc.rule.Faults == nil {
			tc.rule.Faults = parse(t, "503")
		}
		if got := tc.rule.Matches(insert); got != tc.want {
			t.Errorf("%+v matches: %t", tc.rule, got)
		}
	}
}

func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := faults.NewSet(nil)
		met := func(n int, q faults.Request) (all []string) {
			for range n {
				latency, hit := s.Met(q)
				all = append(all, strings.TrimSpace(fmt.Sprint(latency, " ", hit.Fault)))
			}
			return all
		}
		list := func() (all []string) {
			for _, st := range s.List() {
				all = append(all, fmt.Sprintf("%d%s %d/%d over=%t", st.ID, st.Name, st.Hits, st.Matched, st.Over))
			}
			return all
		}
		same := func(what string, want, got []string) {
			t.Helper()
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("%s (-want +got):\n%s", what, d)
			}
		}
		if s.Any() {
			t.Error("there are rules in a new set")
		}
		s.Add(faults.Rule{Name: "delay", Surface: faults.API, Rate: 1, Faults: parse(t, "latency:5ms")})
		s.Add(faults.Rule{Surface: faults.API, Rate: 1, Method: "compute.*.insert", Skip: 1, Next: 2, Faults: parse(t, "503")})
		s.Add(faults.Rule{Surface: faults.API, Rate: 1, Service: "compute", For: time.Minute, Faults: parse(t, "empty")})
		same("requests", []string{"5ms empty", "5ms 503", "5ms 503", "5ms empty"}, met(4, insert))
		get := insert
		get.Service, get.Method = "sql", "sql.instances.get"
		same("of another service", []string{"5ms"}, met(1, get))
		same("list", []string{"1delay 5/5 over=false", "2 2/3 over=true", "3 2/4 over=false"}, list())
		time.Sleep(61 * time.Second)
		same("after its time", []string{"5ms"}, met(1, insert))
		s.Add(faults.Rule{Name: "delay", Surface: faults.API, Rate: 1, Faults: parse(t, "latency:7ms")})
		same("another delay", []string{"7ms"}, met(1, insert))
		if n := s.Clear(0, "delay") + s.Clear(2, "") + s.Clear(99, ""); n != 2 {
			t.Errorf("%d cleared", n)
		}
		same("what is left", []string{"3 2/4 over=true"}, list())

		// What hangs goes on when its rule is taken away, its time is up, or nobody waits any more.
		s.Clear(0, "")
		s.Add(faults.Rule{Surface: faults.API, Rate: 1, Faults: parse(t, "hang")})
		_, hit := s.Met(insert)
		go func() { time.Sleep(time.Second); s.Clear(0, "") }()
		if err := hit.Wait(t.Context()); err != nil {
			t.Error(err)
		}
		s.Add(faults.Rule{Surface: faults.API, Rate: 1, Faults: parse(t, "hold:5s")})
		_, hit = s.Met(insert)
		began := time.Now()
		if err := hit.Wait(t.Context()); err != nil || time.Since(began) != 5*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := hit.Wait(ctx); err == nil {
			t.Error("it waits for nobody")
		}
	})
}
