package need

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// ended takes down how a test was ended.
type ended struct {
	testing.TB
	how string
}

func (e *ended) Helper()              {}
func (e *ended) Skip(...any)          { e.how = "skipped" }
func (e *ended) Skipf(string, ...any) { e.how = "skipped" }
func (e *ended) Fatal(...any)         { e.how = "failed" }

func TestNeed(t *testing.T) {
	got := map[string][]string{}
	for _, ci := range []string{"", "true"} {
		t.Setenv("CI", ci)
		for name, run := range map[string]func(testing.TB){
			"nothing":   func(t testing.TB) { Missing(t, "") },
			"a program": func(t testing.TB) { Missing(t, "there is no such program") },
			"gcloud":    func(t testing.TB) { Excepted(t, Gcloud, "there is no gcloud") },
			"no gcloud": func(t testing.TB) { Excepted(t, Gcloud, "") },
		} {
			e := &ended{TB: t}
			run(e)
			got[name] = append(got[name], e.how)
		}
	}
	want := map[string][]string{"nothing": {"", ""}, "a program": {"skipped", "failed"}, "gcloud": {"skipped", "skipped"}, "no gcloud": {"", ""}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("without CI and with it (-want +got):\n%s", d)
	}
}
