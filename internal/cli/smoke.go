package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/report"
	"github.com/difyup/difyup/internal/smoke"
)

// The environment variables that hold what must not be an argument.
const (
	envPassword     = "DIFYUP_SMOKE_PASSWORD"
	envInitPassword = "DIFYUP_INIT_PASSWORD"
)

// rehearsalEmail is the account that a rehearsal is proven with. Nobody can have it: the domain is never given away.
const rehearsalEmail = "rehearsal@difyup.invalid"

type smokeOptions struct {
	target
	json     bool
	url      string
	email    string
	setup    bool
	ca       string
	insecure bool
}

func newSmoke(a *app) *cobra.Command {
	var o smokeOptions
	c := &cobra.Command{
		Use: "smoke", Short: "Prove that Dify works, on every instance",
		Long: `Uses Dify from outside as a browser does: logs in, uploads a file, has it indexed and found, calls a plugin, and asks every
instance. Each line says what it proves, and a broken one what is broken. What it makes it removes again.

It needs an account of Dify's: --email, and its password in $` + envPassword + ` or asked for. With --local an account of its
own is made.`,
		Example: "  difyup smoke --local                                # a rehearsal\n  difyup smoke --email me@example.com                 # the stack of difyup.yaml\n  difyup smoke --url https://dify.example.com --json  # any other Dify",
		RunE:    func(c *cobra.Command, _ []string) error { return o.aim(c, runSmoke(c, a, o)) },
	}
	o.flags(c)
	c.Flags().BoolVar(&o.json, "json", false, "write the report as JSON")
	c.Flags().StringVar(&o.url, "url", "", "prove the Dify at this address instead of the stack's")
	c.Flags().StringVar(&o.email, "email", "", "the account's e-mail address")
	c.Flags().BoolVar(&o.setup, "setup", false, "make the account Dify's first one, its owner, if there is none yet (with --local: always)")
	c.Flags().StringVar(&o.ca, "ca", "", "trust the certificates in this PEM file")
	c.Flags().BoolVar(&o.insecure, "insecure", false, "trust whoever answers; never across a network with a real password")
	return c
}

func runSmoke(c *cobra.Command, a *app, o smokeOptions) error {
	ctx := c.Context()
	prove := smoke.Options{URL: o.url, Email: o.email, Setup: o.setup}
	what := ""
	if o.url == "" {
		stack, err := o.aimAtStack(ctx, a, &prove)
		if err != nil {
			return err
		}
		defer stack.Close()
		what = o.where()
	} else {
		prove.InitPassword = initPasswordOf(os.Getenv)
	}
	if err := o.trust(ctx, &prove); err != nil {
		return err
	}
	if err := a.account(ctx, &prove); err != nil {
		return err
	}
	aim := func(r smoke.Result) {
		if r.Fault != nil && o.url == "" {
			_ = o.aim(c, r.Fault) // is shown with the row
		}
	}
	if o.json {
		prove.Done = aim
		said, err := smoke.Run(ctx, prove)
		if said == nil {
			return err
		}
		if err := a.writeJSON(said); err != nil {
			return err
		}
		return ended(said, err)
	}
	var width func() int
	if a.OutTerm && os.Getenv("TERM") != "dumb" {
		width = a.Width
	}
	show := view.NewSmoke(a.Out, a.colour, prove.URL, what, width)
	prove.Begin = show.Begin
	prove.Done = func(r smoke.Result) {
		aim(r)
		show.Done(r)
	}
	said, err := smoke.Run(ctx, prove)
	if said == nil {
		return err
	}
	show.End(said, err != nil)
	return ended(said, err)
}

// ended gives how the command ends: what is to be said has been said.
func ended(r *smoke.Report, err error) error {
	if err == nil && !r.OK {
		return errSaid
	}
	if errors.Is(err, context.Canceled) {
		return errInterrupted
	}
	return err
}

// aimAtStack finds the stack's address, what runs there, and, when it is called for, the init password.
func (o *smokeOptions) aimAtStack(ctx context.Context, a *app, prove *smoke.Options) (*ops.Stack, error) {
	read := readOptions{target: o.target}
	spec, stack, info, err := read.running(ctx, a)
	if err != nil {
		return nil, err
	}
	err = func() error {
		status, err := stack.Status(ctx)
		if err != nil {
			return err
		}
		if prove.URL = urlOf(status, info, spec); prove.URL == "" {
			return &fault.Fault{
				Summary: "The stack has no address yet",
				Detail:  "Its load balancer is not there.",
				Remedy:  "Finish what was begun:\n    difyup apply" + o.flagsText(),
			}
		}
		if slices.ContainsFunc(status.Instances, func(i ops.Instance) bool { return i.Health != "HEALTHY" }) {
			stack.Deep(ctx, status) // which of them boot
		}
		var boot []string
		if prove.Instances, boot = required(status.Instances); len(boot) > 0 {
			view.Note(a.Err, a.colour, "Not in traffic yet, and not asked: "+strings.Join(boot, ", "))
		}
		prove.Left = func(ctx context.Context, names []string) ([]string, error) {
			now, err := stack.Status(ctx)
			if err != nil {
				return nil, err
			}
			return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
				return slices.ContainsFunc(now.Instances, func(i ops.Instance) bool {
					return i.Name == name && i.Action != "DELETING" && i.Action != "ABANDONING"
				})
			}), nil
		}
		prove.Serving = func(ctx context.Context, names []string) ([]string, error) {
			now, err := stack.Status(ctx)
			if err != nil {
				return nil, err
			}
			stack.Deep(ctx, now)
			return serving(now.Instances, names, time.Now()), nil
		}
		if spec.Dify.Images.API == "" { // what an API of one's own calls itself is its maker's matter
			prove.Version = spec.Dify.Version
		}
		prove.InitPassword = func(ctx context.Context) (string, error) { return stack.Secret(ctx, dify.InitPassword) }
		own, err := stack.Certificate(ctx)
		if err != nil {
			return err
		}
		switch {
		case own != "":
			prove.TLS = exactly(own)
		case o.local: // nobody can be in between on this machine
			prove.TLS = &tls.Config{InsecureSkipVerify: true}
		}
		if o.local && prove.Email == "" {
			prove.Email, prove.Setup = rehearsalEmail, true
			prove.Password = rehearsalPassword(info.Token)
		}
		return nil
	}()
	if err != nil {
		stack.Close()
		return nil, err
	}
	return stack, nil
}

