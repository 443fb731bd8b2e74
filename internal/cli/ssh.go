package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/spelling"
)

type sshOptions struct {
	readOptions
	instance, container string
	command             []string
}

func newSSH(a *app) *cobra.Command {
	var o sshOptions
	c := &cobra.Command{
		Use: "ssh INSTANCE [-- COMMAND...]", Short: "Log in to an instance, or run a command on it",
		Long: `Logs in to an instance with gcloud, through Identity-Aware Proxy if the description has network.iap_ssh, else on its own address; or runs a
command there. The program ends with the command's exit status.

With --local it is a shell of the instance's user in the instance's directory, with the agent's environment.`,
		Example: "  difyup ssh demo-vm-x1y2\n  difyup ssh demo-vm-x1y2 -- sudo journalctl -u difyup-agent -n 50",
		RunE: func(c *cobra.Command, args []string) error {
			o.instance, o.command = args[0], args[1:]
			return o.aim(c, runSSH(c.Context(), a, o))
		},
	}
	o.flags(c)
	c.Args = atLeast(1, "an instance")
	return c
}

func newExec(a *app) *cobra.Command {
	var o sshOptions
	c := &cobra.Command{
		Use: "exec INSTANCE CONTAINER -- COMMAND...", Short: "Run a command in a container of an instance",
		Long: `Runs a command in one of an instance's containers, with gcloud and docker, on the way that ` + "`difyup ssh`" + ` takes. The program ends with the
command's exit status. Containers are ` + join(dify.Names()) + `.

With --local the command runs beside the service's stand-in, as its user and with its environment.`,
		Example: "  difyup exec demo-vm-x1y2 api -- flask db current",
		RunE: func(c *cobra.Command, args []string) error {
			o.instance, o.container, o.command = args[0], args[1], args[2:]
			return o.aim(c, runSSH(c.Context(), a, o))
		},
	}
	o.flags(c)
	c.Args = atLeast(3, "an instance, a container and a command")
	return c
}

// atLeast refuses too few arguments.
func atLeast(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) >= n {
			return nil
		}
		return &fault.Fault{Summary: "Missing argument", Detail: fmt.Sprintf("This command takes %s.", what), Remedy: "See how:\n    " + c.CommandPath() + " --help"}
	}
}

func join(names []dify.Name) string {
	var words []string
	for _, n := range names {
		words = append(words, string(n))
	}
	return strings.Join(words, ", ")
}

// known checks an instance's container, and gives the instance's zone.
func (o *sshOptions) known(all []ops.Instance) (zone string, err error) {
	if o.container != "" && !slices.Contains(dify.Names(), dify.Name(o.container)) {
		return "", &fault.Fault{Summary: "Unknown container", Detail: fmt.Sprintf("Instances have no container %q.", o.container), Remedy: "The containers are " + join(dify.Names()) + "."}
	}
	var names []string
	for _, i := range all {
		if i.Name == o.instance {
			return i.Zone, nil
		}
		names = append(names, i.Name)
	}
	f := &fault.Fault{Summary: "No such instance", Detail: fmt.Sprintf("The stack has no instance %q.", o.instance), Remedy: "See which there are:\n    difyup status"}
	if near := spelling.Nearest(o.instance, names); near != "" {
		f.Detail += fmt.Sprintf(" The nearest is %q.", near)
	}
	return "", f
}

func runSSH(ctx context.Context, a *app, o sshOptions) error {
	spec, stack, info, err := o.running(ctx, a)
	if err != nil {
		return err
	}
	defer stack.Close()
	all, err := stack.Instances(ctx)
	if err != nil {
		return err
	}
	zone, err := o.known(all)
	if err != nil {
		return err
	}
	var cmd *exec.Cmd
	if o.local {
		cmd, err = o.enter(ctx, info, spec)
	} else {
		cmd, err = o.gcloud(ctx, spec, zone, a.AskIn && a.OutTerm)
	}
	if err != nil {
		return err
	}
	return a.become(cmd)
}

// enter gives the command in a rehearsal.
func (o *sshOptions) enter(ctx context.Context, info *localcloud.Info, spec *config.Spec) (*exec.Cmd, error) {
	command := o.command
	if len(command) == 0 {
		command = []string{"/bin/sh", "-i"}
	}
	cmd, err := info.Enter(ctx, spec.Project, o.instance, o.container, command)
	if errors.Is(err, localcloud.ErrNotThere) {
		f := &fault.Fault{Summary: "The instance does not run", Detail: fmt.Sprintf("No program of %s runs.", o.instance), Remedy: "See how it is:\n    difyup status --deep", Cause: err}
		if o.container != "" {
			f.Summary, f.Detail = "The container does not run", fmt.Sprintf("%s does not run on %s.", o.container, o.instance)
		}
		return nil, f
	}
	return cmd, err
}

// gcloud gives the command on Google.
func (o *sshOptions) gcloud(ctx context.Context, spec *config.Spec, zone string, terminal bool) (*exec.Cmd, error) {
	if !spec.Network.IAPSSH && len(spec.Network.SSHRanges) == 0 {
		return nil, &fault.Fault{
			Summary: "No way to the instances", Detail: "The description lets nobody in by SSH: network.iap_ssh is false, and network.ssh_ranges is empty.",
			Remedy: "Set network.iap_ssh to true, and apply:\n    difyup apply",
		}
	}
	program, err := exec.LookPath("gcloud")
	if err != nil {
		return nil, &fault.Fault{Summary: "gcloud is missing", Detail: "Logging in to an instance takes the gcloud program, which is not on this machine.", Remedy: "Install it: https://cloud.google.com/sdk/docs/install", Cause: err}
	}
	return exec.CommandContext(ctx, program, o.arguments(spec, zone, terminal)...), nil
}

// arguments are gcloud's. A command goes through the shell of the instance, so that each of its words is quoted.
func (o *sshOptions) arguments(spec *config.Spec, zone string, terminal bool) []string {
	args := []string{"compute", "ssh", o.instance, "--project", spec.Project, "--zone", zone}
	if spec.Network.IAPSSH {
		args = append(args, "--tunnel-through-iap")
	} else {
		args = append(args, "--internal-ip")
	}
	var words []string
	if o.container != "" {
		words = []string{"sudo", "docker", "exec", "--interactive"}
		if terminal {
			words = append(words, "--tty")
		}
		words = append(words, "dify-"+o.container+"-1")
	}
	words = append(words, o.command...)
	if len(words) == 0 {
		return args
	}
	for i := range words {
		words[i] = quoted(words[i])
	}
	args = append(args, "--command", strings.Join(words, " "))
	if terminal { // without one of its own, a command has none
		args = append(args, "--", "-t")
	}
	return args
}

// become runs a program with our own streams, and has us end with its exit status.
func (a *app) become(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.In, a.Out, a.Err
	// A terminal interrupts both of us; a shell that somebody types into must not die of that.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if a.code = exit.ExitCode(); a.code < 0 { // as a shell has it
			a.code = 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	return nil
}
