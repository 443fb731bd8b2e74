package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/report"
	"github.com/difyup/difyup/internal/spelling"
)

type logsOptions struct {
	readOptions
	instance   string
	containers []string
	follow     bool
	since      time.Duration
	tail       int
}

func newLogs(a *app) *cobra.Command {
	var o logsOptions
	c := &cobra.Command{
		Use: "logs [INSTANCE]", Short: "Show what the instances' containers and agents wrote",
		Long: `Shows the last lines that the containers and the agent of an instance wrote, or those of all instances, as Cloud Logging has them: also
those of instances that are gone. Containers are ` + strings.Join(logSources(), ", ") + `.

A line is here some seconds after it was written. With --follow, difyup asks every two seconds, of the 60 times a minute that Cloud
Logging allows in a project.`,
		Example: "  difyup logs -c api --follow\n  difyup logs demo-vm-x1y2 --since 24h --tail 1000",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.instance = args[0]
			}
			return o.aim(c, runLogs(c.Context(), a, o))
		},
	}
	o.longFlags(c)
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 1 {
			return noArgs(c, args[1:])
		}
		return nil
	}
	c.Flags().StringSliceVarP(&o.containers, "container", "c", nil, "only lines of this container; may be repeated")
	c.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with the lines that come, until interrupted")
	c.Flags().DurationVar(&o.since, "since", time.Hour, "only lines that are not older")
	c.Flags().IntVar(&o.tail, "tail", 200, "how many of the last lines")
	c.Flags().BoolVar(&o.json, "json", false, "write each line as a JSON object")
	return c
}

// logSources are the containers whose lines there are, and the agent.
func logSources() []string {
	names := []string{report.AgentLog}
	for _, n := range dify.Names() {
		names = append(names, string(n))
	}
	slices.Sort(names)
	return names
}

func runLogs(ctx context.Context, a *app, o logsOptions) error {
	for _, c := range o.containers {
		if slices.Contains(logSources(), c) {
			continue
		}
		f := &fault.Fault{Summary: "Unknown container", Detail: fmt.Sprintf("Instances have no container %q.", c), Remedy: "The containers are " + strings.Join(logSources(), ", ") + "."}
		if near := spelling.Nearest(c, logSources()); near != "" {
			f.Remedy = "Did you mean this?\n    difyup logs -c " + near
		}
		return f
	}
	if o.tail < 0 || o.since <= 0 {
		return &fault.Fault{Summary: "Wrong flag", Detail: "--tail must not be negative, and --since must be above 0.", Remedy: "See what there is:\n    difyup logs --help"}
	}
	_, stack, _, err := o.running(ctx, a)
	if err != nil {
		return err
	}
	defer stack.Close()
	show := func(lines []ops.LogLine) error {
		if !o.json {
			view.Logs(a.Out, a.colour, lines)
			return nil
		}
		out := json.NewEncoder(a.Out)
		for _, l := range lines {
			if err := out.Encode(l); err != nil {
				return err
			}
		}
		return nil
	}
	q := ops.LogQuery{Instance: o.instance, Containers: o.containers, Since: time.Now().Add(-o.since), Tail: o.tail}
	if o.follow {
		return stack.FollowLogs(ctx, q, show)
	}
	lines, err := stack.Logs(ctx, q)
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		view.Note(a.Err, a.colour, "No lines.")
	}
	return show(lines)
}
