package driver

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/spelling"
)

// flag is what Cloud SQL says of a database flag.
type flag struct {
	Name                string
	Type                string // BOOLEAN, STRING, INTEGER, FLOAT, REPEATED_STRING, NONE, …
	AppliesTo           []string
	AllowedStringValues []string
	AllowedIntValues    []string
	MinValue, MaxValue  string // 64-bit numbers, which JSON has as texts; "" for no limit
}

// flagLists are the flags of the versions that were asked for. An error is not kept.
type flagLists struct {
	mu        sync.Mutex
	byVersion map[string][]flag
}

// list gives the flags of a version, "POSTGRES_16"; none when Google does not say. One request for each version.
func (l *flagLists) list(ctx context.Context, c *gcp.Client, api *resource.API, version string) ([]flag, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if all, ok := l.byVersion[version]; ok {
		return all, nil
	}
	var answer struct{ Items []flag }
	err := c.Do(ctx, gcp.Call{API: api, Method: http.MethodGet, Path: "flags", Query: url.Values{"databaseVersion": {version}}, Out: &answer})
	if gcp.Is(err, 403, 404) {
		// The API is not enabled yet, or the caller may not see the list. Google checks the flags when they are sent.
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the database flags of %s: %w", version, err)
	}
	all := slices.DeleteFunc(answer.Items, func(f flag) bool { return len(f.AppliesTo) > 0 && !slices.Contains(f.AppliesTo, version) })
	l.byVersion[version] = all
	return all, nil
}

const flagsPath resource.Path = "settings.databaseFlags"

// Check compares the instance's flags with those that Cloud SQL has.
func (d *sqlInstance) Check(ctx context.Context, r *resource.Resource, changed []resource.Path) ([]gcp.Refusal, error) {
	if changed != nil && !slices.ContainsFunc(changed, func(p resource.Path) bool {
		return p == "databaseVersion" || p == flagsPath || strings.HasPrefix(string(p), string(flagsPath)+"[")
	}) {
		return nil, nil
	}
	version, _ := resource.Lookup(r.Body, "databaseVersion")
	given, _ := resource.Lookup(r.Body, flagsPath)
	items, _ := given.([]any)
	if len(items) == 0 {
		return nil, nil
	}
	known, err := d.flags.list(ctx, d.Client, r.Kind.API, fmt.Sprint(version))
	if err != nil || len(known) == 0 {
		return nil, err
	}
	var refused []gcp.Refusal
	for _, item := range items {
		f, _ := item.(map[string]any)
		name, value := fmt.Sprint(f["name"]), fmt.Sprint(f["value"])
		if problem := d.problem(known, fmt.Sprint(version), name, value); problem != nil {
			problem.Detail = string(r.ID()) + ": " + problem.Detail
			refused = append(refused, gcp.Refusal{Path: flagsPath + resource.Path("[name="+name+"]"), Fault: problem})
		}
	}
	return refused, nil
}

// refusals checks once more what is about to be sent: while planning, the list may have been out of reach.
func (d *sqlInstance) refusals(ctx context.Context, r *resource.Resource, changed []resource.Path) error {
	refused, err := d.Check(ctx, r, changed)
	if err != nil {
		return err
	}
	var faults fault.List
	for _, f := range refused {
		faults = append(faults, f.Fault)
	}
	return faults.Err()
}

// problem says what is wrong with a flag, nil for nothing.
func (d *sqlInstance) problem(known []flag, version, name, value string) *fault.Fault {
	postgres := "PostgreSQL " + strings.TrimPrefix(version, "POSTGRES_")
	i := slices.IndexFunc(known, func(f flag) bool { return f.Name == name })
	if i < 0 {
		names := make([]string, len(known))
		for i, f := range known {
			names[i] = f.Name
		}
		remedy := "Remove it. Flags that Google does not offer cannot be set."
		if near := spelling.Nearest(name, names); near != "" {
			remedy = fmt.Sprintf("Did you mean `%s`?", near)
		} else if d.Google() {
			remedy = "Remove it, or choose one of these:\n    gcloud sql flags list --database-version " + version
		}
		return &fault.Fault{Summary: "Unknown database flag", Detail: fmt.Sprintf("Cloud SQL has no flag `%s` for %s.", name, postgres), Remedy: remedy}
	}
	want, instead := known[i].wants(value)
	if want == "" {
		return nil
	}
	remedy := "Write one of these values, or remove the flag."
	if instead != "" {
		remedy = fmt.Sprintf("Did you mean `%s`?", instead)
	}
	return &fault.Fault{
		Summary: "Invalid database flag value",
		Detail:  fmt.Sprintf("The flag `%s` cannot be `%s`. It takes %s.", name, value, want),
		Remedy:  remedy,
	}
}

// wants says what values the flag takes when it does not take this one, and the one that is perhaps meant.
func (f flag) wants(value string) (want, instead string) {
	words := func(all []string) (string, string) {
		return listed(all), spelling.Nearest(strings.ToLower(value), all)
	}
	switch f.Type {
	case "BOOLEAN":
		if all := []string{"on", "off"}; !slices.Contains(all, value) {
			return words(all)
		}
	case "INTEGER", "FLOAT":
		n, err := strconv.ParseFloat(value, 64)
		if math.IsNaN(n) || math.IsInf(n, 0) {
			err = strconv.ErrRange
		}
		whole := err == nil && !strings.ContainsAny(value, ".eExXpP_")
		if whole && slices.Contains(f.AllowedIntValues, value) {
			return "", ""
		}
		if err != nil || f.Type == "INTEGER" && !whole || beyond(f.MinValue, n, -1) || beyond(f.MaxValue, n, 1) ||
			f.MinValue == "" && f.MaxValue == "" && len(f.AllowedIntValues) > 0 {
			return f.numbers(), ""
		}
	case "STRING":
		if len(f.AllowedStringValues) > 0 && !slices.Contains(f.AllowedStringValues, value) {
			return words(f.AllowedStringValues)
		}
	case "REPEATED_STRING":
		for _, word := range strings.Split(value, ",") {
			word = strings.TrimPrefix(strings.TrimSpace(word), "-")
			if len(f.AllowedStringValues) > 0 && !slices.Contains(f.AllowedStringValues, strings.ToLower(word)) {
				return "a list of " + listed(f.AllowedStringValues) + ", separated by commas", ""
			}
		}
	case "NONE":
		if value != "" {
			return "no value", ""
		}
	}
	return "", ""
}

// beyond says whether n lies on the far side of a limit: below it for side -1, above it for side 1.
func beyond(limit string, n float64, side float64) bool {
	l, err := strconv.ParseFloat(limit, 64)
	return err == nil && (n-l)*side > 0
}

// numbers says which numbers the flag takes.
func (f flag) numbers() string {
	var parts []string
	what := "a whole number"
	if f.Type == "FLOAT" {
		what = "a number"
	}
	switch {
	case f.MinValue != "" && f.MaxValue != "":
		parts = append(parts, what+" from "+f.MinValue+" to "+f.MaxValue)
	case f.MinValue != "":
		parts = append(parts, what+" from "+f.MinValue)
	case f.MaxValue != "":
		parts = append(parts, what+" up to "+f.MaxValue)
	case len(f.AllowedIntValues) == 0:
		return what
	}
	return listed(append(parts, f.AllowedIntValues...))
}

func listed(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
