package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/doctor"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/ops"
)

type doctorOptions struct {
	readOptions
	since time.Duration
}

func newDoctor(a *app) *cobra.Command {
	var o doctorOptions
	c := &cobra.Command{
		Use: "doctor", Short: "Look for what is known to go wrong, and say what to do about it",
		Long: fmt.Sprintf(`Looks for %d known troubles of Dify on Google Cloud: in what instances say of themselves, what apply would change, where the domain
leads, and what containers and agents wrote in the last day. Each that is found has what was seen, why it comes to be, and
what to do. It changes nothing and reads no secret. docs/doctor.md lists them all.

It exits with 1 if something keeps users from their work, now or soon, or if something could not be looked for.`, len(doctor.Illnesses())),
		RunE: func(c *cobra.Command, _ []string) error { return o.aim(c, runDoctor(c.Context(), a, o)) },
	}
	o.flags(c)
	c.Flags().DurationVar(&o.since, "since", 24*time.Hour, "only lines of logs that are not older")
	c.Flags().BoolVar(&o.json, "json", false, "write what was found as JSON")
	return c
}

func runDoctor(ctx context.Context, a *app, o doctorOptions) error {
	if o.since <= 0 {
		return &fault.Fault{Summary: "Wrong flag", Detail: "--since must be above 0.", Remedy: "See what there is:\n    difyup doctor --help"}
	}
	spec, stack, _, err := o.running(ctx, a)
	if err != nil {
		return err
	}
	defer stack.Close()
	c, err := o.survey(ctx, a, spec, stack, time.Now(), o.since, func(string, error) {})
	if f := (*fault.Fault)(nil); errors.As(err, &f) { // of a stack that is not there, there is nothing to say
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r := doctor.Examine(c)
	if o.json {
		if err := a.writeJSON(r); err != nil {
			return err
		}
	} else {
		view.Doctor(a.Out, a.colour, o.where(), o.longFlagsText(), c.Status, r, c.Now)
	}
	if r.Grave() || len(r.Blind) > 0 {
		return errSaid
	}
	return nil
}

// survey reads all that it can of a stack at a time: what cannot be read keeps nothing else out, and is told with its reason. The error is
// why there is no status; then only what is said of each instance is known.
func (o *readOptions) survey(ctx context.Context, a *app, spec *config.Spec, stack *ops.Stack, now time.Time, since time.Duration, fail func(what string, err error)) (c *doctor.Case, err error) {
	c = &doctor.Case{Now: now, Local: o.local, Unread: map[doctor.Source]string{}}
	unread := func(s doctor.Source, what string, err error) {
		c.Unread[s] = strings.Join(strings.Fields(err.Error()), " ")
		fail(what, err)
	}
	if c.Status, err = stack.Status(ctx); err != nil {
		unread(doctor.Cloud, "status", err)
		c.Status = &ops.Status{Stack: spec.Stack, Project: spec.Project, Region: spec.Region}
		var other error
		if c.Status.Instances, other = stack.Instances(ctx); other != nil {
			unread(doctor.Report, "instances", other)
		}
	}
	stack.Deep(ctx, c.Status)
	for _, i := range c.Status.Instances {
		if i.Unread() { // which is a trouble by itself
			fail("instance "+i.Name, errors.New(i.Silent))
		}
	}
	var other error
	if c.Plan, other = o.planned(ctx, a, spec); other != nil {
		unread(doctor.Plan, "plan", other)
	}
	if c.Status.Lock == nil { // a run may have begun meanwhile, of which is half seen what it does
		c.Status.Lock, _ = stack.Holder(ctx) // as it was when it cannot be read
	}
	if c.Lines, other = stack.Logs(ctx, ops.LogQuery{Since: now.Add(-since), Texts: doctor.Texts(), Tail: bundleLines}); other != nil {
		unread(doctor.Logs, "signs in logs", other)
	}
	c.Cut = len(c.Lines) == bundleLines
	for i := range c.Lines {
		c.Lines[i].Text = harmlessText(c.Lines[i].Text)
	}
	if spec.Domain != "" && !o.local { // nobody's name server has a rehearsal's domain
		c.Domain = spec.Domain
		var none *net.DNSError
		if c.Addresses, other = net.DefaultResolver.LookupNetIP(ctx, "ip4", spec.Domain); other != nil && !(errors.As(other, &none) && none.IsNotFound) {
			unread(doctor.Names, "the domain's address", other)
		}
	}
	return c, err
}
