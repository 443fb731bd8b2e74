package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/difyup/difyup/internal/build"
	"github.com/difyup/difyup/internal/carried"
	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/registry"
)

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "difyup",
		Short: "Dify on Google Cloud, from one file",
		Long: `difyup puts Dify on Google Cloud and keeps it running: a global HTTPS load balancer, a group of instances that
scales and heals itself, Cloud SQL, pgvector, Memorystore and Cloud Storage, all described in one file.

With --local it does the same on this machine, with real databases, a real load balancer and real instances, and
without any Google account.`,
		Example:           "  difyup apply --local -f examples/difyup.yaml   # rehearse on this machine\n  difyup plan                                    # what would change on Google Cloud",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	subcommands(root)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if args := c.Flags().Args(); c.HasSubCommands() && len(args) > 0 { // a flag of a command there is not
			return c.RunE(c, args)
		}
		return &fault.Fault{Summary: "Unknown or wrong flag", Detail: err.Error() + ".", Remedy: "See what there is:\n    " + c.CommandPath() + " --help"}
	})
	root.AddCommand(newPlan(a), newApply(a), newDestroy(a), newStatus(a), newOutputs(a), newLogs(a), newDoctor(a), newBundle(a), newSSH(a), newExec(a), newSmoke(a), newLocal(a), newReleases(a), newVersion(a))
	root.InitDefaultCompletionCmd()
	withValues(root)
	return root
}

// withValues has a command and those below it refuse a flag that took the next one for its value.
func withValues(c *cobra.Command) {
	for _, sub := range c.Commands() {
		withValues(sub)
	}
	if c.Args == nil {
		return
	}
	args := c.Args
	c.Args = func(c *cobra.Command, words []string) error {
		var err error
		c.Flags().Visit(func(f *pflag.Flag) {
			var values []string
			switch v := f.Value.(type) {
			case pflag.SliceValue:
				values = v.GetSlice()
			default:
				if v.Type() == "string" {
					values = []string{v.String()}
				}
			}
			for _, v := range values {
				if err == nil && strings.HasPrefix(v, "-") {
					err = &fault.Fault{
						Summary: "Flag without its value", Detail: fmt.Sprintf("--%s wants a value, and has %q, which looks like the next flag.", f.Name, v),
						Remedy: "Put its value behind it. See what it takes:\n    " + c.CommandPath() + " --help",
					}
				}
			}
		})
		if err != nil {
			return err
		}
		return args(c, words)
	}
}

// subcommands has a command that is only a name for others show its help, and refuse what it does not know.
func subcommands(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.SuggestionsMinimumDistance, c.DisableFlagsInUseLine = 2, true
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		f := &fault.Fault{
			Summary: "Unknown command", Detail: fmt.Sprintf("`%s` has no command %q.", c.CommandPath(), args[0]),
			Remedy: "See what there is:\n    " + c.CommandPath() + " --help",
		}
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			f.Remedy = "Did you mean this?\n    " + c.CommandPath() + " " + near[0]
		}
		return f
	}
}

// target says which stack and which cloud; its flags are those of every command about a stack.
type target struct {
	file  string
	local bool
	dir   string
}

func (t *target) flags(c *cobra.Command) { t.flagsWith(c, "f") }

// longFlags are flags for a command that needs the letter f for something else.
func (t *target) longFlags(c *cobra.Command) { t.flagsWith(c, "") }

func (t *target) flagsWith(c *cobra.Command, letter string) {
	c.Flags().StringVarP(&t.file, "file", letter, "difyup.yaml", "the description of the stack")
	c.Flags().BoolVar(&t.local, "local", false, "work on the local cloud instead of Google Cloud")
	dirFlag(c, &t.dir)
	c.Args = noArgs
}

func dirFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "dir", "", "the local cloud's directory (default $DIFYUP_LOCAL_DIR, or a directory of the system's)")
}

func noArgs(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return &fault.Fault{
		Summary: "Unexpected argument",
		Detail:  fmt.Sprintf("%q: this command takes flags only.", args[0]),
		Remedy:  "See what there is:\n    " + c.CommandPath() + " --help",
	}
}

func localDir(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	return localcloud.DefaultDir()
}

// where names the cloud, for people.
func (t *target) where() string {
	if t.local {
		return "local cloud"
	}
	return "Google Cloud"
}

// flagsText gives the flags that make another command speak of the same stack.
func (t *target) flagsText() string { return t.flagsTextWith("-f") }

func (t *target) flagsTextWith(file string) string {
	var b strings.Builder
	if t.local {
		b.WriteString(" --local")
	}
	if t.file != "difyup.yaml" {
		b.WriteString(" " + file + " " + quoted(t.file))
	}
	return b.String() + t.dirText()
}

// longFlagsText is flagsText for a command of which it is not known what it needs the letter f for.
func (t *target) longFlagsText() string { return t.flagsTextWith("--file") }

