package dify

import (
	"fmt"
	"regexp"
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
	Schema string `json:"schema,omitempty"`
	// Like is the nearest release before it that is known, for one that is not; "" for one of Releases. What differs between
	// releases does so from one of Releases on, so that both are given the same.
	Like  string   `json:"like,omitempty"`
	Notes []string `json:"notes,omitempty"` // what to know before, or what to do by hand: a sentence each
}

// Releases gives the releases whose parts are known, oldest first. Releases before 1.14.2 carry a plugin daemon that
// needs a service account's key to reach Cloud Storage; this project hands out none, so they are left out. 1.14.0 and
// 1.14.1, whose daemon is 0.6.0, are left out in favour of 1.14.2. What is known of a release is read at the commit that sets its
// version, as was that of 1.14.2 to 1.16.0: the trees after it still call themselves so, with newer migrations.
func Releases() []Release {
	return []Release{
		{Version: "1.14.2", PluginDaemon: "0.6.1", Sandbox: "0.2.15", Schema: "a4f2d8c9b731"},
		{Version: "1.15.0", PluginDaemon: "0.6.3", Sandbox: "0.2.15", Schema: "d9e8f7a6b5c4", Notes: []string{
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

// Keyless is the first plugin daemon that reaches Cloud Storage as the instance, without a key.
const Keyless = "0.5.7"

// Lookup finds a release. The fault for an unknown one names those that are known.
func Lookup(version string) (Release, error) {
	all := Releases()
	if i := slices.IndexFunc(all, func(r Release) bool { return r.Version == version }); i >= 0 {
		return all[i], nil
	}
	return Release{}, unknown(version)
}

func unknown(version string) *fault.Fault {
	all := Releases()
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
	return f
}

// plain is a version that can be held against others.
var plain = regexp.MustCompile(`^[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}(-[0-9A-Za-z][-.0-9A-Za-z]{0,30})?$`)

// Choose finds the release that runs as a version with images of the user's in place of those that belong to it. One that Lookup
// does not know needs an image for each of Imaged; it is then like the nearest release before it. What the API's image migrates
// the databases to is not known when it is the user's.
func Choose(version string, images map[Name]string) (Release, error) {
	r, err := Lookup(version)
	if err == nil {
		if images[API] != "" {
			r.Schema = ""
		}
		return r, nil
	}
	all := Releases()
	var missing []string
	for _, n := range Imaged() {
		if images[n] == "" {
			missing = append(missing, string(n))
		}
	}
	switch {
	case Older(version, all[0].Version):
		f := unknown(version)
		if len(images) > 0 {
			f.Detail += " It was not made to run with a newer daemon, so that images do not help."
		}
		return Release{}, f
	case !plain.MatchString(version) && len(images) == 0:
		return Release{}, unknown(version)
	case !plain.MatchString(version):
		return Release{}, &fault.Fault{
			Summary: "Malformed Dify release",
			Detail:  fmt.Sprintf("%s cannot be told from older and newer releases, whatever its images are: a version has three numbers, and may have a suffix.", version),
			Remedy:  "Write it like this: " + Default + "-mine.1",
		}
	case len(missing) == len(Imaged()):
		f := unknown(version)
		f.Remedy += " Or name every image:\n    images:" + lines(version, missing)
		return Release{}, f
	case len(missing) > 0:
		return Release{}, &fault.Fault{
			Summary: "Images are missing",
			Detail:  fmt.Sprintf("difyup does not know which images belong to Dify %s, and `dify.images` has none for %s.", version, strings.Join(missing, ", ")),
			Remedy:  "Name them too:\n    images:" + lines(version, missing),
		}
	}
	like := all[0]
	for _, r := range all {
		if !Older(version, r.Version) {
			like = r
		}
	}
	return Release{Version: version, Like: like.Version}, nil
}

// lines shows how images are named.
func lines(version string, names []string) (text string) {
	tag := map[Name]string{API: version, Web: version, PluginDaemon: "VERSION-local", Sandbox: "VERSION", SSRFProxy: squid}
	for _, n := range names {
		text += "\n      " + n + ": " + tag[Name(n)]
	}
	return text
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