// required gives the instances that must answer: those that are in traffic, and those that were and should be, whatever the load balancer
// thinks of them now. Those that boot need not yet.
func required(all []ops.Instance) (must, boot []string) {
	for _, i := range all {
		served := i.Report != nil && !i.Report.Served.IsZero() && i.Report.Phase != report.Drains
		switch {
		case i.Health == "HEALTHY", served && i.Status == "RUNNING" && i.Action == "NONE":
			must = append(must, i.Name)
		case i.Action != "DELETING" && i.Action != "ABANDONING":
			boot = append(boot, i.Name)
		}
	}
	return must, boot
}

// serving gives those of the names whose instances the load balancer finds well, and which say so of themselves: by default Google's prefers a
// zone for a client that asks little, so that some may get none of its requests.
func serving(all []ops.Instance, names []string, now time.Time) (those []string) {
	for _, i := range all {
		if slices.Contains(names, i.Name) && i.Health == "HEALTHY" && i.Well(now) {
			those = append(those, i.Name)
		}
	}
	return those
}

// rehearsalPassword makes a password for the rehearsal's account: the same for as long as the local cloud lives, and known
// to whoever may use that.
func rehearsalPassword(token string) string {
	h := hmac.New(sha256.New, []byte(token))
	h.Write([]byte(rehearsalEmail))
	return "Rehearsal1-" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))[:24]
}

func initPasswordOf(env func(string) string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		if v := env(envInitPassword); v != "" {
			return v, nil
		}
		return "", &fault.Fault{
			Summary: "No init password",
			Detail:  "This Dify asks for its INIT_PASSWORD before the first account is made.",
			Remedy:  "Put it into the environment:\n    " + envInitPassword + "=… difyup smoke --setup",
		}
	}
}

// exactly trusts one certificate and no other.
func exactly(certificate string) *tls.Config {
	return &tls.Config{
		InsecureSkipVerify: true, // it names a domain, and may be reached by its address: the certificate itself is compared
		VerifyConnection: func(s tls.ConnectionState) error {
			block, _ := pem.Decode([]byte(certificate))
			if block != nil && len(s.PeerCertificates) > 0 && bytes.Equal(block.Bytes, s.PeerCertificates[0].Raw) {
				return nil
			}
			return errors.New("the certificate is another one than the stack's own")
		},
	}
}

// trust does what the flags say.
func (o *smokeOptions) trust(ctx context.Context, prove *smoke.Options) error {
	if o.insecure {
		prove.TLS = &tls.Config{InsecureSkipVerify: true}
	}
	if o.ca == "" {
		return nil
	}
	raw, err := config.ReadFile(ctx, o.ca)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(raw) {
		return &fault.Fault{
			Summary: "No certificates in the file",
			Detail:  fmt.Sprintf("%s could not be read, or holds no certificate in PEM.", o.ca),
			Remedy:  "Give a file that begins with\n    -----BEGIN CERTIFICATE-----",
			Cause:   err,
		}
	}
	prove.TLS = &tls.Config{RootCAs: roots}
	return nil
}

// account completes the account from the environment, or by asking. A password is never an argument: those are seen by
// everybody on the machine.
func (a *app) account(ctx context.Context, prove *smoke.Options) (err error) {
	if prove.Password != "" {
		return nil
	}
	prove.Password = os.Getenv(envPassword)
	if (prove.Email == "" || prove.Password == "") && (!a.AskIn || a.Secret == nil) {
		return &fault.Fault{
			Summary: "No account",
			Detail:  "A smoke test logs in to Dify, and there is no terminal to ask for the account on.",
			Remedy:  "Give one that may create data sets and apps:\n    " + envPassword + "=… difyup smoke --email ADDRESS",
		}
	}
	if prove.Email == "" {
		if prove.Email, err = a.prompt(ctx, "E-mail address of a Dify account: ", func() (string, error) { return bufio.NewReader(a.In).ReadString('\n') }); err != nil {
			return err
		}
	}
	if prove.Password == "" {
		prove.Password, err = a.prompt(ctx, "Its password: ", func() (string, error) { return a.Secret(ctx) })
		fmt.Fprintln(a.Err)
	}
	return err
}

// prompt asks for a line.
func (a *app) prompt(ctx context.Context, question string, read func() (string, error)) (string, error) {
	fmt.Fprint(a.Err, question)
	type line struct {
		text string
		err  error
	}
	lines := make(chan line, 1)
	go func() { // ends with the process when nobody answers: a read from a terminal cannot be taken back
		text, err := read()
		lines <- line{text, err}
	}()
	select {
	case l := <-lines:
		if text := strings.TrimRight(l.text, "\r\n"); text != "" {
			return text, nil
		}
		return "", errors.Join(errors.New("nothing was given"), l.err)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}
