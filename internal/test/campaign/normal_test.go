//go:build linux

package campaign

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud"
)

// accusations are sentences of difyup's that nothing in a campaign justifies: there is one run at a time, nobody else, and no bug
// that is known. TestAccusations holds them against the source.
var accusations = []string{
	// of the lock
	"Another run holds the lock", "The lock cannot be read", "the lock cannot be read", "The lock was written by a newer difyup", "the lock was written by a newer difyup", "a lock that cannot be read", "the lock was lost", "was written by another run", "The lock must have been broken",
	// of the state
	"The state was changed by another run", "The state is another stack's", "The state contradicts itself", "The state cannot be read", "The state has an unknown format",
	"The state was written by a newer difyup", "The state's bucket is in another project", "The state's bucket does not bear the stack's mark",
	"the state could not be read", "the state is lost", "it is not what difyup writes", "is not what difyup writes",
	"Somebody copied it here", "Somebody else wrote it", "it was made by a newer difyup", "The state is incomplete",
	// of what is in the cloud
	"A name is taken", "exists in another project", "does not bear the mark of the stack", "do not bear the mark of the stack", "it does not bear the stack's mark",
	"Not everything was deleted", "Something of the stack is left", "A resource disappeared", "Somebody deleted", "Data of the stack are gone", "The cloud has changed",
	"A secret got another version than planned", "somebody else added meanwhile", "A resource from an interrupted run cannot be updated", "somebody took them away",
	"could not be seen, because they are not enabled",
	// of itself
	"This is a bug",
}

// crashes is what the language says of a bug.
var crashes = []string{"panic:", "goroutine ", "nil pointer", "runtime error"}

// accusing is what a sentence has that accuses somebody, and innocent are those of difyup's that have it and accuse nobody.
var (
	accusing = regexp.MustCompile(`(?i)somebody |another (run|stack|project)|not bear|newer difyup|not what difyup writes|is a bug`)
	innocent = []string{"take over the lock of another run", "of a resource that somebody deleted", "in another stack."}
)

// accusation gives the first of these sentences in a text, "" for none.
func accusation(text string) string {
	for _, words := range slices.Concat(accusations, crashes) {
		if strings.Contains(text, words) {
			return words
		}
	}
	return ""
}

// moving are the fields that are random, a clock's, or count how often something was written.
var moving = []string{
	"id", "uniqueId", "etag", "fingerprint", "labelFingerprint", "creationTimestamp", "createTime", "updateTime", "timeCreated", "updated", "timeStorageClassUpdated",
	"insertTime", "startTime", "endTime", "deleteTime", "expireTime", "timeDeleted", "generation", "metageneration", "mediaLink", "crc32c", "md5Hash", "size",
	"settingsVersion", "selfLinkWithId", "certificate", "oauth2ClientId", "payloadSha256", "lastStartTimestamp", "lastStopTimestamp", "serverCaCert", "serverCaCerts",
	"hardDeleteTime", "softDeleteTime", "natIP", "projectNumber", "destroyTime", "peer", "sourceContentSha256", "effectiveTime",
}

var (
	instanceName = regexp.MustCompile(`demo-vm-[0-9a-z]{4}\b`)
	address      = regexp.MustCompile(`\b127\.\d+\.\d+\.\d+\b`)
	instant      = regexp.MustCompile(`\b20\d\d-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)`)
)

// passing says whether a collection tells of what was, which a longer story has more of.
func passing(name string) bool { return name == "dns.changes" || name == "serviceAccounts.deleted" }

// dump gives the whole cloud as text, a line for each resource, without what differs between two undisturbed lives.
func (s *stack) dump() (string, error) {
	i, err := localcloud.Find(s.t.Context(), s.dir)
	if err != nil {
		return "", err
	}
	d, err := i.Dump(s.t.Context())
	if err != nil {
		return "", err
	}
	return normal(d)
}

