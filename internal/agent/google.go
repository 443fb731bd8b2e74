package agent

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/agent/identity"
	"github.com/difyup/difyup/internal/dify"
)

// google asks the metadata server, Secret Manager and Cloud Storage.
type google struct {
	host   string // of the metadata server
	client *http.Client

	mu      sync.Mutex
	token   string
	expires time.Time
}

// statusError is an answer other than 200 and 204.
type statusError struct {
	Code int
	What string
	// Unusable says of a version of a secret that it is disabled or destroyed; "" for all else.
	Unusable string
}

func (e *statusError) Error() string {
	if e.Unusable != "" {
		return fmt.Sprintf("%s: it %s", e.What, e.Unusable)
	}
	return fmt.Sprintf("%s: %d %s", e.What, e.Code, http.StatusText(e.Code))
}

const maxAnswer = 1 << 20

// errPage is that something between us and Google answered, with status 200: nothing was done.
var errPage = errors.New("a page came in place of an answer")

func (g *google) do(req *http.Request, what string) ([]byte, error) {
	resp, err := g.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return raw, &statusError{Code: resp.StatusCode, What: what}
	}
	// Nothing is between us and the metadata server, which says so in each answer, whatever it calls what it answers with.
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/html" && resp.Header.Get("Metadata-Flavor") == "" {
		return nil, fmt.Errorf("%s: %w", what, errPage)
	}
	return raw, nil
}

// metadata gives a value of the metadata server's, "instance/name".
func (g *google) metadata(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.host+"/computeMetadata/v1/"+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	raw, err := g.do(req, "metadata "+path)
	return strings.TrimSpace(string(raw)), err
}

// optional is metadata for what need not be there.
func (g *google) optional(ctx context.Context, path string) (string, error) {
	v, err := g.metadata(ctx, path)
	var status *statusError
	if errors.As(err, &status) && status.Code == http.StatusNotFound {
		return "", nil
	}
	return v, err
}

// publish sets a guest attribute of the instance.
func (g *google) publish(ctx context.Context, namespace, key string, value []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+g.host+"/computeMetadata/v1/instance/guest-attributes/"+namespace+"/"+key, bytes.NewReader(value))
	if err != nil {
		return err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	_, err = g.do(req, "guest attribute "+namespace+"/"+key)
	return err
}

// bearer gives an access token of the instance's service account.
func (g *google) bearer(ctx context.Context) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if time.Until(g.expires) > time.Minute {
		return g.token, nil
	}
	t, err := g.fresh(ctx)
	if err != nil {
		return "", err
	}
	g.token, g.expires = t.Value, t.Expires
	return g.token, nil
}

// forget has bearer ask for another token than one that is not taken.
func (g *google) forget(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token == token {
		g.expires = time.Time{}
	}
}

// fresh gives the token that the metadata server has now, which has another one 5 minutes before the end of one.
func (g *google) fresh(ctx context.Context) (identity.Token, error) {
	asked := time.Now()
	raw, err := g.metadata(ctx, "instance/service-accounts/default/token")
	if err != nil {
		return identity.Token{}, err
	}
	var answer struct {
		Token   string `json:"access_token"`
		Seconds int    `json:"expires_in"`
	}
	if err := json.Unmarshal([]byte(raw), &answer); err != nil || answer.Token == "" {
		return identity.Token{}, errors.New("the metadata server's token cannot be read") // the answer is not shown
	}
	return identity.Token{Value: answer.Token, Expires: asked.Add(time.Duration(answer.Seconds) * time.Second).Round(0)}, nil
}

// request is one to an API of Google's.
type request struct {
	Host   string // where Google has the API
	Method string
	Path   string // with the query, if there is one
	What   string // is asked, for errors
	Type   string // of the body
	Body   []byte
}

// call asks one of Google's APIs, as the instance's service account. Endpoint is the root of all APIs, "" on Google.
func (g *google) call(ctx context.Context, endpoint string, r request) ([]byte, error) {
	if endpoint == "" {
		endpoint = "https://" + r.Host
	}
	token, err := g.bearer(ctx)
	if err != nil {
		return nil, err
	}
	// With no body of a known length, Go would send the request in chunks.
	req, err := http.NewRequestWithContext(ctx, r.Method, strings.TrimSuffix(endpoint, "/")+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if r.Type != "" {
		req.Header.Set("Content-Type", r.Type)
	}
	raw, err := g.do(req, r.What)
	if status := (*statusError)(nil); errors.As(err, &status) && status.Code == http.StatusUnauthorized {
		g.forget(token) // whatever it is that ended it
	}
	return raw, err
}

// secret gives the value of one version of a secret. Endpoint is the root of all APIs, "" on Google.
func (g *google) secret(ctx context.Context, endpoint, project string, v dify.SecretVersion) (string, error) {
	raw, err := g.call(ctx, endpoint, request{
		Host: "secretmanager.googleapis.com", Method: http.MethodGet, What: "secret " + v.String(),
		Path: fmt.Sprintf("/v1/projects/%s/secrets/%s/versions/%d:access", url.PathEscape(project), url.PathEscape(v.Name), v.Version),
	})
	var status *statusError
	if errors.As(err, &status) && status.Code == http.StatusBadRequest {
		// Google's words: "Secret Version [projects/1/secrets/s/versions/2] is in DISABLED state."
		for word, says := range map[string]string{"in DISABLED state": "is disabled", "in DESTROYED state": "is destroyed"} {
			if bytes.Contains(raw, []byte(word)) {
				status.Unusable = says
			}
		}
	}
	if err != nil {
		return "", err
	}
	var answer struct {
		Payload struct {
			Data string `json:"data"`
		} `json:"payload"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return "", fmt.Errorf("secret %s: the answer cannot be read", v)
	}
	value, err := base64.StdEncoding.DecodeString(answer.Payload.Data)
	if err != nil || len(value) == 0 {
		return "", fmt.Errorf("secret %s: it has no value", v)
	}
	return string(value), nil
}
