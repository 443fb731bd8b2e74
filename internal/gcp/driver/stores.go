package driver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/resource"
)

// sqlInstance clears the deletion protection before it deletes: whoever plans a deletion has made sure that it was
// asked for by name. A disk that Cloud SQL has enlarged counts as having the wanted size, which is the smallest; it
// could not be made smaller. Its flags are checked against Cloud SQL's list before they are sent.
type sqlInstance struct {
	gcp.REST
	flags *flagLists
}

var _ gcp.Checker = (*sqlInstance)(nil)

func (d *sqlInstance) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	live, err := d.REST.Read(ctx, r)
	return grown(r, live), err
}

func (d *sqlInstance) Pick(r *resource.Resource, items []map[string]any) map[string]any {
	return grown(r, d.REST.Pick(r, items))
}

func grown(r *resource.Resource, live map[string]any) map[string]any {
	const size = "settings.dataDiskSizeGb"
	want, _ := resource.Lookup(r.Body, size)
	have, _ := resource.Lookup(live, size)
	w, err1 := strconv.ParseInt(fmt.Sprint(want), 10, 64)
	h, err2 := strconv.ParseInt(fmt.Sprint(have), 10, 64)
	if err1 == nil && err2 == nil && h > w {
		live["settings"].(map[string]any)["dataDiskSizeGb"] = want
	}
	return live
}

func (d *sqlInstance) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	if err := d.refusals(ctx, r, nil); err != nil {
		return err
	}
	return d.REST.Create(ctx, r, body)
}

func (d *sqlInstance) Update(ctx context.Context, r *resource.Resource, body, live map[string]any, changed []resource.Path) error {
	if err := d.refusals(ctx, r, changed); err != nil {
		return err
	}
	for _, c := range sqlCalls(body, changed) {
		if err := d.REST.Update(ctx, r, c.body, live, c.changed); err != nil {
			return err
		}
	}
	return nil
}

// sqlCall is a part of an update.
type sqlCall struct {
	body    map[string]any
	changed []resource.Path
}

// sqlCalls splits an update into what Cloud SQL takes at once: one that is stopped is started before anything else, a new version of
// PostgreSQL goes alone, and so does an edition with the tier that it needs. The size of the disk is sent when it changes only, since the wanted one may be less than what it has grown to.
func sqlCalls(body map[string]any, changed []resource.Path) []sqlCall {
	const policy, version, edition, tier, size = "settings.activationPolicy", "databaseVersion", "settings.edition", "settings.tier", "settings.dataDiskSizeGb"
	rest := sqlCall{body: resource.Clone(body)}
	settings, _ := rest.body["settings"].(map[string]any)
	has := func(p resource.Path) bool { return slices.Contains(changed, p) }
	moves, starts := has(edition), has(policy) && settings["activationPolicy"] == "ALWAYS"
	for _, p := range changed {
		if p != version && (!starts || p != policy) && (!moves || p != edition && p != tier) {
			rest.changed = append(rest.changed, p)
		}
	}
	if !has(size) {
		delete(settings, "dataDiskSizeGb")
	}
	var calls []sqlCall
	if starts {
		calls = append(calls, sqlCall{body: map[string]any{"settings": map[string]any{"activationPolicy": "ALWAYS"}}, changed: []resource.Path{policy}})
		delete(settings, "activationPolicy")
	}
	if has(version) {
		calls = append(calls, sqlCall{body: body, changed: []resource.Path{version}})
	}
	up := true
	if moves {
		up = settings["edition"] == "ENTERPRISE_PLUS"
		calls = append(calls, sqlCall{body: map[string]any{"settings": map[string]any{"edition": settings["edition"], "tier": settings["tier"]}}, changed: []resource.Path{edition}})
		delete(settings, "edition")
		delete(settings, "tier")
	}
	switch {
	case len(rest.changed) == 0:
	case up: // the larger edition allows what comes with it, as longer logs
		calls = append(calls, rest)
	default: // and the smaller one only what came before it
		calls = slices.Insert(calls, len(calls)-1, rest)
	}
	return calls
}

func (d *sqlInstance) Delete(ctx context.Context, r *resource.Resource) error {
	live, err := d.REST.Read(ctx, r)
	if err != nil || live == nil {
		return err
	}
	if on, _ := resource.Lookup(live, "settings.deletionProtectionEnabled"); on == true {
		// One whose creation failed may refuse to be changed, for good, and let itself be deleted.
		failed := live["state"] == "FAILED"
		_, err := d.Mutate(ctx, gcp.Call{
			API: r.Kind.API, Method: http.MethodPatch, Path: r.Link(), For: r.ID(), Once: failed,
			Body: map[string]any{"settings": map[string]any{"deletionProtectionEnabled": false}},
		})
		if err != nil && !failed {
			return err
		}
	}
	return d.REST.Delete(ctx, r)
}

