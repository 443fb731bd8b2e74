package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/build"
)

func newVersion(a *app) *cobra.Command {
	var json bool
	c := &cobra.Command{
		Use: "version", Short: "Show the version of difyup", Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if json {
				return a.writeJSON(build.Current())
			}
			_, err := fmt.Fprintln(a.Out, build.Current())
			return err
		},
	}
	c.Flags().BoolVar(&json, "json", false, "write the version as JSON")
	return c
}
