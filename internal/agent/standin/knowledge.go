package standin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// extensions are the documents that a data set takes.
var extensions = []string{"txt", "md", "markdown"}

func (a *api) postFile(r *http.Request, u user) (answer, error) {
	if err := r.ParseMultipartForm(32 << 20); err != nil {
		return answer{}, invalid("The request is no form with a file.")
	}
	defer func() { _ = r.MultipartForm.RemoveAll() }() // what is left is the system's to remove
	file, header, err := r.FormFile("file")
	if err != nil {
		return answer{}, refuse(http.StatusBadRequest, "no_file_uploaded", "There is no file in the form.")
	}
	defer file.Close()
	if r.FormValue("source") == "datasets" && !u.is(fills) {
		return answer{}, errForbidden
	}
	extension := strings.ToLower(strings.TrimPrefix(path.Ext(header.Filename), "."))
	if r.FormValue("source") == "datasets" && !slices.Contains(extensions, extension) {
		return answer{}, refuse(http.StatusUnsupportedMediaType, "unsupported_file_type", "The stand-in takes "+strings.Join(extensions, ", ")+".")
	}
	contents, err := io.ReadAll(file)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := ensure(r.Context())
	defer cancel()
	id, now := newID(), time.Now()
	key := "upload_files/" + u.tenant + "/" + newID() + "." + extension
	if err := a.bucket.save(ctx, key, contents); err != nil {
		return answer{}, err
	}
	mime := header.Header.Get("Content-Type")
	err = a.exec(ctx, `INSERT INTO standin_upload_files VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING`,
		id, u.tenant, key, header.Filename, len(contents), extension, mime, u.id, now)
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, map[string]any{
		"id": id, "name": header.Filename, "size": len(contents), "extension": extension, "mime_type": mime, "created_by": u.id, "created_at": now.Unix(), "preview_url": nil,
	}}, nil
}

func (a *api) getPreview(r *http.Request, u user) (answer, error) {
	var key string
	err := a.row(r.Context(), []any{&key}, `SELECT key FROM standin_upload_files WHERE id = $1 AND tenant_id = $2`, r.PathValue("file"), u.tenant)
	if errors.Is(err, pgx.ErrNoRows) {
		return answer{}, notFound("File")
	}
	if err != nil {
		return answer{}, err
	}
	contents, err := a.bucket.load(r.Context(), key)
	if err != nil {
		return answer{}, err
	}
	const most = 3000
	text := []rune(string(contents))
	return answer{http.StatusOK, map[string]any{"content": string(text[:min(len(text), most)])}}, nil
}

// The techniques of indexing.
const (
	economy     = "economy"
	highQuality = "high_quality"
)

// dataset is a data set as it is in the database.
type dataset struct{ ID, Name, Technique, Model, Provider string }

func (d dataset) body() map[string]any {
	body := map[string]any{
		"id": d.ID, "name": d.Name, "indexing_technique": d.Technique, "embedding_model": nil, "embedding_model_provider": nil, "permission": "only_me", "provider": "vendor",
	}
	if d.Model != "" {
		body["embedding_model"], body["embedding_model_provider"] = d.Model, d.Provider
	}
	return body
}

func (b *backend) dataset(ctx context.Context, id, tenant string) (dataset, error) {
	d := dataset{ID: id}
	err := b.row(ctx, []any{&d.Name, &d.Technique, &d.Model, &d.Provider},
		`SELECT name, technique, embedding_model, embedding_provider FROM standin_datasets WHERE id = $1 AND tenant_id = $2`, id, tenant)
	if errors.Is(err, pgx.ErrNoRows) {
		err = notFound("Dataset")
	}
	return d, err
}

func (a *api) postDataset(r *http.Request, u user) (answer, error) {
	var in struct {
		Name      string
		Technique string `json:"indexing_technique"`
	}
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	if n := len([]rune(in.Name)); n < 1 || n > 40 || in.Technique != "" && in.Technique != economy && in.Technique != highQuality {
		return answer{}, invalid("A name of 40 characters at most and an indexing technique are wanted.")
	}
	d := dataset{ID: newID(), Name: in.Name, Technique: in.Technique}
	if d.Technique == highQuality {
		d.Model, d.Provider = modelName, modelProvider
	}
	err := a.exec(r.Context(), `INSERT INTO standin_datasets (id, tenant_id, name, technique, embedding_model, embedding_provider) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING`,
		d.ID, u.tenant, d.Name, d.Technique, d.Model, d.Provider)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" {
		return answer{}, refuse(http.StatusConflict, "dataset_name_duplicate", "There is a data set of this name.")
	}
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, d.body()}, nil
}

