package standin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// bucket is the bucket of Dify's files, reached with the rights of the instance's service account. As Dify's client does,
// it asks for the bucket itself before each use, which needs a right of its own.
type bucket struct {
	name, host, metadata string
	http                 *http.Client
}

// largest is the largest object, and the largest answer of another server, that is read.
const largest = 128 << 20

// errNoObject is that an object is not there.
var errNoObject = errors.New("there is no such object")

func newBucket(name string, env settings, client *http.Client) *bucket {
	return &bucket{
		name: name, host: storageHost(env("STORAGE_EMULATOR_HOST")),
		metadata: env.or("GCE_METADATA_HOST", "metadata.google.internal"), http: client,
	}
}

// storageHost gives the root of Cloud Storage's API for a value of STORAGE_EMULATOR_HOST, which Google's clients take with
// a scheme and without one.
func storageHost(emulator string) string {
	switch {
	case emulator == "":
		return "https://storage.googleapis.com"
	case !strings.Contains(emulator, "://"):
		emulator = "http://" + emulator
	}
	return strings.TrimSuffix(emulator, "/")
}

func (b *bucket) save(ctx context.Context, name string, contents []byte) error {
	return b.use(ctx, "save "+name, func(ctx context.Context, token, path string) error {
		_, err := b.call(ctx, http.MethodPost, "/upload"+path+"/o?uploadType=media&name="+url.QueryEscape(name), token, contents)
		return err
	})
}

func (b *bucket) load(ctx context.Context, name string) (contents []byte, err error) {
	err = b.use(ctx, "load "+name, func(ctx context.Context, token, path string) error {
		contents, err = b.call(ctx, http.MethodGet, path+"/o/"+url.PathEscape(name)+"?alt=media", token, nil)
		return err
	})
	return contents, err
}

// list gives the names of the objects whose names begin so.
func (b *bucket) list(ctx context.Context, prefix string) (names []string, err error) {
	err = b.use(ctx, "list "+prefix, func(ctx context.Context, token, path string) error {
		for query := (url.Values{"fields": {"items(name),nextPageToken"}, "prefix": {prefix}}); ; {
			raw, err := b.call(ctx, http.MethodGet, path+"/o?"+query.Encode(), token, nil)
			if err != nil {
				return err
			}
			var answer struct {
				Items []struct{ Name string }
				Next  string `json:"nextPageToken"`
			}
			if err := json.Unmarshal(raw, &answer); err != nil {
				return err
			}
			for _, o := range answer.Items {
				names = append(names, o.Name)
			}
			if answer.Next == "" {
				return nil
			}
			query.Set("pageToken", answer.Next)
		}
	})
	return names, err
}

func (b *bucket) remove(ctx context.Context, name string) error {
	err := b.use(ctx, "delete "+name, func(ctx context.Context, token, path string) error {
		_, err := b.call(ctx, http.MethodDelete, path+"/o/"+url.PathEscape(name), token, nil)
		return err
	})
	if errors.Is(err, errNoObject) {
		return nil
	}
	return err
}

func (b *bucket) use(ctx context.Context, what string, f func(ctx context.Context, token, path string) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	token, err := b.token(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	path := "/storage/v1/b/" + url.PathEscape(b.name)
	if _, err := b.call(ctx, http.MethodGet, path, token, nil); err != nil {
		if errors.Is(err, errNoObject) {
			err = errors.New("404 Not Found") // the bucket, which is something else
		}
		return fmt.Errorf("%s: the bucket %s: %w", what, b.name, err)
	}
	if err := f(ctx, token, path); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (b *bucket) token(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.metadata+"/computeMetadata/v1/instance/service-accounts/default/token", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := b.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var t struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&t); err != nil || t.Token == "" {
		return "", fmt.Errorf("no token from the metadata server: %s", resp.Status)
	}
	return t.Token, nil
}

func (b *bucket) call(ctx context.Context, method, path, token string, contents []byte) ([]byte, error) {
	// Without a body of a known length, Go would send the request in chunks.
	req, err := http.NewRequestWithContext(ctx, method, b.host+path, bytes.NewReader(contents))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := b.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, largest))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusNotFound {
		return nil, errNoObject
	}
	if resp.StatusCode >= 300 {
		var e struct{ Error struct{ Message string } }
		_ = json.Unmarshal(raw, &e) // an answer that is no JSON has its status
		return nil, fmt.Errorf("%s %s", resp.Status, e.Error.Message)
	}
	return raw, nil
}
