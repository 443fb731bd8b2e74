package ops

import (
	"fmt"
	"testing"

	"github.com/difyup/difyup/internal/state"
)

// TestJudge checks which changes of the release are a migration, which are refused, and when the instances are asked.
func TestJudge(t *testing.T) {
	none := []string{}
	for _, tc := range []struct {
		name                    string
		want, running, recorded string
		heard                   []string // nil: nobody is to be asked
		says                    string
	}{
		{"a new stack", "1.17.1", "", "", nil, "stays"},
		{"as it is", "1.17.1", "1.17.1", "1.17.1", nil, "stays"},
		{"as it is, and nothing recorded", "1.17.1", "1.17.1", "", nil, "stays"},
		{"forward", "1.17.1", "1.16.0", "1.16.0", nil, "1.16.0 to 1.17.1, migrates"},
		{"forward, and nothing recorded", "1.17.1", "1.16.0", "", nil, "1.16.0 to 1.17.1, migrates"},
		{"forward without a group", "1.17.1", "", "1.16.0", nil, "1.16.0 to 1.17.1, migrates"},
		{"forward, which is on its way", "1.17.1", "1.17.1", "1.16.0", nil, "stays"},
		{"forward, and the databases are further", "1.17.0", "1.16.0", "1.17.1", nil, "databases of 1.17.1"},
		{"back", "1.17.0", "1.17.1", "1.17.1", nil, "databases of 1.17.1"},
		{"back without a group", "1.17.0", "", "1.17.1", nil, "databases of 1.17.1"},
		{"back, as the instances say", "1.17.0", "1.17.1", "", []string{"1.17.1"}, "databases of 1.17.1"},
		{"back, as one of the instances says", "1.17.0", "1.17.1", "1.17.0", []string{"1.17.0", "1.17.1"}, "databases of 1.17.1"},
		{"back from what never served", "1.17.0", "1.17.1", "1.17.0", []string{"1.17.0"}, "1.17.1 to 1.17.0"},
		{"back from what never served, half way", "1.16.0", "1.17.1", "", []string{"1.17.0"}, "databases of 1.17.0"},
		{"back, and nobody says anything", "1.17.0", "1.17.1", "", none, "1.17.1 to 1.17.0, warned"},
		{"back, and nobody says anything new", "1.17.0", "1.17.1", "1.17.0", none, "1.17.1 to 1.17.0, warned"},
		{"a lie", "1.17.0", "1.17.1", "", []string{"99.0.0"}, "1.17.1 to 1.17.0"},
	} {
		asked := false
		c, newer, err := judge(tc.want, tc.running, tc.recorded, func() ([]state.Schema, error) {
			asked = true
			var all []state.Schema
			for _, v := range tc.heard {
				all = append(all, state.Schema{Version: v})
			}
			return all, nil
		})
		says := "stays"
		switch {
		case err != nil:
			says = err.Error()
		case newer != "":
			says = "databases of " + newer
		case c != nil:
			says = fmt.Sprintf("%s to %s", c.From, c.To)
			if c.Migrates {
				says += ", migrates"
			}
			if len(c.Notes) > 0 && len(c.Notes[0].Versions) == 0 {
				says += ", warned"
			}
		}
		if says != tc.says || asked != (tc.heard != nil) {
			t.Errorf("%s: %s, asked %v; want %s", tc.name, says, asked, tc.says)
		}
	}
}