func (a *api) getDatasets(r *http.Request, u user) (answer, error) {
	list, err := listed(a, r, `SELECT id, name, technique, embedding_model, embedding_provider FROM standin_datasets WHERE tenant_id = $1 AND position($2 in name) > 0 ORDER BY created_at DESC, id`,
		u.tenant, r.FormValue("keyword"))
	if err != nil {
		return answer{}, err
	}
	data := []map[string]any{}
	for _, d := range list {
		data = append(data, d.body())
	}
	return answer{http.StatusOK, map[string]any{"data": data, "total": len(data), "page": 1, "limit": 20, "has_more": false}}, nil
}

func listed(a *api, r *http.Request, query string, args ...any) (list []dataset, err error) {
	err = a.db(r.Context(), func(c *pgx.Conn) error {
		rows, err := c.Query(r.Context(), query, args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[dataset])
		return err
	})
	return list, err
}

// deleteDataset deletes the data set's row, and leaves to the worker what is large.
func (a *api) deleteDataset(r *http.Request, u user) (answer, error) {
	ctx, cancel := ensure(r.Context())
	defer cancel()
	d, err := a.dataset(ctx, r.PathValue("dataset"), u.tenant)
	if err != nil {
		return answer{}, err
	}
	if err := a.exec(ctx, `DELETE FROM standin_datasets WHERE id = $1`, d.ID); err != nil {
		return answer{}, err
	}
	if err := a.enqueue(ctx, cleanQueue, task{Name: "clean", ID: newID(), Tenant: u.tenant, Dataset: d.ID}); err != nil {
		return answer{}, err
	}
	return answer{http.StatusNoContent, nil}, nil
}

func (a *api) postDocuments(r *http.Request, u user) (answer, error) {
	var in struct {
		Technique string `json:"indexing_technique"`
		Source    struct {
			Info struct {
				Type  string `json:"data_source_type"`
				Files struct {
					IDs []string `json:"file_ids"`
				} `json:"file_info_list"`
			} `json:"info_list"`
		} `json:"data_source"`
		Rule struct{ Mode string } `json:"process_rule"`
	}
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	ctx, cancel := ensure(r.Context())
	defer cancel()
	d, err := a.dataset(ctx, r.PathValue("dataset"), u.tenant)
	switch {
	case err != nil:
		return answer{}, err
	case in.Technique != economy && in.Technique != highQuality || d.Technique != "" && in.Technique != d.Technique:
		return answer{}, invalid("The indexing technique is not the data set's.")
	case in.Source.Info.Type != "upload_file" || len(in.Source.Info.Files.IDs) == 0:
		return answer{}, invalid("The stand-in takes uploaded files only.")
	case in.Rule.Mode == "":
		return answer{}, invalid("There is no process rule.")
	}
	batch := time.Now().UTC().Format("20060102150405") + strconv.Itoa(100000+time.Now().Nanosecond()%900000)
	t := task{Name: "index", ID: newID(), Tenant: u.tenant, Dataset: d.ID}
	documents := []map[string]any{}
	for i, file := range in.Source.Info.Files.IDs {
		var name string
		err := a.row(ctx, []any{&name}, `SELECT name FROM standin_upload_files WHERE id = $1 AND tenant_id = $2`, file, u.tenant)
		if errors.Is(err, pgx.ErrNoRows) {
			return answer{}, notFound("File")
		}
		if err != nil {
			return answer{}, err
		}
		id := newID()
		err = a.exec(ctx, `INSERT INTO standin_documents (id, dataset_id, tenant_id, batch, position, upload_file_id, name, status) VALUES ($1, $2, $3, $4, $5, $6, $7, 'waiting') ON CONFLICT DO NOTHING`,
			id, d.ID, u.tenant, batch, i+1, file, name)
		if err != nil {
			return answer{}, err
		}
		t.Documents = append(t.Documents, id)
		documents = append(documents, map[string]any{"id": id, "name": name, "position": i + 1, "data_source_type": "upload_file", "indexing_status": "waiting"})
	}
	if err := a.exec(ctx, `UPDATE standin_datasets SET technique = $2 WHERE id = $1`, d.ID, in.Technique); err != nil {
		return answer{}, err
	}
	if err := a.enqueue(ctx, indexQueue, t); err != nil {
		return answer{}, err
	}
	d.Technique = in.Technique
	return answer{http.StatusOK, map[string]any{"dataset": d.body(), "documents": documents, "batch": batch}}, nil
}

