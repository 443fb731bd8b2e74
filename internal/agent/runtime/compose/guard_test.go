package compose_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/agent/runtime/compose"
	"github.com/difyup/difyup/internal/dify"
)

// TestGuardText compares the rules for what containers may reach: before the stores are known, and with them.
func TestGuardText(t *testing.T) {
	s, secrets := settings("the-secret")
	s.Stores.Redis.Port, s.ProxiedServices = 6378, []string{"mcp.demo.internal:8443"}
	all := services(t, dify.Default, s, secrets)
	at := map[string][]netip.Addr{}
	for name, a := range map[string]string{
		"db.demo.internal": "10.64.0.3", "vector.demo.internal": "10.64.0.4", "redis.demo.internal": "10.65.0.2", "other.demo.internal": "10.66.0.2", "mcp.demo.internal": "10.67.0.2",
	} {
		at[name] = []netip.Addr{netip.MustParseAddr(a)}
	}
	at["db.demo.internal"] = append(at["db.demo.internal"], netip.MustParseAddr("::ffff:10.64.0.5"), netip.MustParseAddr("fd20::1"), netip.MustParseAddr("169.254.169.254"))
	for name, got := range map[string]string{"guard.nft": compose.Guard(all, at), "guard-early.nft": compose.Guard(all, nil)} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s (-want +got; -update rewrites it):\n%s", name, d)
		}
	}
}
