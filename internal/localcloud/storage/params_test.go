package storage_test

import (
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/localcloud/schema"
)

// moving is what differs from one call to the next whatever the parameters: generations, times, tokens.
var moving = regexp.MustCompile(`\d{16}|"(etag|timeCreated|timeDeleted|updated|timeStorageClassUpdated|effectiveTime|nextPageToken)": "[^"]*"`)

// TestParameters walks the parameters that Google's document gives each method the local cloud serves: each changes what
// happens (a probe shows it), cannot change anything (with the reason), or is refused.
func TestParameters(t *testing.T) {
	set, err := schema.Load()
	if err != nil {
		t.Fatal(err)
	}
	methods, err := set.Methods("storage")
	if err != nil {
		t.Fatal(err)
	}
	inert := map[string]string{
		"prettyPrint": "answers are always indented", "key": "tokens count", "oauth_token": "tokens count", "quotaUser": "no quotas", "userIp": "no quotas",
		"userProject": "nobody is billed", "projection": "there are no access lists", "returnPartialSuccess": "answers are whole", "includeFoldersAsPrefixes": "there are no managed folders",
	}
	// What each method is called with, and a path that shows what has come of it.
	calls := map[string]struct{ method, path, body, then string }{
		"buckets.delete":              {"DELETE", "/storage/v1/b/spare", "", "/storage/v1/b/spare"},
		"buckets.get":                 {"GET", "/storage/v1/b/files", "", ""},
		"buckets.getIamPolicy":        {"GET", "/storage/v1/b/files/iam", "", ""},
		"buckets.getStorageLayout":    {"GET", "/storage/v1/b/files/storageLayout", "", ""},
		"buckets.insert":              {"POST", "/storage/v1/b?project=demo", `{"name":"another"}`, "/storage/v1/b/another"},
		"buckets.list":                {"GET", "/storage/v1/b?project=demo", "", ""},
		"buckets.patch":               {"PATCH", "/storage/v1/b/files", `{"labels":{"a":"b"}}`, "/storage/v1/b/files"},
		"buckets.setIamPolicy":        {"PUT", "/storage/v1/b/files/iam", `{"bindings":[]}`, ""},
		"buckets.testIamPermissions":  {"GET", "/storage/v1/b/files/iam/testPermissions", "", ""},
		"buckets.update":              {"PUT", "/storage/v1/b/files", `{"labels":{"a":"b"}}`, "/storage/v1/b/files"},
		"objects.compose":             {"POST", "/storage/v1/b/files/o/whole/compose", `{"sourceObjects":[{"name":"dir/a"},{"name":"top"}]}`, "/storage/v1/b/files/o/whole"},
		"objects.copy":                {"POST", "/storage/v1/b/files/o/top/copyTo/b/files/o/copy", "", "/storage/v1/b/files/o/copy"},
		"objects.delete":              {"DELETE", "/storage/v1/b/files/o/top", "", "/storage/v1/b/files/o?versions=true"},
		"objects.get":                 {"GET", "/storage/v1/b/files/o/top", "", ""},
		"objects.insert":              {"POST", "/upload/storage/v1/b/files/o?name=new", "contents", "/storage/v1/b/files/o"},
		"objects.list":                {"GET", "/storage/v1/b/files/o", "", ""},
		"objects.patch":               {"PATCH", "/storage/v1/b/files/o/top", `{"metadata":{"a":"b"}}`, "/storage/v1/b/files/o?versions=true"},
		"objects.rewrite":             {"POST", "/storage/v1/b/files/o/top/rewriteTo/b/files/o/copy", "", "/storage/v1/b/files/o/copy"},
		"objects.update":              {"PUT", "/storage/v1/b/files/o/top", `{"metadata":{"a":"b"}}`, "/storage/v1/b/files/o?versions=true"},
		"projects.serviceAccount.get": {"GET", "/storage/v1/projects/demo/serviceAccount", "", ""},
	}
	// values are tried for a parameter; at least one must change the answer or what has come of it.
	values := func(c *cloud, id, name string) []string {
		switch {
		case strings.HasPrefix(name, "if"):
			return []string{"0", "1", "2", "7", c.generation("top", true), c.generation("top", false)}
		case name == "generation" && strings.HasPrefix(id, "buckets."):
			return []string{"7"}
		case name == "generation", name == "sourceGeneration":
			return []string{c.generation("top", false)}
		}
		return map[string][]string{
			"alt": {"media"}, "fields": {"kind"}, "uploadType": {"resumable"}, "project": {"other"}, "prefix": {"di", "spa"}, "maxResults": {"1"},
			"pageToken": {c.next("/storage/v1/b/files/o?maxResults=1"), c.next("/storage/v1/b?project=demo&maxResults=1")}, "optionsRequestedPolicyVersion": {"3", "1"},
			"permissions": {"storage.buckets.get"}, "name": {"other"}, "contentEncoding": {"gzip"}, "delimiter": {"/"}, "includeTrailingDelimiter": {"true"},
			"startOffset": {"e"}, "endOffset": {"e"}, "matchGlob": {"dir/*"}, "versions": {"true"}, "maxBytesRewrittenPerCall": {"1048576"}, "rewriteToken": {"x"},
		}[name]
	}
	outcome := func(c *cloud, id, name, value string) (string, int) {
		call := calls[id]
		path, query, _ := strings.Cut(call.path, "?")
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if name == "includeTrailingDelimiter" {
			q.Set("delimiter", "/")
		}
		if value != "" {
			q.Set(name, value)
		}
		a := c.do(call.method, path+"?"+q.Encode(), call.body)
		all := fmt.Sprint(a.code, a.header.Get("Location") != "", a.body)
		if call.then != "" {
			all += c.do("GET", call.then, "").body
		}
		return moving.ReplaceAllString(all, "N"), a.code
	}
	served := 0
	shared := newCloud(t)
	for _, m := range methods {
		id := strings.TrimPrefix(m.ID, "storage.")
		if _, ok := calls[id]; !ok {
			if a := shared.do(m.HTTPMethod, strings.NewReplacer("{bucket}", "files", "{sourceBucket}", "files", "{object}", "top").Replace(m.Path), ""); a.code != 400 || !strings.Contains(a.body, "does not implement") {
				t.Errorf("%s is served and not probed: %d %s", m.ID, a.code, a.body)
			}
			continue
		}
		served++
		c := shared
		c.fill()
		fresh := func() *cloud {
			if m.HTTPMethod != "GET" {
				c.fill()
			}
			return c
		}
		without, code := outcome(fresh(), id, "", "")
		if code/100 != 2 {
			t.Fatalf("%s alone: %d", m.ID, code)
		}
		for _, name := range slices.Sorted(maps.Keys(m.Query)) {
			if _, ok := inert[name]; ok || name == "uploadType" && id != "objects.insert" || name == "fields" && m.HTTPMethod == "DELETE" {
				value := "true"
				if e := m.Query[name].Enum; len(e) > 0 {
					value = e[0]
				}
				if with, _ := outcome(fresh(), id, name, value); with != without {
					t.Errorf("%s: %s changes something", m.ID, name)
				}
				continue
			}
			changed := false
			for i, tried := 0, []string{""}; i < len(tried) && !changed; i++ {
				of := fresh()
				tried = append(values(of, id, name), "true") // generations change with each
				with, _ := outcome(of, id, name, tried[i])
				changed = with != without
			}
			if !changed {
				t.Errorf("%s: %s is passed over", m.ID, name)
			}
		}
	}
	if served != len(calls) {
		t.Errorf("%d of %d methods are in Google's document", served, len(calls))
	}
}