func (a *api) getIndexing(r *http.Request, u user) (answer, error) {
	ctx := r.Context()
	type state struct {
		ID        string  `json:"id"`
		Status    string  `json:"indexing_status"`
		Error     *string `json:"error"`
		Completed int     `json:"completed_segments"`
		Total     int     `json:"total_segments"`
	}
	var list []state
	err := a.db(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT d.id, d.status, d.error, count(s.id) FILTER (WHERE s.status = 'completed'), count(s.id)
			FROM standin_documents d LEFT JOIN standin_segments s ON s.document_id = d.id
			WHERE d.dataset_id = $1 AND d.batch = $2 AND d.tenant_id = $3 GROUP BY d.id ORDER BY d.position`, r.PathValue("dataset"), r.PathValue("batch"), u.tenant)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[state])
		return err
	})
	if err != nil {
		return answer{}, err
	}
	if len(list) == 0 {
		return answer{}, notFound("Documents")
	}
	return answer{http.StatusOK, map[string]any{"data": list}}, nil
}

// segment is what retrieval finds.
type segment struct {
	ID, Document, Name string
	Position           int
	Content            string
	Keywords           []string
	Score              float64
}

func (a *api) postHitTesting(r *http.Request, u user) (answer, error) {
	var in struct {
		Query string
		Model struct {
			Method string `json:"search_method"`
			Top    int    `json:"top_k"`
		} `json:"retrieval_model"`
	}
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	ctx := r.Context()
	d, err := a.dataset(ctx, r.PathValue("dataset"), u.tenant)
	if err != nil {
		return answer{}, err
	}
	if in.Query == "" || len([]rune(in.Query)) > 250 || in.Model.Top < 1 {
		return answer{}, invalid("A query of 250 characters at most, and how many are wanted.")
	}
	var found []segment
	switch in.Model.Method {
	case "keyword_search":
		found, err = a.byKeywords(ctx, d, in.Query, in.Model.Top)
	case "semantic_search":
		found, err = a.byVectors(ctx, d, u.tenant, in.Query, in.Model.Top)
	default:
		return answer{}, invalid("The stand-in knows keyword_search and semantic_search.")
	}
	if err != nil {
		return answer{}, err
	}
	records := []map[string]any{}
	for _, s := range found {
		records = append(records, map[string]any{
			"segment": map[string]any{
				"id": s.ID, "position": s.Position, "document_id": s.Document, "content": s.Content, "keywords": s.Keywords, "status": "completed", "enabled": true,
				"document": map[string]any{"id": s.Document, "data_source_type": "upload_file", "name": s.Name},
			},
			"score": s.Score, "child_chunks": []any{}, "files": []any{}, "tsne_position": nil, "summary": nil,
		})
	}
	return answer{http.StatusOK, map[string]any{"query": map[string]any{"content": in.Query}, "records": records}}, nil
}

func (a *api) byKeywords(ctx context.Context, d dataset, query string, top int) (found []segment, err error) {
	err = a.db(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT s.id, s.document_id, d.name, s.position, s.content, s.keywords, count(*)::float8 AS score
			FROM standin_keywords k JOIN standin_segments s ON s.id = k.segment_id JOIN standin_documents d ON d.id = s.document_id
			WHERE k.dataset_id = $1 AND k.keyword = ANY($2) GROUP BY s.id, d.id ORDER BY score DESC, s.position LIMIT $3`, d.ID, keywords(query), top)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[segment])
		return err
	})
	return found, err
}