// sqlUser is named by query parameters. Its password is sent and never read.
type sqlUser struct{ gcp.REST }

func (d *sqlUser) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	items, err := d.List(ctx, r.Kind, r.CollectionPath(), nil)
	if err != nil {
		return nil, err
	}
	return d.Pick(r, items), nil
}

func (d *sqlUser) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	// Inserting a user that exists sets its password, so that a repetition is harmless.
	_, err := d.Mutate(ctx, gcp.Call{API: r.Kind.API, Method: http.MethodPost, Path: r.CollectionPath(), Body: body, For: r.ID()})
	if gcp.Exists(r.Kind.API, err) {
		return d.Update(ctx, r, body, nil, nil)
	}
	return err
}

func (d *sqlUser) Update(ctx context.Context, r *resource.Resource, body, _ map[string]any, _ []resource.Path) error {
	_, err := d.Mutate(ctx, gcp.Call{API: r.Kind.API, Method: http.MethodPut, Path: r.CollectionPath(), Query: url.Values{"name": {r.Leaf()}}, Body: body, For: r.ID()})
	return err
}

func (d *sqlUser) Delete(ctx context.Context, r *resource.Resource) error {
	return d.DeleteAt(ctx, r, r.CollectionPath(), url.Values{"name": {r.Leaf()}})
}

// bucket is emptied, of all generations, before it is deleted.
type bucket struct{ gcp.REST }

// Read gives the bucket also when it is another project's and may not be read; then nothing but its name.
func (d *bucket) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	live, err := d.REST.Read(ctx, r)
	if !gcp.Is(err, 403) {
		return live, err
	}
	if err := lacks(ctx, d, r, url.Values{"project": {d.Project()}, "prefix": {r.Leaf()}}, err); err != nil {
		return nil, err // it is ours and we lack a permission, or whose it is cannot be seen
	}
	return map[string]any{"name": r.Leaf()}, nil
}

func (d *bucket) Delete(ctx context.Context, r *resource.Resource) error {
	for try := 0; ; try++ {
		if err := Empty(ctx, d.Client, r.Kind, r.Leaf()); err != nil {
			return err
		}
		err := d.REST.Delete(ctx, r)
		if !gcp.Is(err, 409) || try == 5 {
			return err
		}
		// Something was written meanwhile.
		if err := gcp.Sleep(ctx, gcp.Backoff(try, 50*time.Millisecond, 2*time.Second)); err != nil {
			return err
		}
	}
}

