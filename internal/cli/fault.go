package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/localcloud/faults"
)

func newLocalFault(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "fault", Short: "Have requests to the local cloud go wrong",
		Long: `Sets, lists and clears rules by which requests to the local cloud go wrong, to see what a client makes of it. The rules are
gone when the local cloud ends. These commands themselves are never met by a fault.`,
	}
	subcommands(c)
	c.AddCommand(newLocalFaultAPI(a), newLocalFaultList(a), newLocalFaultClear(a))
	return c
}

type faultOptions struct {
	dir    string
	rule   faults.Rule
	what   []string
	json   bool
	seeded bool
}

func newLocalFaultAPI(a *app) *cobra.Command {
	o := faultOptions{rule: faults.Rule{Surface: faults.API}}
	c := &cobra.Command{
		Use: "api", Short: "Have requests to Google's APIs go wrong", Args: noArgs,
		Long: `Has requests to Google's APIs in the local cloud go wrong. What goes wrong is named by --fault, several times for a mix of
which one is drawn for each request that is met:

  429, 503, 500, 412, …     refused with this status; 429:2s adds Retry-After
  reset-before              the connection is reset, and nothing was done
  reset-after               it was done, and the connection is reset instead of an answer
  truncate                  it was done, and the answer breaks off in its middle
  hang, hang:5s             it was done, and the answer comes never, or so much later
  hold, hold:5s             nothing is done, ever or for so long
  html                      a page of some proxy's with status 200
  empty                     it was done, and the answer is 200 without a body
  double                    it is done twice; with methods only that HTTP allows that for
  operation:CODE:MESSAGE    an operation that ends in this error; with methods only that start one
  latency:50ms              it takes longer; latency:20ms-200ms draws from a range

The rules are asked in the order they were set, and the first that decides on a fault has it; latencies add up. The same
seed meets the same requests: what happens to the n-th request for one thing depends on the seed, the rule, the method
and the thing alone. Every hit is in the local cloud's log, with the seed.`,
		Example: `  difyup local fault api --fault 503 --rate 0.2
  difyup local fault api --method 'compute.*.insert' --fault reset-after --next 1
  difyup local fault api --service storage --fault 429:2s --fault reset-before --rate 0.5 --for 1m --seed 7
  difyup local fault api --method sql.instances.insert --fault operation:INTERNAL_ERROR:"Try later"`,
		RunE: func(c *cobra.Command, _ []string) error {
			o.seeded = c.Flags().Changed("seed")
			return runLocalFaultAPI(c.Context(), a, o)
		},
	}
	dirFlag(c, &o.dir)
	f := c.Flags()
	f.StringArrayVar(&o.what, "fault", nil, "what goes wrong; several times for a mix")
	f.StringVar(&o.rule.Method, "method", "", "only this method; * stands for any text (compute.*.insert)")
	f.StringVar(&o.rule.Except, "except", "", "not this method (*perations.*)")
	f.StringVar(&o.rule.Service, "service", "", "only this service (storage)")
	f.StringVar(&o.rule.Caller, "caller", "", "only this caller: owner, or a service account's email (demo-vm@*)")
	f.Float64Var(&o.rule.Rate, "rate", 1, "how many of these requests are met, above 0 to 1")
	f.Int64Var(&o.rule.Skip, "skip", 0, "let so many of these requests pass first")
	f.Int64Var(&o.rule.Next, "next", 0, "meet no more than so many requests (default no limit)")
	f.DurationVar(&o.rule.For, "for", 0, "how long the rule holds (default until it is cleared)")
	f.Uint64Var(&o.rule.Seed, "seed", 0, "the same seed meets the same requests (default drawn and shown)")
	f.StringVar(&o.rule.Name, "name", "", "a name to clear it by; it takes the place of a rule of that name")
	f.BoolVar(&o.json, "json", false, "write the rule as JSON")
	return c
}

func runLocalFaultAPI(ctx context.Context, a *app, o faultOptions) error {
	wrong := func(err error) error {
		return &fault.Fault{Summary: "No such fault", Detail: view.Sentence(err.Error()), Remedy: "See what there is:\n    difyup local fault api --help"}
	}
	if len(o.what) == 0 {
		return wrong(errors.New("nothing is named that is to go wrong; --fault does"))
	}
	for _, text := range o.what {
		f, err := faults.Parse(text)
		if err != nil {
			return wrong(err)
		}
		o.rule.Faults = append(o.rule.Faults, f)
	}
	if !o.seeded {
		o.rule.Seed = uint64(rand.Uint32())
	}
	info, err := running(ctx, o.dir)
	if err != nil {
		return err
	}
	rule, err := info.AddFault(ctx, o.rule)
	var refused *localcloud.RefusedError
	if errors.As(err, &refused) {
		return wrong(err)
	}
	if err != nil {
		return err
	}
	if o.json {
		return a.writeJSON(rule)
	}
	view.Faults(a.Out, []faults.State{{Rule: rule}})
	view.Next(a.Err, a.colour, "difyup local fault clear"+dirText(o.dir))
	return nil
}

func newLocalFaultList(a *app) *cobra.Command {
	var dir string
	var json bool
	c := &cobra.Command{
		Use: "list", Short: "Show the faults in force and how often they happened", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			info, err := running(c.Context(), dir)
			if err != nil {
				return err
			}
			all, err := info.Faults(c.Context())
			if err != nil {
				return err
			}
			if json {
				return a.writeJSON(all)
			}
			if len(all) == 0 {
				view.Note(a.Err, a.colour, "No faults are in force.")
				return nil
			}
			view.Faults(a.Out, all)
			return nil
		},
	}
	dirFlag(c, &dir)
	c.Flags().BoolVar(&json, "json", false, "write the faults as JSON")
	return c
}

func newLocalFaultClear(a *app) *cobra.Command {
	var dir, name string
	var id int
	c := &cobra.Command{
		Use: "clear", Short: "Have requests go well again", Args: noArgs,
		Long: "Takes all rules away, or one. Requests that hang because of them are answered.",
		RunE: func(c *cobra.Command, _ []string) error {
			info, err := running(c.Context(), dir)
			if err != nil {
				return err
			}
			n, err := info.ClearFaults(c.Context(), id, name)
			var refused *localcloud.RefusedError
			if errors.As(err, &refused) || err == nil && n == 0 && (id != 0 || name != "") {
				return &fault.Fault{Summary: "No such rule", Detail: "No fault in force has this number or name.", Remedy: "See them:\n    difyup local fault list" + dirText(dir)}
			}
			if err != nil {
				return err
			}
			view.Note(a.Err, a.colour, fmt.Sprintf("%d cleared.", n))
			return nil
		},
	}
	dirFlag(c, &dir)
	c.Flags().IntVar(&id, "id", 0, "only the rule of this number")
	c.Flags().StringVar(&name, "name", "", "only the rule of this name")
	return c
}

func dirText(dir string) string {
	if dir == "" {
		return ""
	}
	return " --dir " + dir
}