// fill has the cloud hold nothing but a bucket with objects in several versions, and a second bucket.
func (c *cloud) fill() {
	c.t.Helper()
	buckets, _ := c.do("GET", "/storage/v1/b?project=demo", "").json(c.t)["items"].([]any)
	others, _ := c.do("GET", "/storage/v1/b?project=other", "").json(c.t)["items"].([]any) // none if there are none
	for _, b := range append(buckets, others...) {
		path := "/storage/v1/b/" + b.(map[string]any)["name"].(string)
		objects, _ := c.do("GET", path+"/o?versions=true", "").json(c.t)["items"].([]any) // none if there are none
		for _, o := range objects {
			o := o.(map[string]any)
			c.want(c.do("DELETE", path+"/o/"+url.PathEscape(o["name"].(string))+"?generation="+o["generation"].(string), ""), 204)
		}
		c.want(c.do("DELETE", path, ""), 204)
	}
	c.want(c.do("POST", "/storage/v1/b?project=demo", `{"name":"files"}`), 200)
	c.want(c.do("POST", "/storage/v1/b?project=demo", `{"name":"spare"}`), 200)
	c.want(c.do("PATCH", "/storage/v1/b/files", `{"versioning":{"enabled":true}}`), 200)
	c.want(c.do("PUT", "/storage/v1/b/files/iam", `{"bindings":[{"role":"roles/storage.objectViewer","members":["user:a@example.com"],"condition":{"title":"t","expression":"true"}}],"version":3}`), 200)
	for _, name := range []string{"dir/", "dir/a", "dir/sub/b", "top", "top"} {
		contents := "contents of " + name
		c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name="+url.QueryEscape(name), contents), 200)
	}
	c.want(c.do("POST", "/upload/storage/v1/b/files/o?uploadType=media&name=top", strings.Repeat("y", 1<<20+1)), 200)
}

// generation gives the newest generation of an object, or its oldest.
func (c *cloud) generation(name string, newest bool) string {
	c.t.Helper()
	items := c.want(c.do("GET", "/storage/v1/b/files/o?versions=true&prefix="+name, ""), 200).json(c.t)["items"].([]any)
	if newest {
		return items[len(items)-1].(map[string]any)["generation"].(string)
	}
	return items[0].(map[string]any)["generation"].(string)
}

// next gives the page token behind a list.
func (c *cloud) next(path string) string {
	c.t.Helper()
	return c.want(c.do("GET", path, ""), 200).json(c.t)["nextPageToken"].(string)
}
