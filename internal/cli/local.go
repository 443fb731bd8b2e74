package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/build"
	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud"
)

func newLocal(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "local", Short: "The local cloud: Google Cloud on this machine",
		Long: "Starts, ends and shows the local cloud. `difyup apply --local` starts it by itself.",
	}
	subcommands(c)
	c.AddCommand(newLocalUp(a), newLocalDown(a), newLocalStatus(a), newLocalFault(a), newLocalServe(a))
	return c
}

// up starts the local cloud, or finds it.
func up(ctx context.Context, dir string, scale float64, fresh bool, events event.Sink) (*localcloud.Info, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	info, started, err := localcloud.Up(ctx, localcloud.UpOptions{Dir: dir, Program: self, Args: []string{"local", "serve", "--dir", dir, "--time-scale", fmt.Sprint(scale), fmt.Sprintf("--fresh=%t", fresh)}})
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
	var scale float64
	var fresh bool
	c := &cobra.Command{
		Use: "up", Short: "Start the local cloud", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := localDir(dir)
			if err != nil {
				return err
			}
			if err := checkScale(scale); err != nil {
				return err
			}
			info, err := up(c.Context(), path, scale, fresh, nil)
			if err != nil {
				return err
			}
			view.Local(a.Out, a.colour, info)
			return nil
		},
	}
	dirFlag(c, &dir)
	scaleFlag(c, &scale)
	freshFlag(c, &fresh)
	return c
}

func freshFlag(c *cobra.Command, fresh *bool) {
	c.Flags().BoolVar(fresh, "fresh", false, "let projects begin with hardly any API enabled, as new ones at Google do; apply starts it so")
}

func scaleFlag(c *cobra.Command, scale *float64) {
	c.Flags().Float64Var(scale, "time-scale", 0, "how long Google's operations take, from 0 (instant) to 1 (as on Google)")
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
		Use: "down", Short: "End the local cloud and remove everything in it", Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := localDir(dir)
			if err != nil {
				return err
			}
			was, err := localcloud.Down(c.Context(), path)
			if err != nil {
				return err
			}
			if was {
				view.Note(a.Err, a.colour, "The local cloud was ended and removed.")
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
			path, err := localDir(dir)
			if err != nil {
				return err
			}
			info, err := localcloud.Find(c.Context(), path)
			if errors.Is(err, localcloud.ErrNotRunning) {
				return &fault.Fault{Summary: "The local cloud is not running", Remedy: "Start it:\n    difyup local up", Cause: err}
			}
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

// newLocalServe is the local cloud's own process. `local up` starts it; by hand it stays in the foreground.
func newLocalServe(a *app) *cobra.Command {
	var dir string
	var scale float64
	var delay time.Duration
	var verbose, fresh bool
	c := &cobra.Command{
		Use: "serve", Short: "Be the local cloud, until interrupted", Args: noArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := localDir(dir)
			if err != nil {
				return err
			}
			if err := checkScale(scale); err != nil {
				return err
			}
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			return localcloud.Serve(c.Context(), localcloud.Options{
				Dir: path, TimeScale: scale, Fresh: fresh, Delay: delay, Version: build.Current().Version,
				Log: slog.New(slog.NewTextHandler(a.Err, &slog.HandlerOptions{Level: level})),
			})
		},
	}
	dirFlag(c, &dir)
	scaleFlag(c, &scale)
	freshFlag(c, &fresh)
	c.Flags().DurationVar(&delay, "delay", 0, "answer every request that much later")
	c.Flags().BoolVar(&verbose, "verbose", false, "log everything")
	return c
}
