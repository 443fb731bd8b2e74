package redis

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/authority"
	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// engine is one that does as it is told.
type engine struct{ err error }

func (e *engine) Create(context.Context, string, string, map[string]string) (netip.Addr, error) {
	return netip.MustParseAddr("127.64.3.1"), e.err
}

func (e *engine) CreateEncrypted(ctx context.Context, name, password string, config map[string]string) (netip.Addr, error) {
	return e.Create(ctx, name, password, config)
}
func (e *engine) Authorities(string) ([]authority.Authority, error)          { return nil, e.err }
func (e *engine) SetPassword(context.Context, string, string) error          { return e.err }
func (e *engine) SetConfig(context.Context, string, map[string]string) error { return e.err }
func (e *engine) Delete(context.Context, string) error                       { return e.err }

// TestTakesItsTime has a client that does not wait for operations: an instance is of use once it is there, does one thing at a time,
// and is there until it is gone.
func TestTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := front.New(front.Options{Token: "token", TimeScale: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		e := &engine{}
		v := Register(server, store.New(), e)
		ask := func(h front.Handler, query string, b map[string]any) string {
			q, err := url.ParseQuery(query)
			if err != nil {
				t.Fatal(err)
			}
			_, err = h(t.Context(), &front.Request{Path: map[string]string{"project": "p", "location": "r", "instance": "i"}, Query: q, Caller: front.Owner, Body: b})
			if e := (*front.Error)(nil); errors.As(err, &e) {
				return e.Reason
			}
			return "taken"
		}
		state := func() string {
			b, _ := v.instances.Get("projects/p/locations/r/instances/i")
			return fmt.Sprint(body.String(b, "state"), " ", body.String(b, "host"), " ", body.String(b, "displayName"))
		}
		create := func() string { return ask(v.create, "instanceId=i", map[string]any{"memorySizeGb": 1}) }
		patch := func() string { return ask(v.patch, "updateMask=displayName", map[string]any{"displayName": "x"}) }
		remove := func() string { return ask(v.delete, "", nil) }
		for _, step := range []struct {
			after time.Duration
			do    func() string
			want  string
		}{
			{0, create, "taken"}, {createTime - time.Second, state, "CREATING  "}, {0, patch, "operationInProgress"}, {2 * time.Second, state, "READY 127.64.3.1 "},
			{0, patch, "taken"}, {updateTime - time.Second, state, "UPDATING 127.64.3.1 "}, {0, remove, "operationInProgress"}, {2 * time.Second, state, "READY 127.64.3.1 x"},
			{0, remove, "taken"}, {deleteTime - time.Second, state, "DELETING 127.64.3.1 x"}, {0, create, "alreadyExists"}, {2 * time.Second, remove, "notFound"},
			{0, func() string { e.err = errors.New("no"); return create() }, "taken"}, {createTime - time.Second, state, "CREATING  "}, {2 * time.Second, remove, "notFound"},
		} {
			time.Sleep(step.after)
			synctest.Wait()
			if d := cmp.Diff(step.want, step.do()); d != "" {
				t.Errorf("%v later (-want +got):\n%s", step.after, d)
			}
		}
	})
}
