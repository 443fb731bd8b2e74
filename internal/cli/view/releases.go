package view

import (
	"io"
	"slices"
	"text/tabwriter"

	"github.com/difyup/difyup/internal/dify"
)

// Releases shows the releases that are known, newest first, and once below them what is to be known of several.
func Releases(w io.Writer, c Palette, all []dify.Release, standard string) {
	all = slices.Clone(all)
	slices.Reverse(all)
	var notes []string
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	printf(t, "DIFY\tPLUGIN DAEMON\tSANDBOX\tSCHEMA\tNOTES\n")
	for _, r := range all {
		numbers := styled("")
		if r.Version == standard {
			numbers = " the default"
		}
		for _, n := range r.Notes {
			i := slices.Index(notes, n)
			if i < 0 {
				i = len(notes)
				notes = append(notes, n)
			}
			numbers += sprintf(" [%d]", i+1)
		}
		if numbers != "" {
			numbers = "\t" + numbers[1:]
		}
		printf(t, "%s\t%s\t%s\t%s%s\n", r.Version, r.PluginDaemon, r.Sandbox, orUnknown(r.Schema), numbers)
	}
	_ = t.Flush()
	for i, n := range notes {
		printf(w, "%s\n", c.dim(sprintf("[%d] %s", i+1, n)))
	}
}

func orUnknown(s string) string {
	if s == "" {
		return "not known"
	}
	return s
}
