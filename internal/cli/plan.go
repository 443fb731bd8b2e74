package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/cli/view"
)

type planOptions struct {
	target
	json, exitCode bool
}

func newPlan(a *app) *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use: "plan", Short: "Show what apply would change",
		Long: "Compares the description with the cloud and shows what apply would do. Nothing is changed.",
		RunE: func(c *cobra.Command, _ []string) error { return o.aim(c, runPlan(c.Context(), a, o)) },
	}
	o.flags(c)
	c.Flags().BoolVar(&o.json, "json", false, "write the plan as JSON")
	c.Flags().BoolVar(&o.exitCode, "exit-code", false, "exit with 0 if there are no changes, with 2 if there are")
	return c
}

func runPlan(ctx context.Context, a *app, o planOptions) error {
	spec, stack, _, err := o.open(ctx, a, nil, false, true)
	down := errors.Is(err, errLocalDown)
	if err != nil && !down {
		return err
	}
	defer stack.Close()
	make := stack.Plan
	if down {
		make = stack.PlanFromNothing
	}
	p, err := make(ctx)
	if err != nil {
		return err
	}
	if o.exitCode && !p.Empty() {
		a.code = exitChanges
	}
	if o.json {
		return a.writeJSON(view.PlanJSON(spec.Stack, spec.Project, p))
	}
	view.Plan(a.Out, a.colour, view.Heading{Stack: spec.Stack, Project: spec.Project, Where: o.where()}, p)
	switch {
	case p.Empty():
	case down:
		view.Note(a.Err, a.colour, "The local cloud is not running; apply starts it.")
		fallthrough
	default:
		view.Next(a.Err, a.colour, "difyup apply"+o.flagsText())
	}
	return nil
}
