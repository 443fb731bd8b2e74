package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/build"
	"github.com/difyup/difyup/internal/carried"
)

func newVersion(a *app) *cobra.Command {
	var json bool
	c := &cobra.Command{
		Use: "version", Short: "Show the version of difyup, and of the agent inside it", Args: noArgs,
		RunE: func(*cobra.Command, []string) error { return runVersion(a, json) },
	}
	c.Flags().BoolVar(&json, "json", false, "write the version as JSON")
	return c
}

func runVersion(a *app, json bool) error {
	agent, err := carried.Find()
	if err != nil {
		return err
	}
	if json {
		return a.writeJSON(struct {
			build.Info
			Agent *carried.Agent `json:"agent,omitempty"`
		}{build.Current(), agent})
	}
	if _, err := fmt.Fprintln(a.Out, build.Current()); err != nil || agent == nil {
		return err
	}
	_, err = fmt.Fprintf(a.Out, "agent %s (%s, %.1f MB)\n", agent.SHA256[:12], agent.Platform, float64(agent.Size)/1e6)
	return err
}