// dirText gives the flag that makes another command speak of the same local cloud.
func (t *target) dirText() string {
	if t.dir == "" {
		return ""
	}
	return " --dir " + quoted(t.dir)
}

// aim has the remedies of an error of a command be about the stack and the cloud that the command was called for. Who wrote them
// knows neither its flags, nor which command is to be given again with --break-lock, nor how gcloud gets to a local cloud.
func (t *target) aim(c *cobra.Command, err error) error {
	env, rest, findErr := c.Root().Find([]string{"local", "env"})
	for _, f := range fault.All(err) {
		var lines []string
		reached := !t.local || findErr != nil || len(rest) > 0
		for line := range strings.SplitSeq(f.Remedy, "\n") {
			if strings.HasPrefix(line, "    gcloud ") && !reached {
				reached = true
				dir := ""
				if t.dir != "" {
					dir = " --dir " + quoted(t.dir)
				}
				lines = append(lines, "    eval \"$("+env.CommandPath()+dir+")\"")
			}
			lines = append(lines, t.aimed(c.Name(), line))
		}
		f.Remedy = strings.Join(lines, "\n")
	}
	return err
}

// aimed gives a line of a remedy with the flags of the stack, if it is a command about one that has none.
func (t *target) aimed(command, line string) string {
	rest, ok := strings.CutPrefix(line, "    difyup ")
	verb, args, _ := strings.Cut(rest, " ")
	flags := t.flagsText()
	switch {
	case !ok:
		return line
	case verb == "local" && !strings.Contains(args, "--dir "):
		return line + t.dirText()
	case slices.Contains([]string{"logs", "ssh", "exec"}, verb):
		flags = t.longFlagsText() // with -f, logs follows
	case !slices.Contains([]string{"plan", "apply", "destroy", "status", "outputs", "smoke", "bundle", "doctor"}, verb) || strings.Contains(args, "-f "):
		return line
	}
	if strings.Contains(args, "--local") || strings.Contains(args, "--file ") || strings.Contains(args, "--dir ") || strings.Contains(args, "--help") {
		return line
	}
	if args == "--break-lock" {
		verb = command
	}
	if args != "" {
		args = " " + args
	}
	return "    difyup " + verb + flags + args
}

// quoted gives a word as a shell takes it.
func quoted(s string) string {
	plain := func(r rune) bool {
		return r == '-' || strings.ContainsRune("_./~", r) || unicode.IsLetter(r) || unicode.IsDigit(r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// errLocalDown says that the local cloud does not run.
var errLocalDown = errors.New("the local cloud is not running")

// open loads the description and opens the stack. With start, a local cloud that is not up is started; without, the
// error is errLocalDown then, and the stack can only be planned from nothing.
//
// The agent is looked for only when something may be made of it; what exists is known without.
func (t *target) open(ctx context.Context, a *app, events event.Sink, start, makes bool) (*config.Spec, *ops.Stack, *localcloud.Info, error) {
	spec, err := config.Load(ctx, t.file)
	if err != nil {
		return nil, nil, nil, err
	}
	stack, info, err := t.openWith(ctx, a, ops.Options{Spec: spec, Events: events}, start, makes)
	return spec, stack, info, err
}

// openWith opens the stack that the options describe.
func (t *target) openWith(ctx context.Context, a *app, o ops.Options, start, makes bool) (*ops.Stack, *localcloud.Info, error) {
	o.Version = build.Current().Version
	var err error
	if makes {
		if o.Agent, err = findAgent(t.local); err != nil {
			return nil, nil, err
		}
		o.ReadFile, o.Agent.Runtime = carried.ReadFile, "compose"
		if t.local { // in a rehearsal, the stand-in plays Dify, and there are no images
			o.Agent.Runtime = "standin"
		} else {
			o.Digest = new(registry.Client).Digest
		}
	}
	var info *localcloud.Info
	var down error
	if t.local {
		info, err = t.cloud(ctx, o.Events, start)
		switch {
		case errors.Is(err, localcloud.ErrNotRunning):
			down = errLocalDown
			o.Endpoint = "http://127.0.0.1:9/" // never called: Plan from nothing sends no request
		case err != nil:
			return nil, nil, err
		default:
			o.Endpoint, o.Token, o.Dial = info.URL, info.Token, new(localcloud.Dialer).Dial
		}
	}
	stack, err := ops.Open(ctx, o)
	if err != nil {
		return nil, info, err
	}
	return stack, info, down
}

// cloud gives the local cloud.
func (t *target) cloud(ctx context.Context, events event.Sink, start bool) (*localcloud.Info, error) {
	dir, err := localDir(t.dir)
	if err != nil {
		return nil, err
	}
	if !start {
		return localcloud.Find(ctx, dir)
	}
	return up(ctx, dir, serveOptions{fresh: true, transient: true}, func(what string) {
		events.Send(event.Event{Phase: event.Info, Detail: "waiting for " + what})
	}, events)
}

// writeJSON writes one value as the answer.
func (a *app) writeJSON(v any) error {
	e := json.NewEncoder(a.Out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
