package smoke

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/fault"
)

// document is what is uploaded: lines that differ, one of which has a word that is nowhere else.
func (s *session) document() string {
	return strings.Join([]string{
		"This file was made by difyup smoke, and can be deleted.",
		"The lighthouse keeper called " + s.word + " watches ships in the harbour at night.",
		"Bakers knead dough before dawn and sell warm bread at the market.",
		"A glacier moves slowly through the valley and leaves stones behind.",
	}, "\n") + "\n"
}

func (s *session) name(of string) string { return "difyup smoke " + of + s.nonce }

// send uploads the document. Facts: step 10.
func (s *session) send(ctx context.Context) (id, by string, err error) {
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	header := textproto.MIMEHeader{}
	header.Set("Content-Disposition", fmt.Sprintf(`form-data; name="file"; filename="difyup-smoke-%s.txt"`, s.nonce))
	header.Set("Content-Type", "text/plain")
	part, err := w.CreatePart(header)
	if err == nil {
		_, err = part.Write([]byte(s.document()))
	}
	if err = errors.Join(err, w.WriteField("source", "datasets"), w.Close()); err != nil {
		return "", "", err
	}
	r, err := s.client.send(ctx, http.MethodPost, "/console/api/files/upload", w.FormDataContentType(), form.Bytes())
	if err != nil {
		return "", "", err
	}
	var file struct {
		ID   string
		Size int
	}
	if err := r.read(&file, http.StatusCreated, http.StatusOK); err != nil {
		return "", "", err
	}
	if file.ID == "" || file.Size != len(s.document()) {
		return "", "", fmt.Errorf("%s with the ID %q and %d bytes, of %d that were sent", r.says(), plain(file.ID), file.Size, len(s.document()))
	}
	s.loose[file.ID] = true
	return file.ID, r.instance, nil
}

func upload(ctx context.Context, s *session) (detail string, err error) {
	var by string
	if s.file, by, err = s.send(ctx); err != nil {
		return "", err
	}
	detail = fmt.Sprintf("%d bytes", len(s.document()))
	if by != "" {
		detail += " through " + by
	}
	return detail, nil
}

// preview reads the file through every instance. Facts: step 14.
func preview(ctx context.Context, s *session) (string, error) {
	return s.everywhere(ctx, func(ctx context.Context) (*reply, error) {
		return s.client.ask(ctx, http.MethodGet, "/console/api/files/"+url.PathEscape(s.file)+"/preview", nil)
	}, func(r *reply) error {
		var file struct{ Content string }
		if err := r.read(&file, http.StatusOK); err != nil {
			return err
		}
		if !strings.Contains(file.Content, s.word) {
			return fmt.Errorf("%s, and not with what was uploaded", r.says())
		}
		return nil
	})
}

// newDataset makes a data set and has it removed at the end. Facts: steps 9 and 20.
func (s *session) newDataset(ctx context.Context, name string, more map[string]any) (string, error) {
	body := map[string]any{"name": name, "description": "made by difyup smoke, can be deleted", "permission": "only_me"}
	for k, v := range more {
		body[k] = v
	}
	var made struct{ ID string }
	s.later("the data set", func(ctx context.Context) error { return s.unmake(ctx, "datasets", made.ID, name) })
	r, err := s.client.ask(ctx, http.MethodPost, "/console/api/datasets", body)
	if err != nil {
		return "", err
	}
	if err := r.read(&made, http.StatusCreated, http.StatusOK); err != nil {
		return "", err
	}
	if made.ID == "" {
		return "", fmt.Errorf("%s without an ID", r.says())
	}
	return made.ID, nil
}

// errNotMade says that what was to be removed was not there.
var errNotMade = errors.New("was not made")

// unmake removes what was made, or may have been: when no answer came, or a failure, it may be there all the same. Then only its name
// is known, which is nobody else's.
func (s *session) unmake(ctx context.Context, collection, id, name string) error {
	if id != "" {
		return s.remove("/console/api/" + collection + "/" + url.PathEscape(id))(ctx)
	}
	r, err := s.client.ask(ctx, http.MethodGet, "/console/api/"+collection+"?page=1&limit=20&name="+url.QueryEscape(name)+"&keyword="+url.QueryEscape(name), nil)
	if err != nil {
		return err
	}
	var list struct{ Data []struct{ ID, Name string } }
	if err := r.read(&list, http.StatusOK); err != nil {
		return err
	}
	err = errNotMade
	for _, item := range list.Data {
		if item.Name == name {
			if err = s.remove("/console/api/" + collection + "/" + url.PathEscape(item.ID))(ctx); err != nil {
				return err
			}
		}
	}
	return err
}

