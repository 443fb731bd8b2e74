package dify

import "slices"

// Change is a change of the release that a stack runs.
type Change struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Migrates says that the databases are migrated for it, which has no way back.
	Migrates bool   `json:"migrates"`
	Notes    []Note `json:"notes,omitempty"`
}

// Note is something to know before releases are run.
type Note struct {
	Versions []string `json:"versions,omitempty"`
	Text     string   `json:"text"` // a sentence
}

// Between gives the change from one release to another, with the notes of all releases on the way that do not hold for the first
// one already. It is nil when the release stays. Two versions of which none is the older one are taken for a way forward.
func Between(from, to string) *Change {
	if from == to {
		return nil
	}
	c := &Change{From: from, To: to, Migrates: !Older(to, from)}
	var had []string
	for _, r := range Releases() {
		switch {
		case r.Version == from:
			had = r.Notes
			continue
		case !Older(from, r.Version) || Older(to, r.Version):
			continue
		}
		for _, text := range r.Notes {
			if slices.Contains(had, text) {
				continue
			}
			i := slices.IndexFunc(c.Notes, func(n Note) bool { return n.Text == text })
			if i < 0 {
				i = len(c.Notes)
				c.Notes = append(c.Notes, Note{Text: text})
			}
			c.Notes[i].Versions = append(c.Notes[i].Versions, r.Version)
		}
	}
	return c
}
