package front_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/faults"
	"github.com/difyup/difyup/internal/localcloud/front"
)

// world is a server with two methods that count how often they were carried out.
type world struct {
	faults *faults.Set
	server *front.Server
	url    string
	done   atomic.Int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{faults: faults.NewSet(nil)}
	var err error
	if w.server, err = front.New(front.Options{Token: "secret", Faults: w.faults}); err != nil {
		t.Fatal(err)
	}
	w.server.Handle("compute.networks.get", func(context.Context, *front.Request) (any, error) {
		w.done.Add(1)
		return map[string]any{"name": "net"}, nil
	})
	w.server.Handle("compute.networks.insert", func(_ context.Context, r *front.Request) (any, error) {
		w.done.Add(1)
		return w.server.Ops().Compute(r, "insert", "projects/p/global/networks/"+fmt.Sprint(r.Body["name"]), "1", 0, func(context.Context) error { return nil }, nil), nil
	})
	w.server.Handle("sql.instances.insert", func(context.Context, *front.Request) (any, error) { return nil, nil })
	w.server.Handle("redis.projects.locations.instances.create", func(context.Context, *front.Request) (any, error) { return nil, nil })
	s := httptest.NewServer(w.server)
	t.Cleanup(func() { s.Close(); w.server.Close() })
	w.url = s.URL
	return w
}

// ask sends a request and gives the answer in a line.
func (w *world) ask(t *testing.T, token, method, path, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		for _, words := range []string{"connection reset", "EOF"} {
			if strings.Contains(err.Error(), words) {
				return words
			}
		}
		return err.Error()
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	said := strings.Join(strings.Fields(string(raw)), "")
	if err != nil {
		said += " " + err.Error()
	}
	if again := resp.Header.Get("Retry-After"); again != "" {
		said += " again in " + again
	}
	return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", said))
}

const (
	one  = "/compute/v1/projects/p/global/networks/net"
	many = "/compute/v1/projects/p/global/networks"
)

