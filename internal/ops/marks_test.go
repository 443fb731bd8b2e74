package ops

import (
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// TestByHand checks that what is not deleted is told with a way that there is: a local cloud has no console.
func TestByHand(t *testing.T) {
	params := map[string]string{"project": "p", "region": "us-east1"}
	network := &resource.Resource{Kind: kind.Networks.Kind, Name: "demo-net", Params: params}
	scaler := &resource.Resource{Kind: kind.RegionAutoscalers.Kind, Name: "demo-autoscaler", Params: params}
	const delete = "If they are the stack's, delete them by hand:"
	const command, console = "gcloud compute networks delete demo-net --project=p", "in Google's console: compute.regionAutoscalers/demo-autoscaler"
	for endpoint, want := range map[string]struct{ byHand, both, one string }{
		"": {console, delete + "\n    " + command + "\n    " + console, delete + "\n    " + console},
		"http://cloud/": {
			"difyup local down, and with it all that is in the local cloud",
			delete + "\n    " + command + "\nWhat has no command here is deleted with all that is in the local cloud:\n    difyup local down",
			"They are deleted with all that is in the local cloud:\n    difyup local down",
		},
	} {
		c, err := gcp.New(t.Context(), gcp.Options{Project: "p", Endpoint: endpoint, HTTP: http.DefaultClient})
		if err != nil {
			t.Fatal(err)
		}
		s := &Stack{opts: Options{Identity: config.Identity{Stack: "demo", Project: "p"}}, client: c}
		if got := s.byHand(network); got != command {
			t.Errorf("%q: %s", endpoint, got)
		}
		if got := s.byHand(scaler); got != want.byHand {
			t.Errorf("%q: %s", endpoint, got)
		}
		for _, tc := range []struct {
			kept []*resource.Resource
			want string
		}{{[]*resource.Resource{network, scaler}, want.both}, {[]*resource.Resource{scaler}, want.one}} {
			f := new(fault.Fault)
			if err := s.notOurs(tc.kept); !errors.As(err, &f) {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, f.Remedy); d != "" {
				t.Errorf("%q (-want +got):\n%s", endpoint, d)
			}
		}
	}
}
