package gcp_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/gcp/driver"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// answer is a cloud that says the same to everything.
type answer struct {
	code int
	body string
}

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(a.body)), Request: r}, nil
}

// TestAdvice checks that advice names gcloud and the console at Google alone: another cloud has neither.
func TestAdvice(t *testing.T) {
	params := map[string]string{"project": "p", "region": "us-east1"}
	const whenFailed = "If it has run before, do not delete it: its data and its backups would go with it. See its page in the Google Cloud console, and ask Google's support. If it has never run, delete it by hand, then apply again."
	const whenSuspended = "See the project's billing and the page of the resource in the Google Cloud console. When it runs again, apply again."
	for _, tc := range []struct {
		name          string
		answer        answer
		call          func(c *gcp.Client) error
		google, other string
	}{
		{"a database that failed", answer{200, `{"state":"FAILED"}`}, func(c *gcp.Client) error {
			_, err := c.Await(t.Context(), &resource.Resource{Kind: kind.SQLInstances.Kind, Name: "demo-main", Params: params})
			return err
		}, whenFailed + "\n    gcloud sql instances delete demo-main --project=p", "Delete the stack and create it again:\n    difyup destroy"},
		{"a cache that failed", answer{200, `{"state":"FAILED"}`}, func(c *gcp.Client) error {
			_, err := c.Await(t.Context(), &resource.Resource{Kind: kind.RedisInstances.Kind, Name: "demo-redis", Params: params})
			return err
		}, whenFailed + "\n    gcloud redis instances delete demo-redis --region=us-east1 --project=p", "Delete the stack and create it again:\n    difyup destroy"},
		{"a database that is suspended", answer{200, `{"state":"SUSPENDED"}`}, func(c *gcp.Client) error {
			_, err := c.Await(t.Context(), &resource.Resource{Kind: kind.SQLInstances.Kind, Name: "demo-main", Params: params})
			return err
		}, whenSuspended, whenSuspended},
		{"a project that is not there", answer{404, `{"error":{"code":404,"message":"no"}}`}, func(c *gcp.Client) error {
			_, err := c.ProjectNumber(t.Context())
			return err
		}, "Check its name and your rights on it:\n    gcloud projects describe p", "Check its name in the description."},
	} {
		for endpoint, want := range map[string]string{"": tc.google, "http://cloud/": tc.other} {
			c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: endpoint, HTTP: &http.Client{Transport: tc.answer}, Drivers: driver.All()})
			if err != nil {
				t.Fatal(err)
			}
			all := fault.All(tc.call(c))
			if len(all) != 1 {
				t.Fatalf("%s: %d faults", tc.name, len(all))
			}
			if d := cmp.Diff(want, all[0].Remedy); d != "" {
				t.Errorf("%s at %q (-want +got):\n%s", tc.name, endpoint, d)
			}
		}
	}
}
