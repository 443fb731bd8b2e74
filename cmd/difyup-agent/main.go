// Command difyup-agent is the program on every instance of a stack. See package agent. With the argument "standin" it is
// the stand-in for Dify, which the agent starts by itself.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/difyup/difyup/internal/agent"
	"github.com/difyup/difyup/internal/agent/standin"
	"github.com/difyup/difyup/internal/build"
	"github.com/difyup/difyup/internal/fault"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	resolver := agent.Resolver(os.Getenv("DIFYUP_DNS"))
	var err error
	switch {
	case len(args) > 1:
		fmt.Fprintf(os.Stderr, "difyup-agent: takes one word at most, got %d\n", len(args))
		return 2
	case len(args) == 0:
		var self string
		if self, err = os.Executable(); err == nil {
			err = agent.Run(ctx, agent.Options{
				MetadataHost: os.Getenv("GCE_METADATA_HOST"), DNS: os.Getenv("DIFYUP_DNS"), Program: self, Environ: os.Environ(), Log: log,
			})
		}
	case args[0] == "standin":
		err = standin.Run(ctx, standin.Options{Env: os.Getenv, Resolver: resolver, Log: log.With("program", "standin")})
	case args[0] == "version":
		fmt.Println(build.Current())
	default:
		fmt.Fprintf(os.Stderr, "difyup-agent: %q is no command; there are standin and version, and none for an instance's own program\n", args[0])
		return 2
	}
	if err != nil {
		var f *fault.Fault
		if errors.As(err, &f) && f.Remedy != "" {
			log = log.With("remedy", f.Remedy)
		}
		log.Error("the program ends", "error", err)
		return 1
	}
	return 0
}
