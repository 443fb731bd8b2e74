package view

import (
	"cmp"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/report"
)

// Outputs shows outputs, one to a line.
func Outputs(w io.Writer, c Palette, values []ops.Value) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range values {
		doc := styled("")
		if len(values) > 1 {
			doc = "\t" + c.dim(v.Doc)
		}
		printf(t, "%s\t%s%s\n", v.Name, c.bold(orNone(v.Value)), doc)
	}
	_ = t.Flush() // to the same writer, whose errors are told where the command ends
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// instance shows what an instance says of itself, if it was asked. One that is not well explains itself first: what it does, why,
// and the remedy. Flags are what makes a command be about the stack.
func instance(w io.Writer, c Palette, i *ops.Instance, flags string, now time.Time) {
	says := i.Says(now)
	if says == "" {
		return
	}
	if i.Well(now) {
		printf(w, "      %s\n", c.dim(says))
	} else {
		printf(w, "      %s\n", c.yellow(says))
	}
	if i.Serial != "" {
		printf(w, "      %s\n", c.dim("its serial port says last: "+i.Serial))
	}
	if ill := i.Ill(); len(ill) > 0 {
		printf(w, "      %s\n", c.red(strings.Join(ill, "; ")))
	}
	if do, command := i.Remedy(now); do != "" {
		printf(w, "      %s: %s\n", do, command+flags)
	}
	if i.Report == nil {
		return
	}
	ago := func(at time.Time) string { return max(0, now.Sub(at)).Round(time.Second).String() + " ago" }
	// The load balancer sees at once what a report says within half a minute.
	said := sprintf("it said so %s", ago(i.Report.At))
	if since := i.Report.Since; !since.IsZero() {
		said += sprintf(", in this phase for %s", max(0, i.Report.At.Sub(since)).Round(time.Second))
	}
	printf(w, "      %s\n", c.dim(said))
	if n := len(i.Report.Checks) - len(i.Report.Ill()); n > 0 {
		var slowest report.Check
		for _, check := range i.Report.Checks {
			if check.Well && check.Took >= slowest.Took {
				slowest = check
			}
		}
		printf(w, "      %s\n", c.dim(sprintf("%d checks pass; the slowest, %s, in %d ms", n, slowest.Name, slowest.Took)))
	}
	if all := i.Report.Containers; all != nil {
		var list styled
		for n, one := range all.All {
			if n > 0 {
				list += ", "
			}
			list += sprintf("%s", one.Name)
			if one.MiB > 0 {
				list += sprintf(" %d MiB", one.MiB)
			}
			if one.Restarts > 0 {
				list += sprintf(" (restarts: %d)", one.Restarts)
			}
		}
		printf(w, "      %s\n", c.dim(sprintf("containers, %s: %s", ago(all.At), cmp.Or(list, "(none)"))))
	}
	if p := i.Report.Plugins; p != nil {
		printf(w, "      %s\n", c.dim(sprintf("plugins, %s: %d installed, %d run here", ago(p.At), p.Installed, p.Here)))
	}
}

// Status shows how a stack is, at a time. Flags are what makes a command be about the stack.
func Status(w io.Writer, c Palette, where, flags, url string, s *ops.Status, now time.Time) {
	state := c.green("serving")
	switch {
	case len(s.Missing) > 0:
		state = c.yellow(sprintf("incomplete: %d resources are missing", len(s.Missing)))
	case len(s.Broken()) > 0:
		state = c.red("degraded: " + strings.Join(s.Broken(), ", "))
	case s.Healthy == 0:
		state = c.red("not serving")
	case !s.Ready():
		state = c.yellow("changing")
	}
	printf(w, "%s %s %s%s  %s\n", c.bold(s.Stack), c.dim("in"), s.Project, c.dim(" ("+where+")"), state)
	if url != "" {
		printf(w, "  %s %s\n", c.bold(url), c.dim("certificate "+strings.ToLower(s.Certificate)))
	}
	printf(w, "\n  %s  %d of %d healthy\n", c.bold("instances"), s.Healthy, s.Target)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, i := range s.Instances {
		health := orNone(i.Health)
		if i.Action != "NONE" && i.Action != "" {
			health += ", " + strings.ToLower(i.Action)
		}
		printf(t, "    %s\t%s\t%s\t%s\n", i.Name, i.Zone, i.Status, health)
		if i.Error != "" {
			printf(t, "      %s\n", c.red(i.Error))
		}
		instance(t, c, &i, flags, now)
	}
	_ = t.Flush()
	if on, asked := s.Scheduler(now); len(on) > 0 {
		printf(w, "    %s\n", c.dim("the scheduler runs on "+strings.Join(on, ", ")))
	} else if asked {
		printf(w, "    %s\n", c.yellow("the scheduler runs on no instance"))
	}
	for _, text := range s.Warnings {
		printf(w, "    %s\n", c.yellow(text))
	}
	printf(w, "\n  %s\n", c.bold("stores"))
	for _, st := range s.Stores {
		printf(t, "    %s\t%s\t%s\t%s\n", st.Name, st.What, st.State, st.Address)
	}
	_ = t.Flush()
	for i, id := range s.Missing {
		if i == 0 {
			printf(w, "\n  %s\n", c.bold("missing"))
		}
		printf(w, "    %s\n", id)
	}
	printf(w, "\n")
	if r := s.Last; r != nil {
		printf(w, "  %s\n", c.dim(sprintf("last run: %s by %s at %s: %d created, %d changed, %d deleted, %d failed",
			r.Command, r.By, r.At.Local().Format(time.DateTime), r.Created, r.Updated, r.Deleted, r.Failed)))
	}
	if i := s.Intent; i != nil && s.Lock == nil {
		printf(w, "  %s\n", c.yellow(sprintf("`%s` by %s, started at %s, did not finish; the next apply continues it", i.Command, i.By, i.At.Local().Format(time.DateTime))))
	}
	if h := s.Lock; h != nil {
		printf(w, "  %s\n", c.yellow(sprintf("%s", h.Told())))
	}
}

// Local shows what runs in the local cloud.
func Local(w io.Writer, c Palette, i *localcloud.Info) {
	printf(w, "%s %s  %s\n", c.bold("local cloud"), i.URL, c.dim(sprintf("process %d, %s, name server %s", i.PID, i.Addresses, i.DNS)))
	printf(w, "  %s\n", c.dim("in "+i.Dir+", since "+i.StartedAt.Local().Format(time.DateTime)))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(what, name, project string, state, address any) {
		printf(t, "  %s\t%s\t%s\t%s\t%s\n", what, name, project, state, address)
	}
	for _, l := range i.Listeners {
		row("forwarding rule", l.Name, l.Project, "", l.URL())
	}
	for _, s := range i.Servers {
		row(s.Kind, s.Name, s.Project, s.State, s.Address)
	}
	for _, m := range i.Instances {
		row("instance", m.Name, m.Project, m.Status, m.Address)
	}
	for _, b := range i.Buckets {
		row("bucket", b.Name, "", sprintf("%d objects", b.Objects), sprintf("%d bytes", b.Bytes))
	}
	_ = t.Flush()
	if i.Empty() {
		printf(w, "  nothing in it yet\n")
	}
}