func normal(d localcloud.Dump) (string, error) {
	var lines []string
	var failed error
	line := func(what string, body any) {
		raw, err := json.MarshalIndent(still(body), "  ", " ")
		failed = errors.Join(failed, err)
		text := instanceName.ReplaceAllString(what+" "+string(raw), "demo-vm-0000")
		text = address.ReplaceAllString(text, "127.0.0.0")
		lines = append(lines, instant.ReplaceAllString(text, "2000-01-01T00:00:00Z"))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Collections)) {
		if passing(name) {
			continue
		}
		for _, key := range slices.Sorted(maps.Keys(d.Collections[name])) {
			line(name+" "+key, d.Collections[name][key])
		}
	}
	for _, key := range slices.Sorted(maps.Keys(d.Secrets)) {
		for i, version := range d.Secrets[key] {
			line(fmt.Sprintf("secret version %s/%d", key, i+1), version)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(d.Objects)) {
		versions := d.Objects[key]
		if strings.HasSuffix(key, "/state.json") || strings.HasSuffix(key, "/lock.json") {
			versions = versions[len(versions)-1:] // each run writes them, and a killed one leaves its lock behind
		}
		for i, version := range versions {
			version["live"] = version["timeDeleted"] == nil
			line(fmt.Sprintf("object %s, version %d", key, i+1), version)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n"), failed
}

// difference shows the resources in which two dumps differ, "" for none.
func difference(want, got string) string {
	if want == got {
		return ""
	}
	parts := func(text string) []string { return resource.Split(text, -1) }
	return cmp.Diff(parts(want), parts(got))
}

// resource is where the next resource begins: what belongs to one is indented.
var resource = regexp.MustCompile(`(?m)\n\b`)

// still gives a value without what moves.
func still(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			if !slices.Contains(moving, k) {
				out[k] = still(e)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = still(e)
		}
		return out
	}
	return v
}

// TestNormal checks what makes a difference between two clouds, and what does not.
func TestNormal(t *testing.T) {
	text := func(version, object, policy, instance string) string {
		var d localcloud.Dump
		raw := fmt.Sprintf(`{
			"collections": {
				"iamPolicies": {"projects/1": {"etag": "x", "bindings": [{"role": "r", "members": [%q]}]}},
				"instances": {"projects/p/zones/z/instances/%[2]s": {"name": %[2]q, "networkInterfaces": [{"networkIP": "127.64.7.9"}]}},
				"dns.changes": {%[2]q: {}}
			},
			"secrets": {"projects/1/secrets/s": [{"name": "1", "state": "ENABLED", "payloadSha256": %[2]q}%s]},
			"objects": {"b/o": [{"name": "o", "generation": "17"}%s], "b/state.json": [{"name": "state.json", "timeDeleted": "x"}, {"name": "state.json"}]}
		}`, policy, instance, version, object)
		if err := json.Unmarshal([]byte(raw), &d); err != nil {
			t.Fatal(err)
		}
		text, err := normal(d)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first := text("", "", "user:a", "demo-vm-ab12")
	if again := text("", "", "user:a", "demo-vm-cd34"); again != first {
		t.Errorf("instances with other names are other clouds:\n%s\n%s", first, again)
	}
	for what, other := range map[string]string{
		"a second version of a secret":  text(`, {"name": "2", "state": "ENABLED"}`, "", "user:a", "demo-vm-ab12"),
		"a second version of an object": text("", `, {"name": "o", "generation": "18"}`, "user:a", "demo-vm-ab12"),
		"another policy":                text("", "", "user:b", "demo-vm-ab12"),
	} {
		if other == first {
			t.Errorf("%s makes no difference", what)
		}
	}
}

func TestAccusation(t *testing.T) {
	if got := accusation("Error: Another run holds the lock\n"); got != "Another run holds the lock" {
		t.Errorf("got %q", got)
	}
	if got := accusation("✓ created compute.networks/demo-net\n"); got != "" {
		t.Errorf("got %q", got)
	}
}

// TestAccusations checks that what is looked for is what difyup says, word for word, and that it says nothing of the kind that is not
// looked for.
func TestAccusations(t *testing.T) {
	var said []string
	for _, dir := range []string{"apply", "cli", "diff", "gcp", "kind", "ops", "plan", "resource", "state", "topology"} {
		said = append(said, literals(t, filepath.Join("../..", dir))...)
	}
	for _, words := range slices.Concat(accusations, innocent) {
		if !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, words) }) {
			t.Errorf("difyup does not say %q", words)
		}
	}
	for _, s := range said {
		if accusing.MatchString(s) && accusation(s) == "" && !slices.ContainsFunc(innocent, func(words string) bool { return strings.Contains(s, words) }) {
			t.Errorf("%q is neither looked for nor innocent", s)
		}
	}
}

// literals gives the texts in the programs below a directory, tests apart.
func literals(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				text, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Errorf("%s: %v", path, err)
				}
				all = append(all, text)
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
