package group

import (
	"cmp"
	"math"
	"slices"

	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// Spec is what a group should be.
type Spec struct {
	Size        int
	Zones       []string // never empty
	Versions    []Wanted // their sizes add up to Size
	Proactive   bool     // replace instances of other versions without being asked
	Surge       int      // how many may run beyond Size during an update
	Unavailable int      // how many of Size may be not ready during an update
	InPlace     bool     // replacement keeps the name (RECREATE), instead of new before old (SUBSTITUTE)
	Minimal     string   // what an instance needs of which only the version's name changed: NONE, REFRESH, RESTART, REPLACE
}

// Wanted is one version with its share of a group.
type Wanted struct {
	Template string // key
	Name     string
	Size     int
}

// Member is an instance as decisions see it.
type Member struct {
	Name, Zone, Template, Version string

	Ready   bool // running, and where the group has a health check found healthy at least once, by whatever check
	Leaving bool // being deleted
}

// Act is what a step does.
type Act string

// The acts. Relabel only notes that an instance is of another version.
const (
	Create   Act = "create"
	Delete   Act = "delete"
	Recreate Act = "recreate"
	Restart  Act = "restart"
	Relabel  Act = "relabel"
)

// Step is one thing to do now. Create has no Name, Delete nothing but a Name.
type Step struct {
	Act                           Act
	Name, Zone, Template, Version string
}

// SpecOf reads what a group should be.
func SpecOf(m wire.GroupManager) Spec {
	s := Spec{Size: m.TargetSize, Proactive: m.Update.Type == "PROACTIVE", InPlace: m.Update.Replacement == "RECREATE", Minimal: m.Update.MinimalAction}
	for _, z := range m.Distribution.Zones {
		s.Zones = append(s.Zones, wire.Name(z.Zone))
	}
	if len(s.Zones) == 0 {
		region := wire.Name(m.Region)
		s.Zones = []string{region + "-a", region + "-b", region + "-c"}
	}
	s.Surge = m.Update.MaxSurge.Of(s.Size, len(s.Zones))
	s.Unavailable = m.Update.MaxUnavailable.Of(s.Size, len(s.Zones))
	if s.InPlace {
		s.Surge = 0
	}
	if s.Surge == 0 && s.Unavailable == 0 {
		s.Surge = 1 // Google refuses such a policy: an update could never begin
	}
	versions := m.Versions
	if len(versions) == 0 && m.Template != "" {
		versions = []wire.Version{{Template: m.Template}}
	}
	rest, open := s.Size, -1
	for i, v := range versions {
		w := Wanted{Template: wire.Key(v.Template), Name: v.Name}
		if v.TargetSize == nil || v.TargetSize.Fixed == nil && v.TargetSize.Percent == nil {
			open = i
		} else {
			w.Size = min(v.TargetSize.Of(s.Size, 0), rest)
			rest -= w.Size
		}
		s.Versions = append(s.Versions, w)
	}
	if open >= 0 {
		s.Versions[open].Size = rest
	}
	return s
}

// Decide gives what to do now so that the members become what the spec says, and whether they already are. When there
// is nothing to do and they are not, something must happen first: an instance becomes ready, or is gone.
func Decide(s Spec, members []Member) (steps []Step, settled bool) {
	var live []Member
	ready := 0
	for _, m := range members {
		if !m.Leaving {
			live = append(live, m)
			if m.Ready {
				ready++
			}
		}
	}
	room := make([]int, len(s.Versions))
	for i, v := range s.Versions {
		room[i] = v.Size
	}
	zones := map[string]int{} // of those that stay
	var kept int
	// Who stays, of those at a wanted version: the ready ones first, then so that zones are even.
	var excess []Member
	for rest := live; len(rest) > 0; {
		i := best(rest, zones)
		m := rest[i]
		rest = slices.Delete(slices.Clone(rest), i, i+1)
		v := slices.IndexFunc(s.Versions, func(w Wanted) bool { return w.Template == m.Template && w.Name == m.Version })
		if v < 0 || room[v] == 0 {
			excess = append(excess, m)
			continue
		}
		room[v]--
		kept++
		zones[m.Zone]++
	}
	missing := s.Size - kept
	if len(s.Versions) == 0 {
		missing = 0
	}
	next := func() Wanted { // the version that most lacks instances
		i := 0
		for j := range room {
			if room[j] > room[i] {
				i = j
			}
		}
		room[i]--
		return s.Versions[i]
	}
	// An update may take away what is not needed to have Size-Unavailable ready.
	spare := ready - (s.Size - s.Unavailable)
	if !s.Proactive {
		// Other versions do as well as the wanted ones, until someone asks.
		for len(excess) > 0 && missing > 0 {
			zones[excess[0].Zone]++
			next()
			missing--
			excess = excess[1:]
		}
		spare = math.MaxInt
	}
	settled = len(excess) == 0 && missing == 0
	var remain []Member
	for _, m := range excess {
		v := slices.IndexFunc(s.Versions, func(w Wanted) bool { return w.Template == m.Template })
		renamed := v >= 0 && room[v] > 0 && s.Versions[v].Name != m.Version
		relabel := renamed && (s.Minimal == "NONE" || s.Minimal == "REFRESH")
		restart := renamed && s.Minimal == "RESTART"
		allowed := !m.Ready || spare > 0
		switch {
		case relabel:
			room[v]--
			missing--
			zones[m.Zone]++
			steps = append(steps, Step{Relabel, m.Name, m.Zone, m.Template, s.Versions[v].Name})
		case (restart || s.InPlace && missing > 0) && allowed:
			act, w := Recreate, Wanted{}
			if restart {
				act, w = Restart, s.Versions[v]
				room[v]--
			} else {
				w = next()
			}
			missing--
			zones[m.Zone]++
			if m.Ready {
				spare--
			}
			steps = append(steps, Step{act, m.Name, m.Zone, w.Template, w.Name})
		case restart || s.InPlace && missing > 0: // its turn comes
			zones[m.Zone]++
			if restart {
				room[v]--
			}
			missing--
		default:
			remain = append(remain, m)
		}
	}
	total := len(live)
	for ; missing > 0 && total < s.Size+s.Surge; missing-- {
		zone := s.Zones[0]
		for _, z := range s.Zones {
			if zones[z] < zones[zone] {
				zone = z
			}
		}
		zones[zone]++
		total++
		w := next()
		steps = append(steps, Step{Act: Create, Zone: zone, Template: w.Template, Version: w.Name})
	}
	// Those that are not ready serve nobody: they go first, and whenever.
	slices.SortStableFunc(remain, func(a, b Member) int {
		return cmp.Or(cmp.Compare(boolInt(a.Ready), boolInt(b.Ready)), cmp.Compare(a.Name, b.Name))
	})
	for _, m := range remain {
		if m.Ready {
			if spare <= 0 {
				continue
			}
			spare--
		}
		steps = append(steps, Step{Act: Delete, Name: m.Name})
	}
	return steps, settled
}

// best gives the member that most deserves to stay.
func best(members []Member, zones map[string]int) int {
	i := 0
	for j := range members {
		a, b := members[j], members[i]
		if cmp.Or(cmp.Compare(boolInt(b.Ready), boolInt(a.Ready)), cmp.Compare(zones[a.Zone], zones[b.Zone]), cmp.Compare(a.Name, b.Name)) < 0 {
			i = j
		}
	}
	return i
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
