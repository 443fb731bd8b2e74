package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/build"
	"github.com/difyup/difyup/internal/carried"
	"github.com/difyup/difyup/internal/cli/view"
	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/doctor"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
)

// How much of the logs is in a bundle.
const (
	bundleSince = 24 * time.Hour
	bundleLines = 5000
	bundleBytes = 8 << 20
)

type bundleOptions struct {
	readOptions
	out string
}

func newBundle(a *app) *cobra.Command {
	var o bundleOptions
	c := &cobra.Command{
		Use: "bundle", Short: "Write what a bug report needs to know of the stack into one file",
		Long: fmt.Sprintf(`Writes an archive (tar.gz) that only you can read, with:

  about.json                what made it, and the versions of difyup, its agent and Dify
  status.txt, status.json   what difyup status --deep shows
  doctor.txt, doctor.json   what difyup doctor finds
  plan.json                 the names of what apply would change, and how
  history.json              the last runs, and one that did not end
  logs.jsonl                the last %d lines of the last day that containers and agents wrote, at most %d MB
  errors.txt                what could not be read, if anything; then difyup exits with 1

No secret of the stack is read for it. What looks like a token, a key or a password is taken out, of a URL its query too, and the
addresses of webhooks; but in logs stands what containers wrote: look through them before you send them to somebody.`, bundleLines, bundleBytes>>20),
		RunE: func(c *cobra.Command, _ []string) error { return o.aim(c, runBundle(c.Context(), a, o)) },
	}
	o.flags(c)
	c.Flags().StringVarP(&o.out, "output", "o", "", "the file to write, which must not be there (default difyup-STACK-TIME.tar.gz)")
	c.Flags().BoolVar(&o.json, "json", false, "write the file's name, and what could not be read, as JSON")
	return c
}

func runBundle(ctx context.Context, a *app, o bundleOptions) error {
	spec, stack, info, err := o.running(ctx, a)
	if err != nil {
		return err
	}
	defer stack.Close()
	now := time.Now()
	dir := "difyup-" + spec.Stack + "-" + now.UTC().Format("20060102-150405")
	if o.out == "" {
		o.out = dir + ".tar.gz"
	}
	if _, err := os.Lstat(o.out); err == nil { // before all the work
		return bundleThere(o.out)
	}
	view.Note(a.Err, a.colour, "This may take a minute.")
	b := &bundle{}
	b.gather(ctx, a, &o, spec, stack, info, now)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := b.write(o.out, dir, now); err != nil {
		return err
	}
	if o.json {
		err = a.writeJSON(map[string]any{"file": o.out, "errors": append([]string{}, b.errors...)})
	} else {
		_, err = fmt.Fprintln(a.Out, o.out)
	}
	if err != nil || len(b.errors) == 0 {
		return err
	}
	return &fault.Fault{
		Summary: "The bundle is not complete",
		Detail:  fmt.Sprintf("In %s, errors.txt says what could not be read:\n    %s", o.out, strings.Join(b.errors, "\n    ")),
		Remedy:  "It can be used as it is. Where the stack is the cause, this may say more:\n    difyup status --deep",
	}
}

// bundle is an archive in the making.
type bundle struct {
	files  []bundleFile
	errors []string // a line each
}

type bundleFile struct {
	name string
	text []byte
}

