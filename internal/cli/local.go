package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/build"
	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/localcloud/authority"
)

func newLocal(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "local", Short: "The local cloud: Google Cloud on this machine",
		Long: "Starts, stops and shows the local cloud. `difyup apply --local` starts it if necessary.",
	}
	subcommands(c)
	c.AddCommand(newLocalUp(a), newLocalDown(a), newLocalStatus(a), newLocalEnv(a), newLocalFault(a), newLocalServe(a))
	return c
}

// serveOptions say how a local cloud behaves.
type serveOptions struct {
	scale            float64
	fresh, transient bool
	names            string // in the certificates of databases and caches
}

// up starts the local cloud, or finds it.
func up(ctx context.Context, dir string, o serveOptions, waiting func(string), events event.Sink) (*localcloud.Info, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	info, started, err := localcloud.Up(ctx, localcloud.UpOptions{Dir: dir, Program: self, Waiting: waiting, Args: []string{
		"local", "serve", "--dir", dir, "--time-scale", fmt.Sprint(o.scale), fmt.Sprintf("--fresh=%t", o.fresh), fmt.Sprintf("--transient=%t", o.transient),
		"--certificate-names", cmp.Or(o.names, string(authority.NoNames)),
	}})
	if err != nil {
		return nil, err
	}
	if started {
		events.Send(event.Event{Phase: event.Info, Detail: "the local cloud is up: " + info.URL})
	}
	return info, nil
}

func newLocalUp(a *app) *cobra.Command {
	var dir string
	var o serveOptions
	c := &cobra.Command{
		Use: "up", Short: "Start the local cloud", Args: noArgs,
		Long: "Starts the local cloud, or finds the one that runs. It stays until `difyup local down`; one that `difyup apply --local` started\nends with its last stack.",
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := localDir(dir)
			if err != nil {
				return err
			}
			if err := errors.Join(checkScale(o.scale), checkNames(o.names)); err != nil {
				return err
			}
			info, err := up(c.Context(), path, o, a.waiting, nil)
			if err != nil {
				return err
			}
			if info.Transient {
				if err := info.Keep(c.Context()); err != nil {
					return err
				}
			}
			view.Local(a.Out, a.colour, info)
			return nil
		},
	}
	dirFlag(c, &dir)
	scaleFlag(c, &o.scale)
	freshFlag(c, &o.fresh)
	namesFlag(c, &o.names)
	return c
}

// waiting says for what a command waits.
func (a *app) waiting(what string) { view.Note(a.Err, a.colour, "Waiting for "+what+".") }

func freshFlag(c *cobra.Command, fresh *bool) {
	c.Flags().BoolVar(fresh, "fresh", false, "start projects with almost no APIs enabled, like new projects on Google Cloud; apply does so")
}

func scaleFlag(c *cobra.Command, scale *float64) {
	c.Flags().Float64Var(scale, "time-scale", 0, "how long Google's operations take, from 0 (instant) to 1 (as on Google)")
}

func namesFlag(c *cobra.Command, names *string) {
	c.Flags().StringVar(names, "certificate-names", string(authority.NoNames), "which names certificates of databases and caches bear besides PROJECT:INSTANCE: none, dns or address")
}

func checkNames(names string) error {
	if slices.Contains([]authority.Names{authority.NoNames, authority.DNSNames, authority.AddressNames}, authority.Names(names)) {
		return nil
	}
	return &fault.Fault{
		Summary: "Unknown names of certificates", Detail: fmt.Sprintf("%q is not none, dns or address.", names), Remedy: "Use one of these:\n    difyup local up --certificate-names address",
	}
}

func checkScale(scale float64) error {
	if scale >= 0 && scale <= 1 {
		return nil
	}
	return &fault.Fault{
		Summary: "Wrong time scale", Detail: fmt.Sprintf("%v is not from 0 (instant) to 1 (as on Google).", scale), Remedy: "Use 0.02 for a rehearsal in seconds:\n    difyup local up --time-scale 0.02",
	}
}

func newLocalDown(a *app) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "down", Short: "Stop the local cloud and delete everything in it", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := localDir(dir)
			if err != nil {
				return err
			}
			was, err := localcloud.Down(c.Context(), path, a.waiting)
			if err != nil {
				return err
			}
			if was {
				view.Note(a.Err, a.colour, "The local cloud was stopped and deleted.")
			} else {
				view.Note(a.Err, a.colour, "The local cloud is not running.")
			}
			return nil
		},
	}
	dirFlag(c, &dir)
	return c
}

