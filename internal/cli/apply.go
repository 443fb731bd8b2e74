package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/plan"
)

type applyOptions struct {
	target
	yes, json, breakLock, noWait, migrate bool
	recreate                              []string
	timeout                               time.Duration
}

func newApply(a *app) *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use: "apply", Short: "Create or update the stack",
		Long: `Shows the changes, asks for confirmation, and makes them. It is safe to interrupt it at any time: the next apply continues
where this one stopped. With --local, the local cloud is started if it is not running.`,
		RunE: func(c *cobra.Command, _ []string) error { return o.aim(c, runApply(c.Context(), a, o)) },
	}
	o.flags(c)
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask for confirmation")
	c.Flags().BoolVar(&o.json, "json", false, "write the plan, the events and the result as JSON, one object per line; requires --yes")
	c.Flags().BoolVar(&o.breakLock, "break-lock", false, "take over the lock of another run; use only when that run is certainly dead")
	c.Flags().BoolVar(&o.migrate, "migrate", false, "let the databases be migrated to another release of Dify while the old one still serves")
	c.Flags().StringSliceVar(&o.recreate, "recreate", nil, "ID, as shown in the plan, of a resource that somebody deleted, to make again without the data it held; separate several with commas")
	c.Flags().BoolVar(&o.noWait, "no-wait", false, "do not wait until the instances are healthy")
	c.Flags().DurationVar(&o.timeout, "timeout", 20*time.Minute, "how long to wait until the instances are healthy")
	return c
}

// needsYes refuses a run that would have to ask nobody.
func needsYes(a *app, yes, json bool) error {
	if yes || a.AskIn && !json {
		return nil
	}
	return &fault.Fault{
		Summary: "Confirmation required",
		Detail:  "This command changes resources, and there is no terminal to confirm it on.",
		Remedy:  "Use --yes to run it without confirmation.",
	}
}