// Empty deletes every generation of every object of a bucket, the older ones first: who is cut off leaves no older one that could be
// taken for the last. k is any kind of the Storage API whose lists have items.
func Empty(ctx context.Context, c *gcp.Client, k *resource.Kind, name string) error {
	items, err := c.List(ctx, k, "b/"+name+"/o", url.Values{"versions": {"true"}, "fields": {"items(name,generation,timeDeleted),nextPageToken"}})
	if err != nil {
		return err
	}
	for _, live := range []bool{false, true} {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(16)
		for _, item := range items {
			if (item["timeDeleted"] == nil) != live {
				continue
			}
			g.Go(func() error {
				path := "b/" + name + "/o/" + url.PathEscape(fmt.Sprint(item["name"]))
				err := c.Do(ctx, gcp.Call{API: k.API, Method: http.MethodDelete, Path: path, Query: url.Values{"generation": {fmt.Sprint(item["generation"])}}})
				if gcp.Is(err, 404) {
					return nil
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// object is a file, of this machine or inside difyup, that must be in a bucket. Its metadata keeps the checksum.
type object struct{ gcp.REST }

func (d *object) name(r *resource.Resource) string {
	_, name, _ := strings.Cut(r.Name, "/") // the first part is the bucket
	return name
}

func (d *object) path(r *resource.Resource) string {
	return r.CollectionPath() + "/" + url.PathEscape(d.name(r))
}

func (d *object) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	var live map[string]any
	err := d.Do(ctx, gcp.Call{API: r.Kind.API, Method: http.MethodGet, Path: d.path(r), Out: &live, For: r.ID()})
	if live, err = gcp.Absent(live, err); err != nil || live == nil {
		return nil, err
	}
	sum, _ := resource.Lookup(live, "metadata.sha256")
	return map[string]any{"bucket": live["bucket"], "name": live["name"], "sha256": sum, "generation": live["generation"]}, nil
}

// Create uploads the file unless the object is there. Of a request that is sent twice the second finds the first one's
// generation, which is then compared.
func (d *object) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	return d.Update(ctx, r, body, nil, nil)
}

func (d *object) Update(ctx context.Context, r *resource.Resource, body, live map[string]any, _ []resource.Path) error {
	began := time.Now()
	for try, stale := 0, 0; ; try++ {
		generation := "0" // there is none
		if live != nil {
			if generation, _ = live["generation"].(string); generation == "" {
				return fmt.Errorf("upload to %s: it was read without its generation, and is not written blindly", r.ID())
			}
		}
		err := d.upload(ctx, r, body, generation)
		if gcp.Is(err, http.StatusNotFound) && time.Since(began) < seenWithin {
			wait := gcp.Backoff(try, 100*time.Millisecond, 5*time.Second)
			d.Notify(event.Retried, r.ID(), fmt.Sprintf("the bucket is not seen everywhere yet; again in %s", wait.Round(10*time.Millisecond)))
			if err := gcp.Sleep(ctx, wait); err != nil {
				return err
			}
			continue
		}
		if !gcp.Is(err, http.StatusPreconditionFailed) || stale == 5 {
			return err
		}
		stale++
		if live, err = d.Read(ctx, r); err != nil {
			return err
		}
		if live["sha256"] == body["sha256"] {
			return nil
		}
	}
}

// upload writes a new generation in the place of this one.
func (d *object) upload(ctx context.Context, r *resource.Resource, body map[string]any, generation string) error {
	source, _ := body["source"].(string)
	content, err := d.ReadFile(source)
	if err != nil {
		return fmt.Errorf("upload to %s: %w", r.ID(), err)
	}
	sum := sha256.Sum256(content)
	if got := hex.EncodeToString(sum[:]); got != body["sha256"] {
		return fmt.Errorf("upload to %s: %s changed since the plan was made; plan again", r.ID(), source)
	}
	var buf bytes.Buffer
	parts := multipart.NewWriter(&buf)
	meta, err := json.Marshal(map[string]any{"name": d.name(r), "contentType": "application/octet-stream", "metadata": map[string]any{"sha256": body["sha256"]}})
	if err != nil {
		return err
	}
	for _, part := range []struct {
		kind    string
		content []byte
	}{{"application/json", meta}, {"application/octet-stream", content}} {
		w, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {part.kind}})
		if err != nil {
			return err
		}
		if _, err := w.Write(part.content); err != nil {
			return err
		}
	}
	if err := parts.Close(); err != nil {
		return err
	}
	api := *r.Kind.API
	api.Base = "upload/" + api.Base
	return d.Do(ctx, gcp.Call{
		API: &api, Method: http.MethodPost, Path: r.CollectionPath(), Query: url.Values{"uploadType": {"multipart"}, "ifGenerationMatch": {generation}},
		Raw: buf.Bytes(), Type: "multipart/related; boundary=" + parts.Boundary(), For: r.ID(),
	})
}

func (d *object) Delete(ctx context.Context, r *resource.Resource) error {
	return d.DeleteAt(ctx, r, d.path(r), nil)
}

// recordSet is named by its domain name and type: "ZONE/db.demo.internal./A".
type recordSet struct{ gcp.REST }

func (d *recordSet) path(r *resource.Resource) string {
	_, rest, _ := strings.Cut(r.Name, "/")
	return r.CollectionPath() + "/" + rest
}

func (d *recordSet) Pick(r *resource.Resource, items []map[string]any) map[string]any {
	_, rest, _ := strings.Cut(r.Name, "/")
	for _, item := range items {
		if fmt.Sprint(item["name"], "/", item["type"]) == rest {
			return item
		}
	}
	return nil
}

func (d *recordSet) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	var live map[string]any
	err := d.Do(ctx, gcp.Call{API: r.Kind.API, Method: http.MethodGet, Path: d.path(r), Out: &live, For: r.ID()})
	return gcp.Absent(live, err)
}

func (d *recordSet) Update(ctx context.Context, r *resource.Resource, body, live map[string]any, changed []resource.Path) error {
	_, err := d.Mutate(ctx, gcp.Call{API: r.Kind.API, Method: http.MethodPatch, Path: d.path(r), Body: body, For: r.ID()})
	return err
}

func (d *recordSet) Delete(ctx context.Context, r *resource.Resource) error {
	return d.DeleteAt(ctx, r, d.path(r), nil)
}