func createDataset(ctx context.Context, s *session) (detail string, err error) {
	name := s.name("")
	if s.dataset, err = s.newDataset(ctx, name, map[string]any{"indexing_technique": "economy"}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%q", name), nil
}

// addDocument has a file indexed, and waits for it. Facts: steps 11 and 12.
func (s *session) addDocument(ctx context.Context, dataset, file string, more map[string]any) (string, error) {
	body := map[string]any{
		"data_source": map[string]any{"info_list": map[string]any{
			"data_source_type": "upload_file", "file_info_list": map[string]any{"file_ids": []string{file}},
		}},
		"process_rule": map[string]any{"mode": "automatic"}, "doc_form": "text_model", "doc_language": "English", "duplicate": false,
	}
	for k, v := range more {
		body[k] = v
	}
	path := "/console/api/datasets/" + url.PathEscape(dataset)
	r, err := s.client.ask(ctx, http.MethodPost, path+"/documents", body)
	if err != nil {
		return "", err
	}
	var made struct{ Batch string }
	if err := r.read(&made, http.StatusOK, http.StatusCreated); err != nil {
		return "", err
	}
	if made.Batch == "" {
		return "", fmt.Errorf("%s without a batch", r.says())
	}
	delete(s.loose, file)
	began := time.Now()
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		if r, err = s.client.ask(ctx, http.MethodGet, path+"/batch/"+url.PathEscape(made.Batch)+"/indexing-status", nil); err != nil {
			return "", err
		}
		var status struct {
			Data []struct {
				Status    string `json:"indexing_status"`
				Error     string
				Completed int `json:"completed_segments"`
				Total     int `json:"total_segments"`
			}
		}
		if err := r.read(&status, http.StatusOK); err != nil {
			return "", err
		}
		if len(status.Data) != 1 {
			return "", fmt.Errorf("%s with %d documents, want 1", r.says(), len(status.Data))
		}
		d := status.Data[0]
		switch {
		case d.Status == "completed" && d.Total > 0 && d.Completed == d.Total:
			return fmt.Sprintf("%d segments", d.Total), nil
		case d.Status == "completed":
			return "", fmt.Errorf("indexing ended with %d of %d segments", d.Completed, d.Total)
		case d.Status == "error" || d.Status == "paused":
			return "", indexing(d.Error)
		case time.Since(began) > s.opts.Patience && d.Status == "waiting":
			return "", &fault.Fault{
				Summary: "No worker takes tasks",
				Detail:  fmt.Sprintf("The document waits in the queue `priority_dataset`, or in `dataset` where Dify bills for it, since %s.", s.opts.Patience),
				Remedy:  "The container `worker` must run on the instances, with the API's CELERY_BROKER_URL, and take from both queues, which CELERY_QUEUES, where it is set, must name: see whether it runs, and read its log.",
			}
		case time.Since(began) > s.opts.Patience:
			return "", &fault.Fault{
				Summary: "A worker took the task and does not end it",
				Detail:  fmt.Sprintf("The document is at %q since %s. A worker that ends loses what it had taken.", plain(d.Status), s.opts.Patience),
				Remedy:  "Read the log of the container `worker`; if an instance was just replaced, run this again.",
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return "", ctx.Err()
		}
	}
}

// indexing says why a worker could not index.
func indexing(why string) error {
	f := &fault.Fault{Summary: "The worker cannot index the document", Detail: sentence(why)}
	low := strings.ToLower(why)
	switch {
	case strings.Contains(low, "extension"):
		f.Summary = "The vector database lacks its extension"
		f.Remedy = "The extension `vector` must be in the vector database, or its user allowed to make it. As a user who may:\n    CREATE EXTENSION vector"
	case strings.Contains(low, "bucket") || strings.Contains(low, "storage."):
		f.Summary = "The worker cannot read from the bucket"
		f.Remedy = bucketRights
	case strings.Contains(low, "plugin daemon"):
		f.Summary = "The worker cannot use the plugin daemon"
		f.Remedy = daemonKeys
	}
	return f
}

func index(ctx context.Context, s *session) (string, error) {
	return s.addDocument(ctx, s.dataset, s.file, map[string]any{"indexing_technique": "economy"})
}

// find searches a data set and wants the line with our word first. Facts: step 13.
func (s *session) find(ctx context.Context, dataset, method, query string) (string, error) {
	r, err := s.client.ask(ctx, http.MethodPost, "/console/api/datasets/"+url.PathEscape(dataset)+"/hit-testing", map[string]any{
		"query": query, "retrieval_model": map[string]any{"search_method": method, "reranking_enable": false, "top_k": 2, "score_threshold_enabled": false},
	})
	if err != nil {
		return "", err
	}
	var found struct {
		Records []struct {
			Segment struct{ Content string }
			Score   float64
		}
	}
	if err := r.read(&found, http.StatusOK); err != nil {
		return "", err
	}
	if len(found.Records) == 0 || !strings.Contains(found.Records[0].Segment.Content, s.word) {
		return "", fmt.Errorf("%d records were found for %q, and the right one is not the first", len(found.Records), query)
	}
	return fmt.Sprintf("1 of 4 lines, by %q", query), nil
}

func retrieve(ctx context.Context, s *session) (string, error) {
	return s.find(ctx, s.dataset, "keyword_search", s.word)
}

// vectors does the same with a model, if there is one. Facts: step 19, and the provider for tests.
func vectors(ctx context.Context, s *session) (string, error) {
	r, err := s.client.ask(ctx, http.MethodGet, "/console/api/workspaces/current/default-model?model_type=text-embedding", nil)
	if err != nil {
		return "", err
	}
	var model struct {
		Data *struct {
			Model    string
			Provider struct{ Provider string }
		}
	}
	if err := r.read(&model, http.StatusOK); err != nil {
		return "", err
	}
	if model.Data == nil || model.Data.Model == "" {
		return "", skip("no embedding model is configured (Settings, Model Provider)")
	}
	file, _, err := s.send(ctx)
	if err != nil {
		return "", err
	}
	of := map[string]any{"indexing_technique": "high_quality", "embedding_model": model.Data.Model, "embedding_model_provider": model.Data.Provider.Provider}
	dataset, err := s.newDataset(ctx, s.name("vectors "), of)
	if err != nil {
		return "", err
	}
	of["retrieval_model"] = map[string]any{"search_method": "semantic_search", "reranking_enable": false, "top_k": 2, "score_threshold_enabled": false}
	if _, err := s.addDocument(ctx, dataset, file, of); err != nil {
		return "", err
	}
	if _, err := s.find(ctx, dataset, "semantic_search", "Who watches the ships in the harbour at night?"); err != nil {
		return "", err
	}
	return "with " + plain(model.Data.Model), nil
}

// secret has a workflow's draft keep a secret, and exports it through every instance: Dify encrypts it with the workspace's
// public key, and decrypts it with the private one, which is in the bucket. Facts: storage.
func secret(ctx context.Context, s *session) (string, error) {
	name := s.name("")
	var app struct{ ID string }
	s.later("the app", func(ctx context.Context) error { return s.unmake(ctx, "apps", app.ID, name) })
	r, err := s.client.ask(ctx, http.MethodPost, "/console/api/apps", map[string]any{
		"name": name, "description": "made by difyup smoke, can be deleted", "mode": "workflow", "icon_type": "emoji", "icon": "🔥", "icon_background": "#FFEAD5",
	})
	if err != nil {
		return "", err
	}
	if err := r.read(&app, http.StatusCreated, http.StatusOK); err != nil {
		return "", err
	}
	path := "/console/api/apps/" + url.PathEscape(app.ID)
	kept := "kept-" + s.word
	if r, err = s.client.ask(ctx, http.MethodPost, path+"/workflows/draft", map[string]any{
		"graph": map[string]any{"nodes": []any{}, "edges": []any{}}, "features": map[string]any{}, "conversation_variables": []any{},
		"environment_variables": []any{map[string]any{"id": newID(s.nonce), "name": "smoke", "value": kept, "value_type": "secret", "description": ""}},
	}); err != nil {
		return "", err
	}
	if err := r.want(http.StatusOK); err != nil {
		return "", err
	}
	return s.everywhere(ctx, func(ctx context.Context) (*reply, error) {
		return s.client.ask(ctx, http.MethodGet, path+"/export?include_secret=true", nil)
	}, func(r *reply) error {
		var export struct{ Data string }
		if err := r.read(&export, http.StatusOK); err != nil {
			return undecrypted(err)
		}
		if !strings.Contains(export.Data, kept) {
			return undecrypted(fmt.Errorf("%s without the secret that was kept", r.says()))
		}
		return nil
	})
}

// undecrypted says what it means that an app is not exported with its secret.
func undecrypted(err error) error {
	var f *fault.Fault
	if errors.As(err, &f) {
		return err
	}
	return &fault.Fault{
		Summary: "Secrets cannot be decrypted",
		Detail:  sentence(err.Error()),
		Remedy:  "Dify encrypts credentials with the key privkeys/TENANT/private.pem in its bucket. If the bucket was changed, restore that object from the old one; without it all saved credentials are lost.",
	}
}

// newID gives a UUID that begins in a way that is ours.
func newID(nonce string) string {
	hex := fmt.Sprintf("%x", nonce)
	return fmt.Sprintf("%s-%s-4000-8000-000000000000", hex[:8], hex[8:12])
}

// plugin is an installed one.
type plugin struct {
	ID         string `json:"plugin_id"`
	Identifier string `json:"plugin_unique_identifier"`
}

// rehearsal is the plugin that answers for what only a plugin can show.
const rehearsal = "difyup/rehearsal"

// hook calls an address of the plugin daemon's, which it must know nothing of. Facts: step 16.
func hook(ctx context.Context, s *session) (string, error) {
	return s.everywhere(ctx, func(ctx context.Context) (*reply, error) {
		return s.client.ask(ctx, http.MethodGet, "/e/does-not-exist/", nil)
	}, func(r *reply) error {
		if r.status == http.StatusNotFound && json.Valid(r.body) {
			return nil
		}
		if r.status == http.StatusNotFound {
			return &fault.Fault{
				Summary: "/e/ does not go to the plugin daemon",
				Detail:  sentence(r.says()),
				Remedy:  "The front door must send /e/ to the plugin daemon. See what answers on port 1080 of the instance.",
			}
		}
		return errors.New(r.says())
	})
}

// listPlugins has every instance's API ask its plugin daemon. Facts: step 15.
func listPlugins(ctx context.Context, s *session) (string, error) {
	var list struct {
		Plugins []plugin
		Total   int
	}
	detail, err := s.everywhere(ctx, func(ctx context.Context) (*reply, error) {
		return s.client.ask(ctx, http.MethodGet, "/console/api/workspaces/current/plugin/list?page=1&page_size=100", nil)
	}, func(r *reply) error { return r.read(&list, http.StatusOK) })
	s.plugins = list.Plugins
	return fmt.Sprintf("%s, %d installed", detail, list.Total), err
}

// callback has a plugin be called at an address of its own: the daemon has the API encrypt and decrypt the address's
// settings. Facts: secrets, and the provider for tests.
func callback(ctx context.Context, s *session) (string, error) {
	var ours plugin
	for _, p := range s.plugins {
		if p.ID == rehearsal {
			ours = p
		}
	}
	if ours.Identifier == "" {
		return "", skip("the plugin " + rehearsal + ", which would answer, is not installed")
	}
	name := s.name("")
	path := "/console/api/workspaces/current/endpoints"
	find := func(ctx context.Context) (id, hook string, err error) {
		r, err := s.client.ask(ctx, http.MethodGet, path+"/list/plugin?page=1&page_size=100&plugin_id="+url.QueryEscape(rehearsal), nil)
		if err != nil {
			return "", "", err
		}
		var list struct {
			Endpoints []struct {
				ID, Name string
				Hook     string `json:"hook_id"`
			}
		}
		err = r.read(&list, http.StatusOK)
		for _, e := range list.Endpoints {
			if e.Name == name {
				return e.ID, e.Hook, err
			}
		}
		return "", "", err
	}
	s.later("the plugin's address", func(ctx context.Context) error {
		id, _, err := find(ctx)
		if err != nil || id == "" {
			return err
		}
		r, err := s.client.ask(ctx, http.MethodPost, path+"/delete", map[string]any{"endpoint_id": id})
		if err != nil {
			return err
		}
		return r.want(http.StatusOK)
	})
	r, err := s.client.ask(ctx, http.MethodPost, path+"/create", map[string]any{
		"plugin_unique_identifier": ours.Identifier, "name": name, "settings": map[string]any{"token": s.word},
	})
	if err != nil {
		return "", err
	}
	if err := r.want(http.StatusOK, http.StatusCreated); err != nil {
		return "", err
	}
	_, address, err := find(ctx)
	if err != nil {
		return "", err
	}
	if address == "" {
		return "", errors.New("the address that was made for the plugin is not in the list of its addresses")
	}
	return s.everywhere(ctx, func(ctx context.Context) (*reply, error) {
		return s.client.ask(ctx, http.MethodGet, "/e/"+url.PathEscape(address)+"/", nil)
	}, func(r *reply) error {
		if err := r.want(http.StatusOK); err != nil {
			return err
		}
		if !strings.Contains(string(r.body), s.word) {
			return fmt.Errorf("%s, and not with what the plugin was told", r.says())
		}
		return nil
	})
}

// closed asks for what only containers may ask for. The API marks its answers with its version, also when it refuses.
func closed(ctx context.Context, s *session) (string, error) {
	for _, path := range []string{"/inner/api", "/inner/api/invoke/encrypt", "/inner/api/enterprise/workspace"} {
		r, err := s.client.ask(ctx, http.MethodPost, path, map[string]any{})
		if err != nil {
			return "", err
		}
		if r.status != http.StatusNotFound && r.status != http.StatusForbidden || r.header.Get("X-Version") != "" {
			return "", errors.New(r.says())
		}
	}
	return "by the front door", nil
}