// TestFaults has one request meet each fault, and says what the client sees and how often the method was carried out.
func TestFaults(t *testing.T) {
	got := map[string]string{}
	for _, text := range []string{"429:2s", "503", "412", "reset-before", "reset-after", "truncate", "html", "empty", "double", "hang:1ms", "hold:1ms", "latency:1ms"} {
		w := newWorld(t)
		f, err := faults.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		w.faults.Add(faults.Rule{Surface: faults.API, Rate: 1, Next: 1, Faults: []faults.Fault{f}})
		got[text] = fmt.Sprintf("%s | done %d", w.ask(t, "secret", "GET", one, ""), w.done.Load())
		if again := w.ask(t, "secret", "GET", one, ""); again != `200 {"name":"net"}` {
			t.Errorf("after %s: %s", text, again)
		}
	}
	want := map[string]string{
		"429:2s": `429 {"error":{"code":429,"errors":[{"domain":"global","message":"Quotaexceededforquotametric'Queries'andlimit'Queriesperminute'.",` +
			`"reason":"rateLimitExceeded"}],"message":"Quotaexceededforquotametric'Queries'andlimit'Queriesperminute'."}} again in 2 | done 0`,
		"503": `503 {"error":{"code":503,"errors":[{"domain":"global","message":"ServiceUnavailable","reason":"backendError"}],"message":"ServiceUnavailable"}} | done 0`,
		"412": `412 {"error":{"code":412,"errors":[{"domain":"global","message":"Atleastoneofthepre-conditionsyouspecifieddidnothold.",` +
			`"reason":"conditionNotMet"}],"message":"Atleastoneofthepre-conditionsyouspecifieddidnothold."}} | done 0`,
		"reset-before": "connection reset | done 0",
		"reset-after":  "connection reset | done 1",
		"truncate":     `200 {"name" unexpected EOF | done 1`,
		"html":         "200 <!doctypehtml><html><head><title>Signin</title></head><body><h1>Welcometothisnetwork</h1></body></html> | done 0",
		"empty":        "200 | done 1",
		"double":       `200 {"name":"net"} | done 2`,
		"hang:1ms":     `200 {"name":"net"} | done 1`,
		"hold:1ms":     `200 {"name":"net"} | done 1`,
		"latency:1ms":  `200 {"name":"net"} | done 1`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// TestStrangersMeetNoFaults checks that whoever has no token is told so, whatever is in force, and that a rule does not see
// them.
func TestStrangersMeetNoFaults(t *testing.T) {
	w := newWorld(t)
	w.faults.Add(faults.Rule{Surface: faults.API, Rate: 1, Faults: []faults.Fault{{What: faults.ResetBefore}}})
	if got := w.ask(t, "garbage", "GET", one, ""); !strings.HasPrefix(got, "401 ") {
		t.Errorf("a stranger gets %s", got)
	}
	if s := w.faults.List()[0]; s.Matched != 0 {
		t.Errorf("the rule saw %d requests", s.Matched)
	}
}

// TestBodiesPass checks that a request whose name a rule looked at arrives whole.
func TestBodiesPass(t *testing.T) {
	w := newWorld(t)
	w.faults.Add(faults.Rule{Surface: faults.API, Rate: 1, Faults: []faults.Fault{{What: faults.Latency}}})
	got := w.ask(t, "secret", "POST", many, `{"name":"n1","autoCreateSubnetworks":false}`)
	if !strings.Contains(got, `"targetLink":"https://www.googleapis.com/compute/v1/projects/p/global/networks/n1"`) {
		t.Errorf("got %s", got)
	}
}

// TestOperations checks that a method which starts an operation is given one that fails, in each API's own words.
func TestOperations(t *testing.T) {
	w := newWorld(t)
	f, err := faults.Parse("operation:RESOURCE_EXHAUSTED:No more of them")
	if err != nil {
		t.Fatal(err)
	}
	w.faults.Add(faults.Rule{Surface: faults.API, Rate: 1, Faults: []faults.Fault{f}})
	got := map[string]string{}
	for path, body := range map[string]string{
		many:                       `{"name":"n1"}`,
		"/v1/projects/p/instances": `{"name":"db"}`,
		"/v1/projects/p/locations/r/instances?instanceId=c": `{}`,
	} {
		path, query, _ := strings.Cut(path, "?")
		answer := w.ask(t, "secret", "POST", path+"?"+query, body)
		code, raw, _ := strings.Cut(answer, " ")
		var op struct{ Name, SelfLink, TargetLink string }
		if err := json.Unmarshal([]byte(raw), &op); err != nil || code != "200" {
			t.Errorf("%s: %s", path, answer)
			continue
		}
		at := "/v1/" + op.Name
		if op.SelfLink != "" {
			_, rest, _ := strings.Cut(strings.TrimPrefix(op.SelfLink, "https://"), "/")
			at = "/" + rest
		}
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
			_, raw, _ := strings.Cut(w.ask(t, "secret", "GET", at, ""), " ")
			var done struct {
				Status string
				Done   bool
				Error  json.RawMessage
			}
			if err := json.Unmarshal([]byte(raw), &done); err != nil {
				t.Fatalf("%s: %s", at, raw)
			}
			if done.Done || done.Status == "DONE" {
				got[path] = string(done.Error)
				break
			}
		}
	}
	want := map[string]string{
		many:                                   `{"errors":[{"code":"RESOURCE_EXHAUSTED","message":"Nomoreofthem"}]}`,
		"/v1/projects/p/instances":             `{"errors":[{"code":"RESOURCE_EXHAUSTED","kind":"sql#operationError","message":"Nomoreofthem"}],"kind":"sql#operationErrors"}`,
		"/v1/projects/p/locations/r/instances": `{"code":8,"message":"Nomoreofthem"}`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if n := w.done.Load(); n != 0 {
		t.Errorf("%d were carried out", n)
	}
}
