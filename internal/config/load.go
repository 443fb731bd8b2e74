package config

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/fault"
)

// maxFaults is how many problems are told: with more, it is the wrong file.
const maxFaults = 100

// Load reads the stack described in the file at path. The error is a fault.List with all problems, in the order of
// their places, one fault if the file cannot be read, or that of ctx.
func Load(ctx context.Context, path string) (*Spec, error) {
	data, err := readFile(ctx, path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse reads the stack described by data. The name of the file is used in places only. Errors are as with Load.
func Parse(file string, data []byte) (*Spec, error) {
	if len(data) > maxSize {
		return nil, fault.List{tooLarge(file)}
	}
	r, spec := parse(file, data)
	if len(r.faults) > 0 {
		slices.SortStableFunc(r.faults, func(a, b *fault.Fault) int {
			if a.At.Line != b.At.Line {
				return a.At.Line - b.At.Line
			}
			return a.At.Column - b.At.Column
		})
		if more := len(r.faults) - maxFaults; more > 0 {
			r.faults = append(r.faults[:maxFaults:maxFaults], &fault.Fault{
				Summary: "More problems", At: fault.Position{File: file},
				Detail: fmt.Sprintf("These are the first %d problems; there are %d more.", maxFaults, more),
				Remedy: "Fix these first. Or did you mean another file? Name it with -f.",
			})
		}
		return nil, r.faults
	}
	return spec, nil
}

func parse(file string, data []byte) (*reader, *Spec) {
	r := &reader{file: file, lines: splitLines(data), places: map[string]fault.Position{}, bad: map[string]bool{}}
	spec := &Spec{file: file, places: r.places}
	if root := r.document(data); root != nil {
		r.root(root, spec)
		derive(spec)
		validate(r, spec)
	}
	return r, spec
}

// At says where the value at path is written, for instance "compute.zones[1]". For a value that is not written, it gives
// the nearest section above it, and at last the file.
func (s *Spec) At(path string) fault.Position {
	if p, ok := lookup(s.places, path); ok {
		return p
	}
	return fault.Position{File: s.file}
}

// Has says whether the value at path is written in the file.
func (s *Spec) Has(path string) bool {
	_, ok := s.places[path]
	return ok
}

func lookup(places map[string]fault.Position, path string) (fault.Position, bool) {
	for path != "" {
		if p, ok := places[path]; ok {
			return p, true
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return fault.Position{}, false
}

func splitLines(data []byte) []string {
	lines := strings.Split(string(bytes.TrimPrefix(data, []byte(byteOrderMark))), "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	return lines
}
