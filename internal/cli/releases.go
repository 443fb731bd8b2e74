package cli

import (
	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/dify"
)

func newReleases(a *app) *cobra.Command {
	var json bool
	c := &cobra.Command{
		Use: "releases", Short: "List the Dify releases that difyup knows",
		Long: `Lists the releases of Dify that a description can name as dify.version, newest first, with the tags of the images that
belong to each and what to know before running it. Others run with dify.images.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if json {
				return a.writeJSON(dify.Releases())
			}
			view.Releases(a.Out, a.colour, dify.Releases(), dify.Default)
			return nil
		},
	}
	c.Flags().BoolVar(&json, "json", false, "write the releases as JSON, oldest first")
	return c
}
