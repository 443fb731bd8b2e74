package dify

import (
	"fmt"
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/fault"
)

// Release is one Dify version with the tags of the parts that were published with it, and what to know before running it.
type Release struct {
	Version      string `json:"version"`       // of api, worker, web
	PluginDaemon string `json:"plugin_daemon"` // tag without "-local"
	Sandbox      string `json:"sandbox"`
	// Schema is the revision at which its migrations end (alembic_version); "" = not known, to be asked of the image.
	Schema string   `json:"schema,omitempty"`
	Notes  []string `json:"notes,omitempty"` // what to know before, or what to do by hand: a sentence each
}

// Releases gives the releases whose parts are known, oldest first. Releases before 1.14.2 carry a plugin daemon that
// needs a service account's key to reach Cloud Storage; this project hands out none, so they are left out. 1.14.0 and
// 1.14.1 are left out because the tags that belong to them were not found.
func Releases() []Release {
	return []Release{
		{Version: "1.14.2", PluginDaemon: "0.6.1", Sandbox: "0.2.15", Schema: "9f4b7c2d1a80"},
		{Version: "1.15.0", PluginDaemon: "0.6.3", Sandbox: "0.2.15", Notes: []string{
			agents,
			"Plugins that upgrade by themselves may need `flask backfill-plugin-auto-upgrade` once afterwards, in the API's container: a fork's guide calls it required.",
		}},
		{Version: "1.16.0", PluginDaemon: "0.6.3", Sandbox: "0.2.15", Schema: "7a1c2d9e4b60", Notes: []string{agents}},
		{Version: "1.16.1", PluginDaemon: "0.6.8", Sandbox: "0.2.15", Notes: []string{agents}},
		{Version: "1.17.0", PluginDaemon: "0.6.10", Sandbox: "0.2.15", Notes: []string{agents}},
		{Version: "1.17.1", PluginDaemon: "0.6.10", Sandbox: "0.2.15", Schema: "c3f1a9b2e6d4", Notes: []string{
			agents,
			"Its migration drops tables and builds an index without a transaction: make a backup first; there is no way back by a downgrade.",
		}},
	}
}

const agents = "Its agent services are left out: whether they work on several machines is not established."

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
	if Older(version, all[0].Version) {
		f.Detail = fmt.Sprintf("Dify %s carries a plugin daemon that reaches Cloud Storage with a service account's key only; difyup hands out no keys.", version)
	}
	return Release{}, f
}

// Older says whether version a is before b. What is no version is older than none.
func Older(a, b string) bool {
	var x, y [3]int
	if n, _ := fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2]); n < 2 {
		return false
	}
	fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2])
	return slices.Compare(x[:], y[:]) < 0
}
