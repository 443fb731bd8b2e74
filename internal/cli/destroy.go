package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/plan"
)

type destroyOptions struct {
	target
	yes, json, breakLock bool
	deleteData           []string
}

func newDestroy(a *app) *cobra.Command {
	var o destroyOptions
	c := &cobra.Command{
		Use: "destroy", Short: "Delete the stack",
		Long: `Shows what will be deleted, asks for confirmation, and deletes it. On Google Cloud, nothing is deleted until every resource
that holds data is named with --delete-data. Resources without the stack's mark are never deleted. If the description has
mistakes, the names of the stack and its project are enough. A local cloud that apply started is stopped with its last stack.`,
		RunE: func(c *cobra.Command, _ []string) error { return o.aim(c, runDestroy(c.Context(), a, o)) },
	}
	o.flags(c)
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask for confirmation")
	c.Flags().BoolVar(&o.json, "json", false, "write the plan, the events and the result as JSON, one object per line; requires --yes")
	c.Flags().BoolVar(&o.breakLock, "break-lock", false, "take over the lock of another run; use only when that run is certainly dead")
	c.Flags().StringSliceVar(&o.deleteData, "delete-data", nil, "ID, as shown in the plan, of a resource to delete together with its data; separate several with commas")
	return c
}

func runDestroy(ctx context.Context, a *app, o destroyOptions) error {
	if err := needsYes(a, o.yes, o.json); err != nil {
		return err
	}
	progress := a.progress(o.json)
	defer progress.Close()
	id, stack, err := o.openAny(ctx, a, progress.Event)
	if errors.Is(err, errLocalDown) {
		return o.endLocal(ctx, a)
	}
	if err != nil {
		return err
	}
	defer stack.Close()
	began := time.Now()
	show := func(p *plan.Plan) error {
		if o.json {
			return a.line("plan", view.PlanJSON(id.Stack, id.Project, p))
		}
		view.Plan(a.Out, a.colour, view.Heading{Stack: id.Stack, Project: id.Project, Where: o.where(), Destroy: true}, p)
		return nil
	}
	allowed := func(p *plan.Plan) error {
		if o.local {
			return nil
		}
		return o.losses(p)
	}
	shown := false
	if !o.yes {
		p, err := stack.PlanDestroy(ctx)
		if err != nil {
			return err
		}
		if err := show(p); err != nil {
			return err
		}
		shown = true
		if err := allowed(p); err != nil {
			return err
		}
		if !p.Empty() {
			if ok, err := a.ask(ctx, "Delete these resources? This cannot be undone."); err != nil || !ok {
				return declined(a, err)
			}
		}
	}
	res, err := stack.Destroy(ctx, ops.RunOptions{Command: "destroy", Args: a.args, BreakLock: o.breakLock, Confirm: func(p *plan.Plan) (bool, error) {
		progress.Expect(len(p.Steps))
		if !shown {
			if err := show(p); err != nil {
				return false, err
			}
		}
		return true, allowed(p)
	}})
	progress.Close()
	if err != nil {
		if res != nil && res.Deleted+res.Failed+res.Skipped > 0 {
			view.Unfinished(a.Err, a.colour, res.Deleted, res.Failed, res.Skipped)
		}
		return err
	}
	if o.json {
		err = a.line("result", map[string]any{"deleted": res.Deleted, "unseen": res.Unseen, "seconds": time.Since(began).Seconds(), "requests": stack.Requests()})
	} else {
		view.Destroyed(a.Out, a.colour, id.Stack, res.Deleted, len(res.Unseen) == 0, time.Since(began))
		o.unseen(a, id, res.Unseen)
	}
	if err != nil || !o.local {
		return err
	}
	return o.endLocal(ctx, a)
}

// unseen says where nothing could be looked for. In a project in which apply never came far that is as it should be.
func (o *destroyOptions) unseen(a *app, id config.Identity, services []string) {
	if len(services) == 0 {
		return
	}
	enable := ""
	if !o.local {
		enable = "\n    gcloud services enable " + strings.Join(services, " ") + " --project=" + id.Project
	}
	view.Warning(a.Err, a.colour, fmt.Sprintf(`What %s may have at these services could not be seen, because they are not enabled in %s:
    %s
If they were never enabled, nothing is there. If somebody disabled them, enable them and destroy the stack again; it is found by its marks.%s`,
		id.Stack, id.Project, strings.Join(services, "\n    "), enable))
}

// openAny opens the stack even when its file is wrong, as long as that names the stack: the state says what belongs to it.
func (o *destroyOptions) openAny(ctx context.Context, a *app, events event.Sink) (config.Identity, *ops.Stack, error) {
	spec, err := config.Load(ctx, o.file)
	if err == nil {
		stack, _, err := o.openWith(ctx, a, ops.Options{Spec: spec, Events: events}, false, false)
		return spec.Identity(), stack, err
	}
	id, ok := config.Identify(ctx, o.file)
	if !ok {
		return id, nil, err
	}
	if err := o.warn(a, id, fault.All(err)); err != nil {
		return id, nil, err
	}
	stack, _, err := o.openWith(ctx, a, ops.Options{Identity: id, Events: events}, false, false)
	return id, stack, err
}

// warn says what is wrong with the file, and that it does not matter here.
func (o *destroyOptions) warn(a *app, id config.Identity, problems []*fault.Fault) error {
	if o.json {
		return a.line("warnings", problems)
	}
	text := fmt.Sprintf("%s describes no stack that apply would make. What belongs to %s is taken from its state alone.", o.file, id.Stack)
	for _, f := range problems {
		text += "\n" + strings.TrimPrefix(f.At.String()+": ", ": ") + f.Summary
	}
	view.Warning(a.Err, a.colour, text)
	return nil
}

// losses refuses to lose data that was not named.
func (o *destroyOptions) losses(p *plan.Plan) error {
	var missing []string
	for _, s := range p.Losses() {
		if !slices.Contains(o.deleteData, string(s.ID)) {
			missing = append(missing, string(s.ID))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return &fault.Fault{
		Summary: "Data would be lost",
		Detail:  fmt.Sprintf("These resources hold data, and difyup keeps no backup of it:\n    %s", strings.Join(missing, "\n    ")),
		Remedy:  "To delete them together with their data, name them:\n    difyup destroy" + o.flagsText() + " --delete-data " + strings.Join(missing, ","),
	}
}

// endLocal ends a local cloud that was started for stacks when nothing is left in it.
func (o *destroyOptions) endLocal(ctx context.Context, a *app) error {
	dir, err := localDir(o.dir)
	if err != nil {
		return err
	}
	info, err := localcloud.Find(ctx, dir)
	said := "The local cloud is empty and was stopped."
	switch {
	case errors.Is(err, localcloud.ErrNotRunning):
		was, err := localcloud.Sweep(ctx, dir, a.waiting)
		if err != nil {
			return err
		}
		if !was {
			said = "The local cloud is not running: there is nothing to destroy."
		}
	case err != nil:
		return err
	case !info.Empty():
		return nil
	case !info.Transient:
		said = "The local cloud is empty and keeps running, because `difyup local up` started it. Stop it with: difyup local down" + o.dirText()
	default:
		if _, err := localcloud.Down(ctx, dir, a.waiting); err != nil {
			return err
		}
	}
	if !o.json {
		view.Note(a.Err, a.colour, said)
	}
	return nil
}
