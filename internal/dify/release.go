package dify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/fault"
)

// Release is one Dify version with the tags of the parts that were published with it.
type Release struct {
	Version      string // of api, worker, web
	PluginDaemon string // tag without "-local"
	Sandbox      string
}

// Releases gives the releases whose parts are known, oldest first. Releases before 1.14.2 carry a plugin daemon that
// needs a service account's key to reach Cloud Storage; this project hands out none, so they are left out. 1.14.0 and
// 1.14.1 are left out because the tags that belong to them were not found.
func Releases() []Release {
	return []Release{
		{"1.14.2", "0.6.1", "0.2.15"},
		{"1.15.0", "0.6.3", "0.2.15"},
		{"1.16.0", "0.6.3", "0.2.15"},
		{"1.16.1", "0.6.8", "0.2.15"},
		{"1.17.0", "0.6.10", "0.2.15"},
		{"1.17.1", "0.6.10", "0.2.15"},
	}
}

// Default is the release a stack gets that names none.
const Default = "1.17.1"

// Lookup finds a release. The fault for an unknown one names those that are known.
func Lookup(version string) (Release, error) {
	all := Releases()
	if i := slices.IndexFunc(all, func(r Release) bool { return r.Version == version }); i >= 0 {
		return all[i], nil
	}
	var known []string
	for _, r := range all {
		known = append(known, r.Version)
	}
	f := &fault.Fault{
		Summary: "Unknown Dify release",
		Detail:  fmt.Sprintf("difyup does not know which images belong to Dify %s.", version),
		Remedy:  "Use one of: " + strings.Join(known, ", ") + ".",
	}
	if older(version, all[0].Version) {
		f.Detail = fmt.Sprintf("Dify %s carries a plugin daemon that reaches Cloud Storage with a service account's key only; difyup hands out no keys.", version)
	}
	return Release{}, f
}

func older(a, b string) bool {
	var x, y [3]int
	if n, _ := fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2]); n < 2 {
		return false
	}
	fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2])
	return slices.Compare(x[:], y[:]) < 0
}