// gather reads all that it can. One thing that cannot be read keeps nothing else out.
func (b *bundle) gather(ctx context.Context, a *app, o *bundleOptions, spec *config.Spec, stack *ops.Stack, info *localcloud.Info, now time.Time) {
	var text bytes.Buffer
	c, err := o.survey(ctx, a, spec, stack, now, bundleSince, b.fail)
	if err != nil {
		view.Note(&text, view.Palette{}, "The status cannot be read: of what follows, only what is said of each instance is known.")
	}
	view.Status(&text, view.Palette{}, o.where(), o.longFlagsText(), urlOf(c.Status, info, spec), c.Status, now)
	b.add("status.txt", text.Bytes())
	b.addJSON("status.json", c.Status)

	found := doctor.Examine(c)
	text.Reset()
	view.Doctor(&text, view.Palette{}, o.where(), o.longFlagsText(), c.Status, found, now)
	b.add("doctor.txt", text.Bytes())
	b.addJSON("doctor.json", found)

	if c.Plan != nil {
		b.addJSON("plan.json", outline(c.Plan))
	}
	if history, err := stack.History(ctx); err != nil {
		b.fail("history", err)
	} else {
		b.addJSON("history.json", history)
	}
	lines, err := stack.Logs(ctx, ops.LogQuery{Since: now.Add(-bundleSince), Tail: bundleLines})
	if err != nil {
		b.fail("logs", err)
	}
	logs, left := lastLines(lines, bundleBytes)
	b.add("logs.jsonl", logs)

	agent, err := carried.Find()
	if err != nil {
		b.fail("agent", err)
	}
	b.addJSON("about.json", map[string]any{
		"at": now.UTC(), "where": o.where(), "difyup": build.Current(), "agent": agent, "dify": spec.Dify.Version,
		"logs": map[string]any{"since": now.Add(-bundleSince).UTC(), "lines": len(lines) - left, "cut": left > 0 || len(lines) == bundleLines},
	})
}

// planned makes a plan, for which the agent is needed.
func (t *target) planned(ctx context.Context, a *app, spec *config.Spec) (*plan.Plan, error) {
	stack, _, err := t.openWith(ctx, a, ops.Options{Spec: spec}, false, true)
	if err != nil {
		return nil, err
	}
	defer stack.Close()
	return stack.Plan(ctx)
}

// outline gives of a plan what it does to what, and nothing of what is in it.
func outline(p *plan.Plan) any {
	type step struct {
		ID     resource.ID `json:"id"`
		Action plan.Action `json:"action"`
	}
	steps := []step{}
	for _, s := range p.Steps {
		steps = append(steps, step{s.ID, s.Action})
	}
	kept := []resource.ID{}
	for _, r := range p.Kept {
		kept = append(kept, r.ID())
	}
	return map[string]any{"steps": steps, "kept": kept, "unchanged": p.Unchanged}
}

// lastLines gives lines as JSON, one each, the last of them that are no longer than so many bytes, and how many it left out.
func lastLines(lines []ops.LogLine, most int) (text []byte, left int) {
	lines = harmlessLines(lines)
	encoded, size := make([][]byte, len(lines)), 0
	for i := len(lines) - 1; i >= 0; i-- {
		raw, _ := json.Marshal(lines[i]) // of strings and a time
		if size += len(raw) + 1; size > most {
			left = i + 1
			break
		}
		encoded[i] = append(raw, '\n')
	}
	return bytes.Join(encoded, nil), left
}

func (b *bundle) add(name string, text []byte) {
	b.files = append(b.files, bundleFile{name, []byte(harmlessText(string(text)))})
}

func (b *bundle) addJSON(name string, v any) {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		b.fail(name, err)
		return
	}
	b.add(name, append(raw, '\n'))
}

// fail notes in one line that something could not be read.
func (b *bundle) fail(what string, err error) {
	b.errors = append(b.errors, harmlessText(what+": "+strings.Join(strings.Fields(err.Error()), " ")))
}

// write writes the archive, whole or not at all, for its owner alone.
func (b *bundle) write(file, dir string, now time.Time) error {
	if len(b.errors) > 0 {
		var text bytes.Buffer
		for _, line := range b.errors {
			view.Note(&text, view.Palette{}, line)
		}
		b.add("errors.txt", text.Bytes())
	}
	var all bytes.Buffer
	z := gzip.NewWriter(&all)
	t := tar.NewWriter(z)
	for _, f := range b.files {
		// Writes to memory do not fail, and Close tells of a size that is wrong.
		_ = t.WriteHeader(&tar.Header{Name: dir + "/" + f.name, Mode: 0o600, Size: int64(len(f.text)), ModTime: now, Typeflag: tar.TypeReg})
		_, _ = t.Write(f.text)
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return fmt.Errorf("make the bundle: %w", err)
	}
	// What is there may be somebody else's, or be read by others.
	out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return bundleThere(file)
	}
	if err == nil {
		_, err = out.Write(all.Bytes())
		if err = errors.Join(err, out.Close()); err != nil {
			_ = os.Remove(file) // a part is of no use
		}
	}
	if err != nil {
		return &fault.Fault{Summary: "The bundle cannot be written", Detail: view.Sentence(err.Error()), Remedy: "Name another file:\n    difyup bundle -o FILE"}
	}
	return nil
}

