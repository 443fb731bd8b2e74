package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/ops"
)

type readOptions struct {
	target
	json bool
	deep bool
}

func newStatus(a *app) *cobra.Command {
	var o readOptions
	c := &cobra.Command{
		Use: "status", Short: "Show the status of the stack",
		Long: `Shows the load balancer, the instances and their health, the stores, the last run, who holds the lock, and what instances warn
of. With --deep, it shows all that each instance says of itself: how far it has come, what it waits for, how it finds each store, its containers
with their restarts and memory, its plugins, and how old all that is; and of one that is not well, what to do about it.`,
		RunE: func(c *cobra.Command, _ []string) error { return o.aim(c, runStatus(c.Context(), a, o)) },
	}
	o.flags(c)
	c.Flags().BoolVar(&o.json, "json", false, "write the status as JSON")
	c.Flags().BoolVar(&o.deep, "deep", false, "show what every instance says of itself")
	return c
}

func newOutputs(a *app) *cobra.Command {
	var o readOptions
	c := &cobra.Command{
		Use: "outputs", Short: "Show addresses and names of the stack",
		RunE: func(c *cobra.Command, _ []string) error { return o.aim(c, runOutputs(c.Context(), a, o)) },
	}
	o.flags(c)
	c.Flags().BoolVar(&o.json, "json", false, "write the outputs as JSON")
	return c
}

// running opens a stack that must be there.
func (o *readOptions) running(ctx context.Context, a *app) (*config.Spec, *ops.Stack, *localcloud.Info, error) {
	spec, stack, info, err := o.open(ctx, a, nil, false, false)
	if errors.Is(err, errLocalDown) {
		err = &fault.Fault{
			Summary: "The local cloud is not running",
			Detail:  "So there is no stack in it.",
			Remedy:  "Create one:\n    difyup apply" + o.flagsText(),
		}
	}
	return spec, stack, info, err
}

func runStatus(ctx context.Context, a *app, o readOptions) error {
	spec, stack, info, err := o.running(ctx, a)
	if err != nil {
		return err
	}
	defer stack.Close()
	s, err := stack.Status(ctx)
	if err != nil {
		return err
	}
	if o.deep {
		stack.Deep(ctx, s)
	} else {
		stack.Warn(ctx, s)
	}
	if o.json {
		return a.writeJSON(map[string]any{"status": s, "ready": s.Ready(), "url": urlOf(s, info, spec)})
	}
	view.Status(a.Out, a.colour, o.where(), o.longFlagsText(), urlOf(s, info, spec), s, time.Now())
	return nil
}

// urlOf is where users reach the stack.
func urlOf(s *ops.Status, info *localcloud.Info, spec *config.Spec) string {
	if url := listenerURL(info, spec); url != "" {
		return url
	}
	switch {
	case spec.Domain != "":
		return "https://" + spec.Domain
	case s.Address != "":
		return "https://" + s.Address
	}
	return ""
}

func listenerURL(info *localcloud.Info, spec *config.Spec) string {
	if l := listenerOf(info, spec); l != nil {
		return l.URL()
	}
	return ""
}

// listenerOf is where the local load balancer listens for HTTPS, nil where there is none.
func listenerOf(info *localcloud.Info, spec *config.Spec) *localcloud.Listener {
	if info == nil {
		return nil
	}
	for _, l := range info.Listeners {
		if l.Project == spec.Project && l.Name == spec.Stack+"-https" {
			return &l
		}
	}
	return nil
}

// localURL puts the place where the local load balancer really listens into the outputs.
func localURL(values []ops.Value, info *localcloud.Info, spec *config.Spec) []ops.Value {
	if url := listenerURL(info, spec); url != "" {
		for i := range values {
			if values[i].Name == "url" {
				values[i].Value = url
			}
		}
	}
	return values
}

func runOutputs(ctx context.Context, a *app, o readOptions) error {
	spec, stack, info, err := o.running(ctx, a)
	if err != nil {
		return err
	}
	defer stack.Close()
	values, err := stack.Outputs(ctx)
	if err != nil {
		return err
	}
	values = localURL(values, info, spec)
	if o.json {
		out := map[string]string{}
		for _, v := range values {
			out[v.Name] = v.Value
		}
		return a.writeJSON(out)
	}
	view.Outputs(a.Out, a.colour, values)
	return nil
}