// byVectors has the query made a vector by the plugin daemon, and finds the nearest segments in the vector database.
func (a *api) byVectors(ctx context.Context, d dataset, tenant, query string, top int) ([]segment, error) {
	vectors, err := a.plugins.embed(ctx, tenant, []string{query})
	if err != nil {
		return nil, err
	}
	type hit struct {
		ID    string
		Score float64
	}
	var hits []hit
	err = a.vector.do(ctx, func(c *pgx.Conn) error {
		rows, err := c.Query(ctx, `SELECT id, 1 - (embedding <=> $1::text::vector) FROM `+pgx.Identifier{vectorTable(d.ID)}.Sanitize()+` ORDER BY embedding <=> $1::text::vector LIMIT $2`, vectors[0], top)
		if err != nil {
			return err
		}
		hits, err = pgx.CollectRows(rows, pgx.RowToStructByPos[hit])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("search the vector database: %w", err)
	}
	found := []segment{}
	for _, h := range hits {
		s := segment{ID: h.ID, Score: h.Score}
		err := a.row(ctx, []any{&s.Document, &s.Name, &s.Position, &s.Content, &s.Keywords},
			`SELECT s.document_id, d.name, s.position, s.content, s.keywords FROM standin_segments s JOIN standin_documents d ON d.id = s.document_id WHERE s.id = $1`, h.ID)
		if err != nil {
			return nil, err
		}
		found = append(found, s)
	}
	return found, nil
}

// The model that the test provider has.
const (
	modelProvider = "difyup/rehearsal/hash"
	modelName     = "hash-64"
)

// getDefaultModel gives the workspace's model. There is one for embeddings, as long as the daemon has its plugin.
func (a *api) getDefaultModel(r *http.Request, u user) (answer, error) {
	var model any
	if r.FormValue("model_type") == "text-embedding" {
		model = map[string]any{"model": modelName, "model_type": "text-embedding", "provider": map[string]any{"provider": modelProvider, "supported_model_types": []string{"text-embedding"}}}
	}
	return answer{http.StatusOK, map[string]any{"data": model}}, nil
}

func (a *api) getPlugins(r *http.Request, u user) (answer, error) {
	page, size := r.FormValue("page"), r.FormValue("page_size")
	p, err := strconv.Atoi(page)
	n, err2 := strconv.Atoi(size)
	if err != nil || err2 != nil || p < 1 || n < 1 {
		return answer{}, invalid("A page and its size are wanted.")
	}
	list, err := a.plugins.list(r.Context(), u.tenant, p, n)
	if err != nil {
		return answer{}, invalid("%s", a.env.hide(err)) // as Dify tells what the daemon did
	}
	return answer{http.StatusOK, map[string]any{"plugins": list.List, "total": list.Total}}, nil
}

func (a *api) postPackage(r *http.Request, u user) (answer, error) {
	f, _, err := r.FormFile("pkg")
	if err != nil {
		return answer{}, invalid("A package is wanted.")
	}
	defer f.Close()
	archive, err := io.ReadAll(io.LimitReader(f, largest))
	if err != nil {
		return answer{}, err
	}
	var out json.RawMessage
	if err := a.plugins.upload(r.Context(), u.tenant, archive, &out); err != nil {
		return answer{}, invalid("%s", a.env.hide(err))
	}
	return answer{http.StatusOK, out}, nil
}

func (a *api) postInstall(r *http.Request, u user) (answer, error) {
	var in struct {
		Identifiers []string `json:"plugin_unique_identifiers"`
	}
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	var out json.RawMessage
	body := map[string]any{"plugin_unique_identifiers": in.Identifiers, "source": "package", "metas": make([]struct{}, len(in.Identifiers))}
	if err := a.plugins.ask(r.Context(), http.MethodPost, u.tenant, "/management/install/identifiers", body, &out); err != nil {
		return answer{}, invalid("%s", a.env.hide(err))
	}
	return answer{http.StatusOK, out}, nil
}

func (a *api) postEndpoint(r *http.Request, u user) (answer, error) {
	var in struct {
		Plugin   string            `json:"plugin_unique_identifier"`
		Settings map[string]string `json:"settings"`
		Name     string            `json:"name"`
	}
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	return a.endpoint(r, http.MethodPost, u, "/endpoint/setup", map[string]any{"user_id": u.id, "plugin_unique_identifier": in.Plugin, "settings": in.Settings, "name": in.Name})
}

func (a *api) deleteEndpoint(r *http.Request, u user) (answer, error) {
	var in struct {
		ID string `json:"endpoint_id"`
	}
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	return a.endpoint(r, http.MethodPost, u, "/endpoint/remove", map[string]any{"endpoint_id": in.ID})
}

func (a *api) endpoint(r *http.Request, method string, u user, path string, body any) (answer, error) {
	var ok bool
	if err := a.plugins.ask(r.Context(), method, u.tenant, path, body, &ok); err != nil {
		return answer{}, invalid("%s", a.env.hide(err))
	}
	return answer{http.StatusOK, map[string]any{"success": ok}}, nil
}

func (a *api) getEndpoints(r *http.Request, u user) (answer, error) {
	var list []json.RawMessage
	if err := a.plugins.ask(r.Context(), http.MethodGet, u.tenant, "/endpoint/list/plugin?"+r.URL.RawQuery, nil, &list); err != nil {
		return answer{}, invalid("%s", a.env.hide(err))
	}
	return answer{http.StatusOK, map[string]any{"endpoints": list}}, nil
}
