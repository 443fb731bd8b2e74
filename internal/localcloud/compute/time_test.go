package compute

import (
	"errors"
	"fmt"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// TestTakesItsTime has a client that does not wait for operations: what is made cannot be used before it is there, and what is
// deleted is there until it is gone.
func TestTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := front.New(front.Options{Token: "token", TimeScale: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		s := Register(server, store.New(), Options{})
		networks, subnets := s.row("networks"), s.row("subnetworks")
		bodies := map[*collection]map[string]any{
			networks: {"name": "net", "autoCreateSubnetworks": false}, subnets: {"name": "sub", "network": "global/networks/net", "ipCidrRange": "10.0.0.0/24"},
		}
		ask := func(h func(*collection) front.Handler, c *collection) string {
			r := &front.Request{Path: map[string]string{"project": "p", c.param: fmt.Sprint(bodies[c]["name"])}, Query: url.Values{}, Caller: front.Owner, Body: store.Clone(bodies[c])}
			if c == subnets {
				r.Path["region"] = "r"
			}
			_, err := h(c)(t.Context(), r)
			if e := (*front.Error)(nil); errors.As(err, &e) {
				return e.Reason
			}
			return "taken"
		}
		// last is how the network's last operation is.
		last := func() string {
			_, all := server.Ops().ComputeList(&front.Request{Path: map[string]string{"project": "p"}})
			op := all[len(all)-1]
			return fmt.Sprint(op["operationType"], " ", op["status"], " ", op["httpErrorMessage"])
		}
		for _, step := range []struct {
			after time.Duration
			what  string
			do    func() string
			want  string
		}{
			{0, "insert the network", func() string { return ask(s.insert, networks) }, "taken"},
			{0, "insert the subnet at once", func() string { return ask(s.insert, subnets) }, "resourceNotReady"},
			{networks.create - second, "a moment too early", func() string { return ask(s.insert, subnets) }, "resourceNotReady"},
			{2 * second, "the network is there", last, "insert DONE <nil>"},
			{0, "insert the subnet", func() string { return ask(s.insert, subnets) }, "taken"},
			{0, "delete what is being made", func() string { return ask(s.delete, subnets) }, "resourceNotReady"},
			{subnets.create + second, "delete the subnet", func() string { return ask(s.delete, subnets) }, "taken"},
			{subnets.remove - second, "it is there", func() string { return ask(s.get, subnets) }, "taken"},
			{0, "insert another one", func() string { return ask(s.insert, subnets) }, "alreadyExists"},
			{0, "delete the network", func() string { return ask(s.delete, networks) }, "taken"},
			{2 * second, "the subnet is gone", func() string { return ask(s.get, subnets) }, "notFound"},
			{networks.remove, "the network could not be deleted", last, "delete DONE BAD REQUEST"},
			{0, "delete the network again", func() string { return ask(s.delete, networks) }, "taken"},
			{0, "insert a subnet into it", func() string { return ask(s.insert, subnets) }, "resourceNotReady"},
			{networks.remove + second, "the network is gone", func() string { return ask(s.get, networks) }, "notFound"},
			{0, "and its deletion ended well", last, "delete DONE <nil>"},
		} {
			time.Sleep(step.after)
			synctest.Wait()
			if d := cmp.Diff(step.want, step.do()); d != "" {
				t.Errorf("%s (-want +got):\n%s", step.what, d)
			}
		}
	})
}

type loopback struct{}

func (loopback) Allocate(string) (string, error) { return "127.0.9.1", nil }
func (loopback) Release(string)                  {}

// TestAddressThatGoes has a forwarding rule take an address that is being made, is there, or is being deleted.
func TestAddressThatGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := front.New(front.Options{Token: "token", TimeScale: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		s := Register(server, store.New(), Options{Addresses: loopback{}})
		addresses := s.row("addresses")
		request := func() *front.Request {
			return &front.Request{Path: map[string]string{"project": "p", "address": "front"}, Query: url.Values{}, Caller: front.Owner, Body: map[string]any{"name": "front"}}
		}
		// take gives what is said to rules that name the address, and give it.
		take := func() (said []string) {
			for _, at := range []string{"global/addresses/front", "127.0.9.1"} {
				body := map[string]any{"name": "rule", "target": "t", "portRange": "443", "IPAddress": at}
				err := fillForwardingRule(s, request(), "projects/p/global/forwardingRules/rule", body, nil)
				if e := (*front.Error)(nil); errors.As(err, &e) {
					said = append(said, e.Reason)
				} else {
					said = append(said, fmt.Sprint(body["IPAddress"]))
				}
			}
			return said
		}
		if _, err := s.insert(addresses)(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
		made := take()
		time.Sleep(addresses.create + second)
		synctest.Wait()
		there := take()
		if _, err := s.delete(addresses)(t.Context(), request()); err != nil {
			t.Fatal(err)
		}
		goes := take()
		time.Sleep(addresses.remove + second)
		synctest.Wait()
		want := [][]string{{"resourceNotReady", "resourceNotReady"}, {"127.0.9.1", "127.0.9.1"}, {"resourceNotReady", "resourceNotReady"}, {"notFound", "invalid"}}
		if d := cmp.Diff(want, [][]string{made, there, goes, take()}); d != "" {
			t.Errorf("while it is made, there, deleted, and gone (-want +got):\n%s", d)
		}
	})
}
