package group

import (
	"math"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// Policy is an autoscaler's policy, with its times in the local cloud's time.
type Policy struct {
	Min, Max      int
	Mode          string  // ON, OFF, ONLY_SCALE_OUT (or ONLY_UP)
	Target        float64 // utilisation, 0 for an autoscaler without that signal
	Metrics       []wire.Metric
	CoolDown      time.Duration
	Stabilization time.Duration
	ScaleIn       *wire.FixedOrPercent // at most so many fewer than the peak of Window; nil for no limit
	Window        time.Duration
}

// PolicyOf reads a policy. The floors keep a cloud whose time is scaled from acting on a single measurement.
func PolicyOf(a wire.Autoscaler, scale float64) Policy {
	p := Policy{Min: a.Policy.Min, Max: a.Policy.Max, Mode: a.Policy.Mode, Metrics: a.Policy.Metrics}
	seconds := func(v *int, def int, floor time.Duration) time.Duration {
		if v != nil {
			def = *v
		}
		return wire.Scaled(time.Duration(def)*time.Second, scale, floor)
	}
	p.CoolDown = seconds(a.Policy.Cool, 60, 2*time.Second)
	p.Stabilization = seconds(a.Policy.Stabilization, 600, 5*time.Second)
	if a.Policy.CPU != nil {
		p.Target = a.Policy.CPU.Target
		if p.Target == 0 {
			p.Target = 0.6
		}
	}
	if c := a.Policy.ScaleIn; c != nil {
		p.ScaleIn = c.Max
		p.Window = wire.Scaled(time.Duration(c.Window)*time.Second, scale, 5*time.Second)
	}
	return p
}

// Sample is one measurement of a group.
type Sample struct {
	At       time.Time
	Size     int     // the group's target then
	Measured int     // instances past their cool-down
	Load     float64 // the sum of their utilisations: 1 is one instance with nothing left
	Wanted   int     // the most instances that a metric asks for
	Blind    bool    // a metric had no value
}

// wants is the size at which every signal would be met. One that is not known is no reason to shrink.
func (s Sample) wants(p Policy) int {
	size, blind := s.Wanted, s.Blind || p.Target == 0 && len(p.Metrics) == 0
	switch {
	case p.Target == 0:
	case s.Measured == 0:
		blind = true
	default:
		average := s.Load / float64(s.Measured)
		// A hair above a whole number is measurement, not load.
		size = max(size, int(math.Ceil(average*float64(s.Size)/p.Target-1e-6)))
	}
	if blind {
		size = max(size, s.Size)
	}
	return size
}

// Desired decides a group's size. It goes up with the newest sample at once, and down only to the highest size that any
// sample of the stabilization period wanted, once there are samples of the whole period. Samples are ordered by time.
func Desired(p Policy, now time.Time, samples []Sample, current int) int {
	if p.Mode == "OFF" {
		return current
	}
	size := current
	if len(samples) > 0 {
		size = samples[len(samples)-1].wants(p)
	}
	if size < current {
		size = settle(p, now, samples, size, current)
	}
	if (p.Mode == "ONLY_SCALE_OUT" || p.Mode == "ONLY_UP") && size < current {
		size = current
	}
	return min(max(size, p.Min), p.Max)
}

// settle is how far a group may shrink now.
func settle(p Policy, now time.Time, samples []Sample, size, current int) int {
	if now.Sub(samples[0].At) < p.Stabilization {
		return current
	}
	peak := current
	for _, s := range samples {
		age := now.Sub(s.At)
		if age <= p.Stabilization {
			size = max(size, s.wants(p))
		}
		if age <= p.Window {
			peak = max(peak, s.Size)
		}
	}
	if p.ScaleIn != nil {
		size = max(size, peak-p.ScaleIn.Of(peak, peak))
	}
	return min(size, current)
}
