package report_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/report"
)

func TestRoundTrip(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	d := report.Document{Boot: "b", At: at, Dify: "1.17.1", Phase: report.Stores, Since: at, Waiting: "Redis refuses connections", Checks: []report.Check{{Name: "Redis", Says: "refuses connections", Took: 5}, {Name: "the database", Well: true}},
		Containers: &report.Containers{At: at, All: []report.Container{{Name: "api", Well: true, MiB: 512}, {Name: "worker", Restarts: 2}}}, Plugins: &report.Plugins{At: at, Installed: 3, Here: 2}}
	got, err := report.Parse(string(d.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, got); diff != "" {
		t.Errorf("(-written +read):\n%s", diff)
	}
}

// TestBounds checks that a document is never too long, and that one which somebody else wrote does no harm.
func TestBounds(t *testing.T) {
	d := report.Document{Phase: report.Serves, Waiting: strings.Repeat("é", 9000)}
	for range 300 {
		d.Checks = append(d.Checks, report.Check{Name: "a check with a long name", Says: "something that is wrong"})
	}
	d.Containers = &report.Containers{All: make([]report.Container, 300)}
	raw := d.Encode()
	if got, err := report.Parse(string(raw)); len(raw) > report.Longest || err != nil || got.Phase != report.Serves || len(got.Checks) > 0 || got.Containers != nil {
		t.Errorf("%d bytes, %v, %+v", len(raw), err, got)
	}
	for _, bad := range []string{"", "{", "[]", `{"at":"yesterday"}`, `{"phase":` + strings.Repeat("1", report.Longest) + `}`, `{"checks":[{"took_ms":"x"}]}`} {
		if _, err := report.Parse(bad); err == nil {
			t.Errorf("%.40q is read", bad)
		}
	}
	got, err := report.Parse(`{"phase":"\u001b[2Jserves","waiting":"a\u202eb\nc","checks":[{"name":"\u0007x","says":"` + strings.Repeat("y", 1000) + `"}],"containers":{"all":[{"name":"\u001bapi"}]}}`)
	if err != nil || got.Phase != "[2Jserves" || got.Waiting != "abc" || got.Checks[0].Name != "x" || len(got.Checks[0].Says) > 310 || got.Containers.All[0].Name != "api" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestEarlier reads what the agent of an earlier difyup wrote.
func TestEarlier(t *testing.T) {
	got, err := report.Parse(`{"boot":"b","at":"2026-01-02T03:04:05Z","dify":"1.17.1","phase":"serves","since":"2026-01-02T03:04:05Z","checks":[{"name":"Redis","well":true,"took_ms":1}]}`)
	if err != nil || got.Phase != report.Serves || got.Containers != nil || got.Plugins != nil || len(got.Checks) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
