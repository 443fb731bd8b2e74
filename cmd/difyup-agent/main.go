// Command difyup-agent is the program on every instance of a stack. See package agent. With the arguments "standin SERVICE"
// it is the stand-in for one of Dify's services, which the agent starts by itself.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/difyup/difyup/internal/agent"
	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/agent/runtime/compose"
	"github.com/difyup/difyup/internal/agent/standin"
	"github.com/difyup/difyup/internal/build"
	"github.com/difyup/difyup/internal/fault"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	// The first signal asks to end, the second to end at once.
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	over := make(chan struct{})
	defer close(over)
	cut := make(chan struct{})
	go func() {
		for _, told := range []func(){stop, func() { close(cut) }} {
			select {
			case <-signals:
				told()
			case <-over:
				return
			}
		}
	}()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	resolver := agent.Resolver(os.Getenv("DIFYUP_DNS"))
	var err error
	switch {
	case len(args) > 0 && args[0] == "standin":
		err = standin.Main(ctx, args[1:], standin.Options{Env: os.Getenv, Resolver: resolver, Log: log.With("program", "standin")})
	case len(args) > 1:
		fmt.Fprintf(os.Stderr, "difyup-agent: takes one word at most, got %d\n", len(args))
		return 2
	case len(args) == 0:
		var self string
		if self, err = os.Executable(); err == nil {
			dir, spool, authorities, metadata := stateDir, stateDir+"/logs", stateDir+"/authorities", os.Getenv("GCE_METADATA_HOST")
			if metadata != "" { // a rehearsal's instance does not outlive its agent
				dir, spool = "", os.Getenv("DIFYUP_SPOOL")
				authorities, err = filepath.Abs("authorities")
			}
			if err == nil {
				err = agent.Run(ctx, agent.Options{
					MetadataHost: metadata, DNS: os.Getenv("DIFYUP_DNS"), Dir: dir, Spool: spool, Authorities: authorities, Runtimes: runtimes(self, authorities), Cut: cut, Log: log,
				})
			}
		}
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

// stateDir is where the agent keeps what outlives it.
const stateDir = "/var/lib/difyup"

// runtimes gives what the agent can run Dify with. It is the one place that knows them all. Services read the certificate
// authorities of stores from a directory of the agent's.
func runtimes(self, authorities string) map[string]func(agent.Instance) runtime.Runtime {
	return map[string]func(agent.Instance) runtime.Runtime{
		"compose": func(i agent.Instance) runtime.Runtime {
			return compose.New(compose.Options{
				Dir: stateDir + "/compose", Project: "dify", Pull: "missing", Login: i.Login, Memory: "/run/difyup", Authorities: authorities, Lines: i.Lines, Log: i.Log,
				Environ: []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"},
			})
		},
		"standin": func(i agent.Instance) runtime.Runtime {
			more := map[string]string{"DIFYUP_DNS": os.Getenv("DIFYUP_DNS")}
			if i.Endpoint != "" {
				more["STORAGE_EMULATOR_HOST"] = strings.TrimSuffix(i.Endpoint, "/")
			}
			return standin.NewProcesses(standin.ProcessOptions{
				Program: self, Address: i.Address, Instance: i.Name, Version: i.Settings.DifyVersion, Environ: os.Environ(), Environment: more,
				Authorities: authorities, Output: os.Stderr, Lines: i.Lines, Log: i.Log,
			})
		},
	}
}
