package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/term"

	"github.com/difyup/difyup/internal/cli/view"
)

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitChanges     = 2   // plan --exit-code: there is something to do
	exitInterrupted = 130 // as a shell has it
)

// Stdio is where a command reads and writes.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
	// AskIn says whether a person can be asked; OutTerm and ErrTerm whether Out and Err are terminals.
	AskIn, OutTerm, ErrTerm bool
	// Width gives the columns of the terminal, 0 for none.
	Width func() int
	// Secret reads a line of the terminal without showing it, until the context ends; nil when there is none.
	Secret func(context.Context) (string, error)
}

// Standard gives the process's own streams.
func Standard() Stdio {
	is := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	stdin := int(os.Stdin.Fd())
	return Stdio{
		Secret: func(ctx context.Context) (string, error) {
			// Whoever is interrupted while typing wants to see what is typed afterwards.
			if state, err := term.GetState(stdin); err == nil {
				stop := context.AfterFunc(ctx, func() { _ = term.Restore(stdin, state) })
				defer stop()
			}
			line, err := term.ReadPassword(stdin)
			return string(line), err
		},
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, AskIn: is(os.Stdin), OutTerm: is(os.Stdout), ErrTerm: is(os.Stderr),
		Width: func() int {
			w, _, err := term.GetSize(int(os.Stderr.Fd()))
			if err != nil {
				return 0
			}
			return w
		},
	}
}

// app is what every command needs.
type app struct {
	Stdio
	colour view.Palette
	code   int      // of a command that ended well
	args   []string // behind the command's name, for the state: no flag of difyup's takes a secret
}

// errSaid ends a command that has said everything already, and so does errInterrupted one that the user interrupted.
var (
	errSaid        = errors.New("said")
	errInterrupted = errors.New("interrupted")
)

// collect sets how much garbage there may be, in percent of what is in use, before it is collected, unless the user has: a command that
// is over within moments has little that is worth collecting.
func collect(percent int) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}

// Main runs a command line and gives the exit code.
func Main(ctx context.Context, args []string, std Stdio) int {
	a := &app{Stdio: std, colour: view.NewPalette(std.OutTerm && std.ErrTerm, os.Getenv)}
	if len(args) > 1 {
		a.args = args[1:]
	}
	collect(400)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	// After the first signal the next one ends the process at once, which is safe at any time.
	context.AfterFunc(ctx, stop)
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(std.In)
	root.SetOut(std.Out)
	root.SetErr(std.Err)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return a.code
	case errors.Is(err, errSaid):
		return exitFailed
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		view.Interrupted(std.Err, a.colour)
		return exitInterrupted
	}
	view.Error(std.Err, a.colour, err)
	return exitFailed
}

// progress shows a run: JSON on standard output, else on standard error, as a block on a terminal and as lines elsewhere.
func (a *app) progress(json bool) *view.Progress {
	switch {
	case json:
		return view.NewProgress(a.Out, view.Palette{}, view.JSON, a.Width)
	case a.ErrTerm && os.Getenv("TERM") != "dumb":
		return view.NewProgress(a.Err, a.colour, view.Live, a.Width)
	}
	return view.NewProgress(a.Err, a.colour, view.Lines, a.Width)
}
