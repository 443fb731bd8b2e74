package view

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/diff"
	"github.com/difyup/difyup/internal/doctor"
	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/state"
)

func TestClean(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "",
		"plain, größe, 東京, naïve":    "plain, größe, 東京, naïve",
		"\x1b[31mred\x1b[0m":         `\x1b[31mred\x1b[0m`,
		"\x1b]0;title\a":             `\x1b]0;title\x07`,
		"\u009b2J\u009dx\u0085":      `\u009b2J\u009dx\u0085`,
		"a\r\nb\tc\x00\x7f":          `a\r\nb c\x00\x7f`,
		"exe\u202egnp.\u2066x\u200f": `exe\u202egnp.\u2066x\u200f`,
		"a\u200bb\ufeffc\u00add":     `a\u200bb\ufeffc\u00add`,
		"\u2028\u2029\u00a0\u3000":   `\u2028\u2029\u00a0\u3000`,
		"\u3164\ufe0f\U000e0041":     `\u3164\ufe0f\U000e0041`,
		"half \xe6\x97":              `half \xe6\x97`,
		"\ufffd is one itself":       "\ufffd is one itself",
		strings.Repeat("x", 1<<20):   strings.Repeat("x", longestLine) + "… (1044576 bytes more)",
	} {
		if d := cmp.Diff(want, clean(text)); d != "" {
			t.Errorf("%.40q (-want +got):\n%.400s", text, d)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"", "a", hostile, strings.Repeat("\x1b", 5000), strings.Repeat("é", 5000), "\U0010ffff\xed\xa0\x80"} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, text string, column int) {
		got := clean(text)
		if bad := danger(got); bad != "" || utf8.RuneCountInString(got) > longestLine+50 {
			t.Errorf("%q: %s, %d characters", text, bad, utf8.RuneCountInString(got))
		}
		if len(text) < longestLine/10 && clean(got) != got {
			t.Errorf("%q becomes %q, and that %q", text, got, clean(got))
		}
		column = max(0, min(column, utf8.RuneCountInString(text)+1))
		part, at := excerpt(text, column)
		if bad := danger(string(part)); bad != "" || at > utf8.RuneCountInString(string(part))+1 || (at == 0) != (column == 0) {
			t.Errorf("%q, %d: %q, %d: %s", text, column, part, at, bad)
		}
	})
}

// danger says what in a text a terminal might obey, or a reader be misled by; "" for nothing.
func danger(text string) string {
	if !utf8.ValidString(text) {
		return "no UTF-8"
	}
	for _, r := range text {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Co, unicode.Cs) && r != '\n' {
			return "the character " + strings.ToUpper(clean(string(r)))
		}
	}
	return ""
}

// hostile is what a file, a lock, a resource's name or an answer may hold.
const hostile = "\x1b[2J\x1b]0;owned\a\u202egnp.exe\xff\u009b31m\r\nError: forged\n\x00\u200b\u2066"

// fill sets every text in a value, and gives every list two elements.
func fill(v reflect.Value, text string) {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Interface:
		if v.Type() == reflect.TypeFor[any]() {
			v.Set(reflect.ValueOf(map[string]any{text: text}))
		}
	case reflect.Pointer:
		if v.Type() != reflect.TypeFor[*resource.Resource]() {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), text)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), text)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() && v.Type() != reflect.TypeFor[time.Time]() {
				fill(v.Field(i), text)
			}
		}
	}
}

