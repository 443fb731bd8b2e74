// Command difyup puts Dify on Google Cloud and keeps it running. See package cli.
package main

import (
	"context"
	"os"

	"github.com/difyup/difyup/internal/cli"
)

func main() { os.Exit(cli.Main(context.Background(), os.Args[1:], cli.Standard())) }
