package build

import (
	"runtime"
	"runtime/debug"
	"strings"
)

// Info describes a binary.
type Info struct {
	Version  string `json:"version"`            // "v0.3.0", or "devel"
	Commit   string `json:"commit,omitempty"`   // full hash
	Date     string `json:"date,omitempty"`     // of the commit, RFC 3339
	Modified bool   `json:"modified,omitempty"` // the tree had changes that were not committed
	Go       string `json:"go"`
	Platform string `json:"platform"` // "linux/amd64"
}

// Current describes the running binary.
func Current() Info {
	i := Info{Version: "devel", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return i
	}
	if v := b.Main.Version; v != "" && v != "(devel)" {
		i.Version = v
	}
	for _, s := range b.Settings {
		switch s.Key {
		case "vcs.revision":
			i.Commit = s.Value
		case "vcs.time":
			i.Date = s.Value
		case "vcs.modified":
			i.Modified = s.Value == "true"
		}
	}
	return i
}

// String gives the version in one line: "difyup devel 1a2b3c4 (linux/amd64, go1.26)".
func (i Info) String() string {
	parts := []string{"difyup", i.Version}
	if i.Commit != "" && !strings.Contains(i.Version, i.Commit[:min(7, len(i.Commit))]) {
		parts = append(parts, i.Commit[:min(7, len(i.Commit))])
	}
	return strings.Join(append(parts, "("+i.Platform+", "+i.Go+")"), " ")
}
