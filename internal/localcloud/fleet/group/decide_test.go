package group

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// members reads NAME:ZONE:TEMPLATE[:VERSION] words; a "+" at the end means ready, a "-" leaving.
func members(text string) []Member {
	var all []Member
	for word := range strings.FieldsSeq(text) {
		var m Member
		if w, ok := strings.CutSuffix(word, "+"); ok {
			word, m.Ready = w, true
		}
		if w, ok := strings.CutSuffix(word, "-"); ok {
			word, m.Leaving = w, true
		}
		p := append(strings.Split(word, ":"), "")
		m.Name, m.Zone, m.Template, m.Version = p[0], p[1], p[2], p[3]
		all = append(all, m)
	}
	return all
}

func TestDecide(t *testing.T) {
	one := func(size int, template string) []Wanted { return []Wanted{{Template: template, Size: size}} }
	for _, tc := range []struct {
		name    string
		spec    Spec
		members string
		want    string
		settled bool
	}{
		{"empty group is filled evenly", Spec{Size: 4, Zones: []string{"a", "b", "c"}, Versions: one(4, "t"), Proactive: true, Surge: 3}, "",
			"create::a:t create::b:t create::c:t create::a:t", false},
		{"as wanted", Spec{Size: 2, Zones: []string{"a", "b"}, Versions: one(2, "t"), Proactive: true, Surge: 2}, "1:a:t+ 2:b:t+", "", true},
		{"not ready yet", Spec{Size: 2, Zones: []string{"a", "b"}, Versions: one(2, "t"), Proactive: true, Surge: 2}, "1:a:t 2:b:t+", "", true},
		{"leaving ones do not count", Spec{Size: 1, Zones: []string{"a", "b"}, Versions: one(1, "t"), Surge: 2}, "1:a:t-", "create::a:t", false},
		{"scale in keeps zones even", Spec{Size: 2, Zones: []string{"a", "b"}, Versions: one(2, "t"), Proactive: true, Surge: 2}, "1:a:t+ 2:a:t+ 3:b:t+ 4:b:t+",
			"delete:2 delete:4", false},
		{"scale in takes the unready first", Spec{Size: 1, Zones: []string{"a"}, Versions: one(1, "t"), Surge: 1}, "1:a:t 2:a:t+", "delete:1", false},
		{"update surges", Spec{Size: 2, Zones: []string{"a", "b"}, Versions: one(2, "new"), Proactive: true, Surge: 2}, "1:a:old+ 2:b:old+",
			"create::a:new create::b:new", false},
		{"update waits for the new", Spec{Size: 2, Zones: []string{"a", "b"}, Versions: one(2, "new"), Proactive: true, Surge: 2}, "1:a:old+ 2:b:old+ 3:a:new 4:b:new", "", false},
		{"one new ready, one old goes", Spec{Size: 2, Zones: []string{"a", "b"}, Versions: one(2, "new"), Proactive: true, Surge: 2}, "1:a:old+ 2:b:old+ 3:a:new+ 4:b:new",
			"delete:1", false},
		{"update within maxUnavailable", Spec{Size: 3, Zones: []string{"a"}, Versions: one(3, "new"), Proactive: true, Unavailable: 1}, "1:a:old+ 2:a:old+ 3:a:old+", "delete:1", false},
		{"unready old ones go at once", Spec{Size: 2, Zones: []string{"a"}, Versions: one(2, "new"), Proactive: true, Surge: 1}, "1:a:old 2:a:old+", "create::a:new delete:1", false},
		{"opportunistic leaves them", Spec{Size: 2, Zones: []string{"a"}, Versions: one(2, "new"), Surge: 1}, "1:a:old+ 2:a:old+", "", true},
		{"opportunistic creates the new", Spec{Size: 3, Zones: []string{"a"}, Versions: one(3, "new"), Surge: 1}, "1:a:old+ 2:a:old+", "create::a:new", false},
		{"canary", Spec{Size: 3, Zones: []string{"a"}, Versions: []Wanted{{"old", "", 2}, {"new", "", 1}}, Proactive: true, Surge: 1}, "1:a:old+ 2:a:old+ 3:a:old+", "create::a:new", false},
		{"canary ready", Spec{Size: 3, Zones: []string{"a"}, Versions: []Wanted{{"old", "", 2}, {"new", "", 1}}, Proactive: true, Surge: 1}, "1:a:old+ 2:a:old+ 3:a:old+ 4:a:new+", "delete:3", false},
		{"recreate keeps names", Spec{Size: 2, Zones: []string{"a"}, Versions: one(2, "new"), Proactive: true, Unavailable: 1, InPlace: true}, "1:a:old+ 2:a:old+", "recreate:1:a:new", false},
		{"renamed version restarts", Spec{Size: 2, Zones: []string{"a"}, Versions: []Wanted{{"t", "2", 2}}, Proactive: true, Unavailable: 1, Minimal: "RESTART"}, "1:a:t:1+ 2:a:t:1+", "restart:1:a:t:2", false},
		{"renamed version needs nothing", Spec{Size: 1, Zones: []string{"a"}, Versions: []Wanted{{"t", "2", 1}}, Proactive: true, Unavailable: 1, Minimal: "REFRESH"}, "1:a:t:1+", "relabel:1:a:t:2", false},
		{"renamed version replaces", Spec{Size: 1, Zones: []string{"a"}, Versions: []Wanted{{"t", "2", 1}}, Proactive: true, Surge: 1, Minimal: "REPLACE"}, "1:a:t:1+", "create::a:t:2", false},
		{"empty again", Spec{Size: 0, Zones: []string{"a"}, Versions: one(0, "t"), Proactive: true}, "1:a:t+ 2:a:t", "delete:2 delete:1", false},
	} {
		steps, settled := Decide(tc.spec, members(tc.members))
		var got []string
		for _, s := range steps {
			got = append(got, strings.TrimRight(fmt.Sprintf("%s:%s:%s:%s:%s", s.Act, s.Name, s.Zone, s.Template, s.Version), ":"))
		}
		if d := cmp.Diff(tc.want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
		if settled != tc.settled {
			t.Errorf("%s: settled = %v", tc.name, settled)
		}
	}
}

// An update of any shape ends, and never has fewer ready than it may.
func TestUpdateConverges(t *testing.T) {
	for size := 1; size <= 4; size++ {
		for surge := 0; surge <= 3; surge++ {
			for unavailable := 0; unavailable <= 2; unavailable++ {
				for _, inPlace := range []bool{false, true} {
					s := Spec{Size: size, Zones: []string{"a", "b", "c"}, Versions: []Wanted{{Template: "new", Size: size}}, Proactive: true, Surge: surge, Unavailable: unavailable, InPlace: inPlace}
					if surge+unavailable == 0 || inPlace && unavailable == 0 {
						continue
					}
					var ms []Member
					for i := range size {
						ms = append(ms, Member{Name: fmt.Sprint(i), Zone: s.Zones[i%3], Template: "old", Ready: true})
					}
					settled := false
					for round := 0; round < 50 && !settled; round++ {
						var steps []Step
						steps, settled = Decide(s, ms)
						for _, st := range steps {
							switch st.Act {
							case Create:
								ms = append(ms, Member{Name: fmt.Sprintf("n%d-%d", round, len(ms)), Zone: st.Zone, Template: st.Template})
							case Delete:
								for i := range ms {
									if ms[i].Name == st.Name {
										ms = append(ms[:i:i], ms[i+1:]...)
										break
									}
								}
							case Recreate:
								for i := range ms {
									if ms[i].Name == st.Name {
										ms[i].Template, ms[i].Ready = st.Template, false
									}
								}
							}
						}
						ready := 0
						for _, m := range ms {
							ready += boolInt(m.Ready)
						}
						if ready < size-unavailable || len(ms) > size+surge {
							t.Fatalf("size %d surge %d unavailable %d: %d ready of %d", size, surge, unavailable, ready, len(ms))
						}
						if len(steps) == 0 {
							for i := range ms {
								ms[i].Ready = true
							}
						}
					}
					if !settled {
						t.Errorf("size %d surge %d unavailable %d in place %v: never settles: %v", size, surge, unavailable, inPlace, ms)
					}
				}
			}
		}
	}
}