func runApply(ctx context.Context, a *app, o applyOptions) error {
	if err := needsYes(a, o.yes, o.json); err != nil {
		return err
	}
	progress := a.progress(o.json)
	defer progress.Close()
	spec, stack, info, err := o.open(ctx, a, progress.Event, true, true)
	if err != nil {
		return err
	}
	defer stack.Close()
	began := time.Now()
	heading := view.Heading{Stack: spec.Stack, Project: spec.Project, Where: o.where()}
	show := func(p *plan.Plan) error {
		if o.json {
			return a.line("plan", view.PlanJSON(spec.Stack, spec.Project, p))
		}
		view.Plan(a.Out, a.colour, heading, p)
		return nil
	}
	run := ops.RunOptions{Command: "apply", Args: a.args, BreakLock: o.breakLock, Migrate: o.migrate, Recreate: o.recreate, Confirm: func(p *plan.Plan) (bool, error) {
		began = time.Now()
		progress.Expect(len(p.Steps))
		return true, show(p)
	}}
	if !o.yes {
		if !o.breakLock {
			if err := stack.Locked(ctx); err != nil {
				return err
			}
		}
		shown, err := stack.Plan(ctx)
		if err != nil {
			return err
		}
		if err := show(shown); err != nil {
			return err
		}
		// Without a change there may be the end of a run that was killed to record, and instances to wait for.
		if !shown.Empty() {
			question := "Apply these changes?"
			if r := shown.Release; r != nil && r.Migrates {
				question, run.Migrate = "Apply these changes, and migrate the databases to Dify "+r.To+"?", true
			}
			if len(shown.Lost) > 0 {
				question = strings.TrimSuffix(question, "?") + ", and go on without the data that are gone?"
				for _, id := range shown.Lost {
					run.Recreate = append(run.Recreate, string(id))
				}
			}
			if ok, err := a.ask(ctx, question); err != nil || !ok {
				return declined(a, err)
			}
		}
		run.Confirm = func(p *plan.Plan) (bool, error) {
			began = time.Now()
			progress.Expect(len(p.Steps))
			if !reflect.DeepEqual(stepsOf(shown), stepsOf(p)) || !reflect.DeepEqual(shown.Release, p.Release) {
				return false, &fault.Fault{
					Summary: "The cloud has changed",
					Detail:  "The plan is no longer the one that was shown.",
					Remedy:  "Review the new plan:\n    difyup apply" + o.flagsText(),
				}
			}
			return true, nil
		}
	}
	res, err := stack.Apply(ctx, run)
	if res != nil && res.Plan != nil && res.Plan.Empty() && err == nil && o.yes {
		if err := show(res.Plan); err != nil {
			return err
		}
	}
	if err != nil {
		progress.Close()
		if res != nil && res.Created+res.Updated+res.Deleted+res.Failed+res.Skipped > 0 {
			view.Unfinished(a.Err, a.colour, res.Created+res.Updated+res.Deleted, res.Failed, res.Skipped)
		}
		return err
	}
	if !o.noWait {
		status, err := stack.Settle(ctx, o.timeout)
		if err != nil {
			return err
		}
		progress.Settled(status.Healthy, status.Target)
		if err := stack.Remember(ctx, res.Plan.Release != nil && res.Plan.Release.Migrates); err != nil {
			return err
		}
	}
	progress.Close()
	values, err := stack.Outputs(ctx)
	if err != nil {
		return err
	}
	if info != nil { // its listeners are known now
		if info, err = localcloud.Find(ctx, info.Dir); err != nil {
			return err
		}
	}
	values = localURL(values, info, spec)
	if o.json {
		return a.line("result", map[string]any{
			"created": res.Created, "updated": res.Updated, "deleted": res.Deleted, "seconds": time.Since(began).Seconds(), "requests": stack.Requests(), "outputs": values,
		})
	}
	if !res.Plan.Empty() {
		view.Applied(a.Out, a.colour, res.Created, res.Updated, res.Deleted, time.Since(began))
	}
	view.Outputs(a.Out, a.colour, values[:1])
	if l := listenerOf(info, spec); l != nil && l.Taken != 0 {
		view.Note(a.Err, a.colour, fmt.Sprintf("Port %d of %s is another program's: this load balancer listens at port %d.", l.Taken, l.Address, l.Port))
	}
	view.Next(a.Err, a.colour, "difyup status"+o.flagsText())
	return nil
}

// stepsOf is what two plans must agree in to be the same.
func stepsOf(p *plan.Plan) []plan.Step {
	steps := make([]plan.Step, len(p.Steps))
	for i, s := range p.Steps {
		s.Res, s.Live = nil, nil
		steps[i] = s
	}
	return steps
}

// line writes one value of a stream of JSON values.
func (a *app) line(kind string, v any) error {
	return json.NewEncoder(a.Out).Encode(map[string]any{"type": kind, kind: v})
}

// ask asks a yes-or-no question on the terminal; no is the default.
func (a *app) ask(ctx context.Context, question string) (bool, error) {
	fmt.Fprintf(a.Err, "%s [y/N] ", question)
	answers := make(chan string, 1)
	failed := make(chan error, 1)
	go func() { // ends with the process when nobody answers: a read from a terminal cannot be taken back
		text, err := bufio.NewReader(io.LimitReader(a.In, 1000)).ReadString('\n')
		if err != nil && text == "" {
			failed <- err
			return
		}
		answers <- text
	}()
	select {
	case text := <-answers:
		text = strings.ToLower(strings.TrimSpace(text))
		return text == "y" || text == "yes", nil
	case <-failed:
		fmt.Fprintln(a.Err)
		return false, nil
	case <-ctx.Done():
		fmt.Fprintln(a.Err)
		return false, ctx.Err()
	}
}

func declined(a *app, err error) error {
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	view.Note(a.Err, a.colour, "Nothing was changed.")
	return errSaid
}
