package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/authority"
	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/services"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// engine is one that does as it is told.
type engine struct {
	err     error
	running bool
}

func (e *engine) Create(context.Context, string, map[string]string) (netip.Addr, error) {
	return netip.MustParseAddr("127.64.2.1"), e.err
}
func (e *engine) Delete(context.Context, string) error                      { return e.err }
func (e *engine) SetFlags(context.Context, string, map[string]string) error { return e.err }
func (e *engine) Restart(context.Context, string) error                     { return e.err }
func (e *engine) CreateDatabase(context.Context, string, string) error      { return e.err }
func (e *engine) DropDatabase(context.Context, string, string) error        { return e.err }
func (e *engine) SetUser(context.Context, string, string, string) error     { return e.err }
func (e *engine) DropUser(context.Context, string, string) error            { return e.err }
func (e *engine) Running(string) bool                                       { return e.running }
func (e *engine) SetEncrypted(context.Context, string, bool) error          { return e.err }
func (e *engine) AddAuthority(string) error                                 { return e.err }
func (e *engine) RotateAuthority(context.Context, string, string) error     { return e.err }
func (e *engine) Authorities(string) ([]authority.Authority, string, error) { return nil, "", e.err }

// TestStateAfterFlags follows an instance through changes of its flags that go wrong in different ways: it is RUNNABLE while its
// server runs, FAILED when it does not, and another change may help it.
func TestStateAfterFlags(t *testing.T) {
	server, err := front.New(front.Options{Dir: "/var/cloud", Token: "token"})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	e := &engine{running: true}
	v := Register(server, store.New(), e)
	const key = "projects/p/instances/i"
	v.instances.Put(key, map[string]any{
		"name": "i", "state": "RUNNABLE", "databaseVersion": "POSTGRES_16", "ipAddresses": []any{map[string]any{"ipAddress": "127.64.2.1"}},
		"settings": map[string]any{"settingsVersion": "1", "tier": "db-custom-1-3840", "edition": "ENTERPRISE", "ipConfiguration": map[string]any{"ipv4Enabled": false}},
	})
	type after struct{ State, Code, Flags string }
	patch := func(workMem string) after {
		r := &front.Request{Path: map[string]string{"project": "p", "instance": "i"}, Caller: front.Owner, Body: map[string]any{
			"settings": map[string]any{"databaseFlags": []any{map[string]any{"name": "work_mem", "value": workMem}}},
		}}
		answer, err := v.patch(false)(t.Context(), r)
		if err != nil {
			return after{Code: err.Error()}
		}
		name := body.String(answer.(map[string]any), "name")
		var op map[string]any
		for op = answer.(map[string]any); body.String(op, "status") != "DONE"; time.Sleep(time.Millisecond) {
			req := httptest.NewRequest(http.MethodGet, "/v1/projects/p/operations/"+name, nil)
			req.Header.Set("Authorization", "Bearer token")
			rec := httptest.NewRecorder()
			server.ServeHTTP(rec, req)
			op = nil
			if err := json.Unmarshal(rec.Body.Bytes(), &op); err != nil || rec.Code != http.StatusOK {
				t.Fatalf("%d %s: %v", rec.Code, rec.Body, err)
			}
		}
		b, _ := v.instances.Get(key)
		out := after{State: body.String(b, "state"), Flags: flagsOf(b)["work_mem"]}
		for _, f := range body.Maps(op, "error.errors") {
			out.Code = body.String(f, "code") + ": " + body.String(f, "message")
		}
		return out
	}
	said := errors.New(`set flags: postgres ended: it said: FATAL:  could not map memory`)
	for _, tc := range []struct {
		engine engine
		value  string
		want   after
	}{
		{engine{nil, true}, "64", after{"RUNNABLE", "", "64"}},
		{engine{said, true}, "65", after{"RUNNABLE", "invalidFlag: " + said.Error(), "64"}},
		{engine{said, false}, "66", after{"FAILED", "invalidFlag: " + said.Error(), "64"}},
		{engine{errors.Join(said, syscall.ENOSPC), false}, "67", after{"FAILED", "localDiskFull: The disk of the local cloud is full: /var/cloud", "64"}},
		{engine{nil, true}, "68", after{"RUNNABLE", "", "68"}},
	} {
		*e = tc.engine
		if d := cmp.Diff(tc.want, patch(tc.value)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.value, d)
		}
	}
	v.set(key, func(b map[string]any) { b["state"] = "PENDING_CREATE" })
	if got := patch("69"); !strings.Contains(got.Code, "RUNNABLE") {
		t.Errorf("an instance under creation is changed: %v", got)
	}
}

// TestTakesItsTime has a client that does not wait for operations: an instance is of use once it is there, does one thing at a time,
// and is there until it is gone.
func TestTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := front.New(front.Options{Token: "token", TimeScale: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		st := store.New()
		e := &engine{running: true}
		v := Register(server, st, e)
		const network = "projects/p/global/networks/net"
		st.Collection("networks").Put(network, map[string]any{"name": "net", "peerings": []any{map[string]any{"name": services.Peering}}})
		ask := func(h front.Handler, b map[string]any) string {
			_, err := h(t.Context(), &front.Request{Path: map[string]string{"project": "p", "instance": "i"}, Caller: front.Owner, Body: b})
			if e := (*front.Error)(nil); errors.As(err, &e) {
				return e.Reason
			}
			return "taken"
		}
		state := func() string {
			b, _ := v.instances.Get("projects/p/instances/i")
			return fmt.Sprint(body.String(b, "state"), len(body.List(b, "ipAddresses")))
		}
		insert := func() string {
			return ask(v.insert, map[string]any{"name": "i", "region": "r", "databaseVersion": "POSTGRES_16", "settings": map[string]any{
				"tier": "db-custom-1-3840", "edition": "ENTERPRISE", "ipConfiguration": map[string]any{"ipv4Enabled": false, "privateNetwork": network},
			}})
		}
		insertDatabase := func() string { return ask(v.insertDatabase, map[string]any{"name": "d"}) }
		insertUser := func() string { return ask(v.insertUser, map[string]any{"name": "u", "password": "secret"}) }
		remove := func() string { return ask(v.delete, nil) }
		for _, step := range []struct {
			after time.Duration
			do    func() string
			want  string
		}{
			{0, insert, "taken"}, {createTime - time.Second, state, "PENDING_CREATE0"}, {0, remove, "operationInProgress"}, {2 * time.Second, state, "RUNNABLE1"},
			{0, insertUser, "taken"}, {userTime - time.Second, insertDatabase, "operationInProgress"}, {2 * time.Second, insertDatabase, "taken"}, {userTime + time.Second, remove, "taken"},
			{deleteTime - time.Second, state, "PENDING_DELETE1"}, {0, insert, "instanceAlreadyExists"}, {2 * time.Second, remove, "instanceDoesNotExist"},
			{0, func() string { e.err = errors.New("no"); return insert() }, "taken"}, {createTime - time.Second, state, "PENDING_CREATE0"}, {2 * time.Second, state, "FAILED0"},
		} {
			time.Sleep(step.after)
			synctest.Wait()
			if d := cmp.Diff(step.want, step.do()); d != "" {
				t.Errorf("%v later (-want +got):\n%s", step.after, d)
			}
		}
	})
}