// TestViewsShowHostileTexts gives every view texts that would clear the screen, forge a line, or fill it: they are shown, harmless,
// and not for long.
func TestViewsShowHostileTexts(t *testing.T) {
	for name, text := range map[string]string{"hostile": hostile, "long": strings.Repeat("x", 1<<20) + hostile, "many lines": strings.Repeat("y\n", 1<<16)} {
		var status ops.Status
		var info localcloud.Info
		var f fault.Fault
		var values []ops.Value
		var found doctor.Result
		var rules []faults.State
		for _, v := range []any{&status, &info, &f, &values, &found, &rules} {
			fill(reflect.ValueOf(v).Elem(), text)
		}
		found.Unread = map[doctor.Source]string{doctor.Source(text): text}
		f.Cause, f.At.Line, f.At.Column = errors.New(text), 3, 5
		p := &plan.Plan{}
		for _, a := range []plan.Action{plan.Create, plan.Update, plan.Delete, plan.Await} {
			step := plan.Step{Action: a, ID: resource.ID(text), Why: text, Res: &resource.Resource{Kind: kind.Networks.Kind, Name: text}}
			step.Changes = []diff.Field{{Path: resource.Path(text), Old: text, New: map[string]any{text: text}}, {Path: "p", Old: "projects/" + text, New: nil}}
			p.Steps = append(p.Steps, step)
		}
		holder := state.Holder{Owner: text, Host: text, Command: text}
		views := map[string]func(w *bytes.Buffer, c Palette){
			"error":       func(w *bytes.Buffer, c Palette) { Error(w, c, errors.Join(&f, errors.New(text))) },
			"lock":        func(w *bytes.Buffer, c Palette) { Error(w, c, holder.Fault()) },
			"plan":        func(w *bytes.Buffer, c Palette) { Plan(w, c, Heading{Stack: text, Project: text, Where: text}, p) },
			"status":      func(w *bytes.Buffer, c Palette) { Status(w, c, text, text, text, &status, time.Now()) },
			"doctor":      func(w *bytes.Buffer, c Palette) { Doctor(w, c, text, text, &status, &found, time.Now()) },
			"local":       func(w *bytes.Buffer, c Palette) { Local(w, c, &info) },
			"faults":      func(w *bytes.Buffer, _ Palette) { Faults(w, rules) },
			"outputs":     func(w *bytes.Buffer, c Palette) { Outputs(w, c, values) },
			"destroyed":   func(w *bytes.Buffer, c Palette) { Destroyed(w, c, text, 1, false, time.Second) },
			"note":        func(w *bytes.Buffer, c Palette) { Note(w, c, text) },
			"warning":     func(w *bytes.Buffer, c Palette) { Warning(w, c, "Take care:\n"+text) },
			"next":        func(w *bytes.Buffer, c Palette) { Next(w, c, text) },
			"interrupted": func(w *bytes.Buffer, c Palette) { Interrupted(w, c) },
		}
		for mode, modeName := range map[Mode]string{Lines: "lines", Live: "live"} {
			views["progress, "+modeName] = func(w *bytes.Buffer, c Palette) {
				progress := NewProgress(w, c, mode, func() int { return 80 })
				for _, phase := range []event.Phase{event.Started, event.Retried, event.Waiting, event.Info, event.Failed, event.Skipped, event.Done} {
					progress.Event(event.Event{Phase: phase, ID: text, Action: text, Detail: text, Error: text})
					progress.mu.Lock()
					progress.draw()
					progress.mu.Unlock()
				}
				progress.Close()
			}
		}
		for view, show := range views {
			for _, c := range []Palette{{}, {on: true}} {
				var out bytes.Buffer
				show(&out, c)
				got := ours.ReplaceAllString(out.String(), "")
				if out.Len() == 0 || danger(got) != "" {
					t.Errorf("%s, %s: %d bytes, with %s:\n%.300q", view, name, out.Len(), danger(got), got)
				}
				if strings.Contains(got, "\nError: forged") {
					t.Errorf("%s: a line is forged:\n%.300q", view, got)
				}
				if out.Len() > 1<<20 {
					t.Errorf("%s, %s: %d bytes", view, name, out.Len())
				}
			}
		}
	}
}

// ours are the sequences that this package writes itself.
var ours = regexp.MustCompile(`\x1b\[(0|1|2|31|32|33|36)m|\x1b\[[0-9]+A\x1b\[J`)

// TestOneWayOut checks that nothing in this package writes but through printf.
func TestOneWayOut(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") || file == "clean.go" {
			continue
		}
		for _, other := range []string{"fmt.Fprint", "fmt.Sprintf", "io.WriteString", ".Write(", "fmt.Print"} {
			if strings.Contains(string(raw), other) {
				t.Errorf("%s uses %s: arguments would go out as they are; use printf and sprintf", file, other)
			}
		}
		if n := strings.Count(string(raw), "styled("); n != strings.Count(string(raw), `styled("\x1b[`)+strings.Count(string(raw), `styled("")`)+strings.Count(string(raw), "styled(out.String())") {
			t.Errorf("%s makes styled text of its own", file)
		}
	}
}