func bundleThere(file string) error {
	return &fault.Fault{Summary: "The file is there already", Detail: fmt.Sprintf("%s is not overwritten.", file), Remedy: "Name another one:\n    difyup bundle -o FILE"}
}

// more is what goes on a path or a query, in JSON as well.
const more = `(?:[^\s"'\\<>]|\\u0026)+`

// secretive finds what looks like a secret. Agents take the values of secrets that they know out of what they send; this is for
// others, of users and of the one who runs difyup.
var secretive = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----([A-Za-z0-9+/=\s]|\\[nr])*(-----END [A-Z ]*PRIVATE KEY-----)?`), "***"},
	{regexp.MustCompile(`(?i)\b(bearer|basic) +[A-Za-z0-9._~+/=-]{8,}`), "$1 ***"},
	{regexp.MustCompile(`\bya29\.[A-Za-z0-9._-]+`), "***"},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?`), "***"},
	{regexp.MustCompile(`://[^/\s:@"]*:[^/\s@"]+@`), "://***@"},
	{regexp.MustCompile(`\b(sk-[A-Za-z0-9_-]{16,}|(app|dataset)-[A-Za-z0-9]{20,})`), "***"},
	// Many APIs have their keys in queries.
	{regexp.MustCompile(`(/[^\s"'\\<>?]*)\?` + more), "$1?…"},
	// Who knows such a path is let in: Dify's own, and those of Telegram, Slack, Discord, Teams, Feishu and Zapier.
	{regexp.MustCompile(`(^|[^A-Za-z0-9_./-]|\\[nrt]|://[^/\s"'\\]+)(` + open() + `)/` + more), "$1$2/…"},
	{regexp.MustCompile(`/bot[0-9]+:[A-Za-z0-9_-]+`), "/bot…"},
	{regexp.MustCompile(`(\bhooks\.(?:slack|zapier)\.com/|\.webhook\.office\.com/|/api/(?:v[0-9]+/)?webhooks/|/open-apis/bot/v2/hook/)` + more), "$1…"},
	{regexp.MustCompile(`(/services/)T[A-Z0-9]+/B[A-Z0-9]+/` + more), "$1…"},
}

// open gives the prefixes of the routes whose paths are secrets, for a pattern.
func open() string {
	var all []string
	for _, r := range dify.Routes() {
		if r.Open {
			all = append(all, regexp.QuoteMeta(r.Prefix))
		}
	}
	return strings.Join(all, "|")
}

// harmlessText takes what looks like a secret out of a text. Of JSON it leaves JSON.
func harmlessText(text string) string {
	for _, s := range secretive {
		text = s.what.ReplaceAllString(text, s.by)
	}
	return text
}

// A key may be written over lines, each of which is an entry of its own.
var (
	keyBegins = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----`)
	keyGoesOn = regexp.MustCompile(`^\s*[A-Za-z0-9+/=]+\s*$`)
	keyEnds   = regexp.MustCompile(`[A-Za-z0-9+/=\s]*-----END [A-Z ]*PRIVATE KEY-----`)
)

// keyLines is how many lines of a source are looked at for the end of a key, more than the longest has: words look like its lines.
const keyLines = 300

// harmlessLines takes what looks like a secret out of lines, the oldest first.
func harmlessLines(lines []ops.LogLine) []ops.LogLine {
	type source struct{ instance, container string }
	left := map[source]int{} // lines in which a key may go on
	lines = slices.Clone(lines)
	for i := range lines {
		l, of := &lines[i], source{lines[i].Instance, lines[i].Container}
		if left[of] > 0 {
			left[of]--
			switch {
			case keyEnds.MatchString(l.Text):
				left[of], l.Text = 0, keyEnds.ReplaceAllString(l.Text, "***")
			case keyGoesOn.MatchString(l.Text):
				l.Text = "***"
			}
		}
		if begun := keyBegins.FindAllStringIndex(l.Text, -1); begun != nil && !keyEnds.MatchString(l.Text[begun[len(begun)-1][1]:]) {
			left[of] = keyLines
		}
		l.Text = harmlessText(l.Text)
	}
	return lines
}
