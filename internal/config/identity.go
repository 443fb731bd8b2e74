package config

import (
	"context"
	"os"
	"regexp"
)

// Identity is what names a stack: enough to find its state.
type Identity struct {
	Stack   string
	Project string
	Region  string // "" where it is not known: then no state can be made, only found
}

// Identity gives what names the stack.
func (s *Spec) Identity() Identity {
	return Identity{Stack: s.Stack, Project: s.Project, Region: s.Region}
}

// named finds an option that stands at the beginning of a line, as those of the file itself do.
var named = regexp.MustCompile(`^(stack|project|region):[ \t]+(?:([a-z0-9-]+)|"([a-z0-9-]+)"|'([a-z0-9-]+)')[ \t]*(?:#.*)?$`)

// Identify reads from a file that Load refuses what names the stack, so that it can be deleted all the same. It says
// whether stack and project are there once each and well; the rest of the file may be anything. A pipe cannot be read twice.
func Identify(ctx context.Context, path string) (Identity, bool) {
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return Identity{}, false
	}
	data, err := readFile(ctx, path)
	if err != nil {
		return Identity{}, false
	}
	r, spec := parse(path, data)
	found := map[string][]string{}
	for _, line := range r.lines {
		if m := named.FindStringSubmatch(line); m != nil {
			found[m[1]] = append(found[m[1]], m[2]+m[3]+m[4])
		}
	}
	get := func(option, read string) string {
		switch lines := found[option]; {
		case len(lines) > 1 || r.aliased: // which of them is meant?
			return ""
		case spec.Has(option) && r.ok(option):
			return read
		case !spec.Has(option) && len(lines) == 1 && shapes()[option].Fits(lines[0]): // the file is not even YAML
			return lines[0]
		}
		return ""
	}
	id := Identity{Stack: get("stack", spec.Stack), Project: get("project", spec.Project), Region: get("region", spec.Region)}
	return id, id.Stack != "" && id.Project != ""
}