func newLocalStatus(a *app) *cobra.Command {
	var dir string
	var json bool
	c := &cobra.Command{
		Use: "status", Short: "Show what runs in the local cloud", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			info, err := running(c.Context(), dir)
			if err != nil {
				return err
			}
			if json {
				return a.writeJSON(info)
			}
			view.Local(a.Out, a.colour, info)
			return nil
		},
	}
	dirFlag(c, &dir)
	c.Flags().BoolVar(&json, "json", false, "write the status as JSON")
	return c
}

// running gives the local cloud in the directory of a flag, which must run already.
func running(ctx context.Context, dir string) (*localcloud.Info, error) {
	path, err := localDir(dir)
	if err != nil {
		return nil, err
	}
	info, err := localcloud.Find(ctx, path)
	if errors.Is(err, localcloud.ErrNotRunning) {
		return nil, &fault.Fault{
			Summary: "The local cloud is not running", Remedy: "Start it:\n    difyup local up" + (&target{dir: dir}).dirText(), Cause: err,
		}
	}
	return info, err
}

func newLocalEnv(a *app) *cobra.Command {
	var dir, file string
	var json bool
	c := &cobra.Command{
		Use: "env", Short: "Show what gcloud and Terraform need to work on the local cloud", Args: noArgs,
		Long: `Writes, as commands for a shell, the environment in which gcloud and Terraform's Google provider work on the local cloud
instead of Google Cloud: addresses, the access token's file, and the project if there is a description of a stack.

Programs that can be given no other address find the local cloud by Google's own names, such as storage.googleapis.com, if they
ask its name server and trust its certificate authority. --json says where these are. This needs port 443, thus root.`,
		Example: "  eval \"$(difyup local env)\"\n  gcloud compute instances list",
		RunE: func(c *cobra.Command, _ []string) error {
			project := ""
			if _, err := os.Stat(file); err == nil || c.Flags().Changed("file") {
				spec, err := config.Load(c.Context(), file)
				if err != nil {
					return err
				}
				project = spec.Project
			}
			info, err := running(c.Context(), dir)
			if err != nil {
				return err
			}
			env := info.Env(project)
			if json {
				variables := map[string]string{}
				for _, v := range env {
					variables[v.Name] = v.Value
				}
				return a.writeJSON(map[string]any{
					"endpoint": info.URL, "tokenFile": info.TokenFile(), "environment": variables,
					"nameServer": info.DNS, "ca": info.CAFile(), "caBundle": info.BundleFile(),
				})
			}
			for _, v := range env {
				fmt.Fprintf(a.Out, "export %s=%s\n", v.Name, quoted(v.Value))
			}
			// The token itself is not shown.
			_, err = fmt.Fprintf(a.Out, "export GOOGLE_OAUTH_ACCESS_TOKEN=\"$(cat %s)\"\n", quoted(info.TokenFile()))
			return err
		},
	}
	dirFlag(c, &dir)
	c.Flags().StringVarP(&file, "file", "f", "difyup.yaml", "the description of the stack whose project is meant")
	c.Flags().BoolVar(&json, "json", false, "write endpoint, token file and environment as JSON; the token stays in its file")
	return c
}

// newLocalServe is the local cloud's own process. `local up` starts it; by hand it stays in the foreground.
func newLocalServe(a *app) *cobra.Command {
	var dir string
	var o serveOptions
	var delay time.Duration
	var verbose bool
	c := &cobra.Command{
		Use: "serve", Short: "Run the local cloud in the foreground", Args: noArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := localDir(dir)
			if err != nil {
				return err
			}
			if err := errors.Join(checkScale(o.scale), checkNames(o.names)); err != nil {
				return err
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			collect(100) // it goes on for hours
			return localcloud.Serve(c.Context(), localcloud.Options{
				Dir: path, TimeScale: o.scale, Fresh: o.fresh, Transient: o.transient, CertificateNames: authority.Names(o.names), Delay: delay, Version: build.Current().Version,
				Log: slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: level})),
			})
		},
	}
	dirFlag(c, &dir)
	scaleFlag(c, &o.scale)
	freshFlag(c, &o.fresh)
	namesFlag(c, &o.names)
	c.Flags().BoolVar(&o.transient, "transient", false, "end with the last stack")
	c.Flags().DurationVar(&delay, "delay", 0, "answer every request that much later")
	c.Flags().BoolVar(&verbose, "verbose", false, "log everything")
	return c
}
