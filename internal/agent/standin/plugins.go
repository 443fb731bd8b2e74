package standin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// plugins is the API's and the worker's client of the plugin daemon.
type plugins struct {
	url, key string
	http     *http.Client
}

// errDaemonKey is that the daemon does not know our key.
var errDaemonKey = errors.New("the plugin daemon refuses the API's key: 401 Unauthorized")

// ask sends a request about a tenant and reads the data of the answer into out.
func (p *plugins) ask(ctx context.Context, method, tenant, path string, body, out any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return p.send(ctx, method, tenant, path, "application/json", raw, out)
}

func (p *plugins) send(ctx context.Context, method, tenant, path, contentType string, raw []byte, out any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, p.url+"/plugin/"+url.PathEscape(tenant)+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	req.Header.Set("X-Api-Key", p.key)
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("X-Plugin-ID", pluginID)
	resp, err := p.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the plugin daemon: %w", err)
	}
	defer resp.Body.Close()
	if raw, err = io.ReadAll(io.LimitReader(resp.Body, largest)); err != nil {
		return fmt.Errorf("ask the plugin daemon: %w", err)
	}
	if resp.StatusCode == http.StatusUnauthorized {
		return errDaemonKey
	}
	// What streams is lines of "data: {…}", of which one is enough here.
	if line, ok := bytes.CutPrefix(bytes.TrimSpace(raw), []byte("data:")); ok {
		raw = line
	}
	var answer struct {
		Code    int
		Message string
		Data    json.RawMessage
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return fmt.Errorf("the plugin daemon answers %s", resp.Status)
	}
	if answer.Code != 0 {
		return fmt.Errorf("the plugin daemon: %s", answer.Message)
	}
	return json.Unmarshal(answer.Data, out)
}

// upload hands on a package, as Dify does.
func (p *plugins) upload(ctx context.Context, tenant string, archive []byte, out any) error {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("dify_pkg", "dify_pkg")
	if err == nil {
		_, err = part.Write(archive)
	}
	if err = errors.Join(err, form.WriteField("verify_signature", "true"), form.Close()); err != nil {
		return err
	}
	return p.send(ctx, http.MethodPost, tenant, "/management/install/upload/package", form.FormDataContentType(), body.Bytes(), out)
}

func (p *plugins) list(ctx context.Context, tenant string, page, size int) (out struct {
	List  []json.RawMessage `json:"list"`
	Total int               `json:"total"`
}, err error) {
	err = p.ask(ctx, http.MethodGet, tenant, fmt.Sprintf("/management/list?page=%d&page_size=%d", page, size), nil, &out)
	return out, err
}

// embed has the test provider make a vector of each text.
func (p *plugins) embed(ctx context.Context, tenant string, texts []string) ([]string, error) {
	var out struct{ Embeddings [][]float32 }
	err := p.ask(ctx, http.MethodPost, tenant, "/dispatch/text_embedding/invoke", map[string]any{
		"data": map[string]any{"provider": modelProvider, "model_type": "text-embedding", "model": modelName, "texts": texts, "input_type": "document"},
	}, &out)
	if err != nil {
		return nil, err
	}
	if len(out.Embeddings) != len(texts) {
		return nil, fmt.Errorf("the plugin daemon gave %d vectors for %d texts", len(out.Embeddings), len(texts))
	}
	vectors := make([]string, len(texts))
	for i, e := range out.Embeddings {
		var b strings.Builder
		for j, x := range e {
			if j > 0 {
				b.WriteByte(',')
			}
			b.WriteString(strconv.FormatFloat(float64(x), 'g', -1, 32))
		}
		vectors[i] = "[" + b.String() + "]"
	}
	return vectors, nil
}
