package group

import (
	"testing"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

func TestDesired(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ago := func(d time.Duration, size, measured int, load float64) Sample {
		return Sample{At: now.Add(-d), Size: size, Measured: measured, Load: load}
	}
	on := Policy{Min: 1, Max: 5, Mode: "ON", Target: 0.6, Stabilization: 10 * time.Minute}
	with := func(change func(*Policy)) Policy { p := on; change(&p); return p }
	one := 1
	for _, tc := range []struct {
		name    string
		p       Policy
		samples []Sample
		current int
		want    int
	}{
		{"no measurement keeps the size", on, nil, 2, 2},
		{"below the least", on, nil, 0, 1},
		{"above the most", on, nil, 9, 5},
		{"load doubles the group", on, []Sample{ago(0, 2, 2, 2.0)}, 2, 4},
		{"at the target", on, []Sample{ago(0, 2, 2, 1.2)}, 2, 2},
		{"only the ones past their cool-down speak for all", on, []Sample{ago(0, 3, 1, 0.9)}, 3, 5},
		{"nobody past the cool-down", on, []Sample{ago(0, 3, 0, 0)}, 3, 3},
		{"never beyond the most", on, []Sample{ago(0, 4, 4, 4)}, 4, 5},
		{"too early to shrink", on, []Sample{ago(time.Minute, 3, 3, 0.1), ago(0, 3, 3, 0.1)}, 3, 3},
		{"shrinks to the peak of the period", on, []Sample{ago(11*time.Minute, 4, 4, 2.4), ago(9*time.Minute, 4, 4, 1.0), ago(0, 4, 4, 0.1)}, 4, 2},
		{"shrinks", on, []Sample{ago(11*time.Minute, 4, 4, 2.4), ago(0, 4, 4, 0.1)}, 4, 1},
		{"only out", with(func(p *Policy) { p.Mode = "ONLY_SCALE_OUT" }), []Sample{ago(11*time.Minute, 4, 4, 0.1), ago(0, 4, 4, 0.1)}, 4, 4},
		{"off", with(func(p *Policy) { p.Mode = "OFF" }), []Sample{ago(0, 2, 2, 2)}, 7, 7},
		{"one at a time", with(func(p *Policy) { p.ScaleIn, p.Window = &wire.FixedOrPercent{Fixed: &one}, 10*time.Minute }),
			[]Sample{ago(11*time.Minute, 4, 4, 0.1), ago(5*time.Minute, 4, 4, 0.1), ago(0, 4, 4, 0.1)}, 4, 3},
		{"a metric asks for more than CPU does", with(func(p *Policy) { p.Metrics = make([]wire.Metric, 1) }), []Sample{{At: now, Size: 2, Measured: 2, Load: 0.2, Wanted: 4}}, 2, 4},
		{"CPU asks for more than a metric does", with(func(p *Policy) { p.Metrics = make([]wire.Metric, 1) }), []Sample{{At: now, Size: 2, Measured: 2, Load: 2, Wanted: 1}}, 2, 4},
		{"a metric alone", with(func(p *Policy) { p.Target, p.Metrics = 0, make([]wire.Metric, 1) }), []Sample{{At: now.Add(-11 * time.Minute), Size: 4, Wanted: 2}, {At: now, Size: 4, Wanted: 2}}, 4, 2},
		{"a metric without a value is no reason to shrink", with(func(p *Policy) { p.Metrics = make([]wire.Metric, 1) }), []Sample{{At: now.Add(-11 * time.Minute), Size: 4, Measured: 4, Load: 0.1, Blind: true}, {At: now, Size: 4, Measured: 4, Load: 0.1, Blind: true}}, 4, 4},
		{"no signal", with(func(p *Policy) { p.Target = 0 }), []Sample{ago(0, 2, 2, 2)}, 2, 2},
	} {
		if got := Desired(tc.p, now, tc.samples, tc.current); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}
