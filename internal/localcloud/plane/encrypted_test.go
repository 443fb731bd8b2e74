//go:build linux

package plane_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/localcloud/authority"
	"github.com/difyup/difyup/internal/localcloud/plane"
)

// trust is a client that trusts authorities, and looks for a name unless it is "".
func trust(t *testing.T, name string, all ...authority.Authority) *tls.Config {
	t.Helper()
	pool := x509.NewCertPool()
	for _, a := range all {
		if !pool.AppendCertsFromPEM([]byte(a.PEM)) {
			t.Fatalf("no certificate: %s", a.PEM)
		}
	}
	return &tls.Config{InsecureSkipVerify: true, VerifyConnection: func(s tls.ConnectionState) error {
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: name})
		return err
	}}
}

// TestEncryptedSQL has a server refuse what is not encrypted, show certificates of each shape, and change its authority while
// sessions go on.
func TestEncryptedSQL(t *testing.T) {
	n, s, dir := start(t)
	e := newSQL(t, n, s, dir)
	ctx := t.Context()
	login := func(addr netip.Addr, c *tls.Config) (*pgx.Conn, error) {
		config, err := pgx.ParseConfig("postgres://dify:pw@" + addr.String() + "/postgres?sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		config.TLSConfig = c
		conn, err := pgx.ConnectConfig(ctx, config)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close(context.Background()) })
		}
		return conn, err
	}
	refused := func(what string, addr netip.Addr, c *tls.Config) {
		t.Helper()
		if _, err := login(addr, c); err == nil {
			t.Errorf("%s: it is let in", what)
		}
	}
	for name, bears := range map[authority.Names]func(netip.Addr) string{
		authority.NoNames: nil, authority.DNSNames: func(netip.Addr) string { return "dns.p.stores.goog" }, authority.AddressNames: netip.Addr.String,
	} {
		id := "p/" + string(name)
		e.SetNames(name)
		addr, err := e.Create(ctx, id, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.SetUser(ctx, id, "dify", "pw"); err != nil {
			t.Fatal(err)
		}
		first, active, err := e.Authorities(id)
		if err != nil || len(first) != 1 || active != first[0].SHA1 {
			t.Fatalf("authorities %+v, active %s, %v", first, active, err)
		}
		if _, err := login(addr, trust(t, "", first...)); err != nil {
			t.Errorf("%s: with its authority: %v", name, err)
		}
		if bears == nil {
			refused("no names", addr, trust(t, addr.String(), first...))
			refused("no names", addr, trust(t, "p:none", first...))
		} else if _, err := login(addr, trust(t, bears(addr), first...)); err != nil {
			t.Errorf("%s: by its name: %v", name, err)
		}
		refused("a name that it has not got", addr, trust(t, "db.demo.internal", first...))
	}
	var addr netip.Addr
	for _, id := range []string{"p/main", "p/other"} {
		at, err := e.Create(ctx, id, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.SetUser(ctx, id, "dify", "pw"); err != nil {
			t.Fatal(err)
		}
		if id == "p/main" {
			addr = at
		}
	}
	plain, err := login(addr, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.SetEncrypted(ctx, "p/main", true); err != nil {
		t.Fatal(err)
	}
	refused("not encrypted", addr, nil)
	if err := plain.Ping(ctx); err != nil {
		t.Errorf("a session from before: %v", err)
	}
	others, _, err := e.Authorities("p/other")
	if err != nil {
		t.Fatal(err)
	}
	refused("another server's authority", addr, trust(t, "", others...))
	if err := e.RotateAuthority(ctx, "p/main", ""); !errors.Is(err, authority.ErrNone) {
		t.Errorf("rotated to nothing: %v", err)
	}
	old, _, _ := e.Authorities("p/main")
	session, err := login(addr, trust(t, "", old...))
	if err != nil {
		t.Fatal(err)
	}
	// A second one that is added replaces the one that waits.
	if err := errors.Join(e.AddAuthority("p/main"), e.AddAuthority("p/main")); err != nil {
		t.Fatal(err)
	}
	both, active, _ := e.Authorities("p/main")
	if len(both) != 2 || active != old[0].SHA1 {
		t.Fatalf("there are %d authorities, and %s is active", len(both), active)
	}
	if _, err := login(addr, trust(t, "", both...)); err != nil {
		t.Errorf("both, before: %v", err)
	}
	if err := e.RotateAuthority(ctx, "p/main", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := login(addr, trust(t, "", both...)); err != nil {
		t.Errorf("both, after: %v", err)
	}
	refused("the old one alone, after", addr, trust(t, "", old...))
	if err := session.Ping(ctx); err != nil {
		t.Errorf("a session from before the rotation: %v", err)
	}
	if err := e.Restart(ctx, "p/main"); err != nil {
		t.Fatal(err)
	}
	refused("not encrypted, after a restart", addr, nil)
	if err := errors.Join(e.RotateAuthority(ctx, "p/main", old[0].SHA1), e.SetEncrypted(ctx, "p/main", false)); err != nil {
		t.Fatal(err)
	}
	if _, err := login(addr, trust(t, "", old...)); err != nil {
		t.Errorf("rotated back: %v", err)
	}
	if _, err := login(addr, nil); err != nil {
		t.Errorf("not encrypted, when that is allowed again: %v", err)
	}
}

// TestEncryptedCache has a server take TLS alone, and change its authority while connections go on.
func TestEncryptedCache(t *testing.T) {
	n, s, dir := start(t)
	path, err := plane.FindRedis()
	if err != nil {
		t.Fatal(err)
	}
	e := plane.NewCache(n, s, path, dir)
	ctx := t.Context()
	addr, err := e.CreateEncrypted(ctx, "p/r/redis", "pw", map[string]string{"maxmemory-policy": "noeviction"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.CreateEncrypted(ctx, "p/r/other", "pw", nil); err != nil {
		t.Fatal(err)
	}
	ping := func(port uint16, c *tls.Config) error {
		r := redis.NewClient(&redis.Options{Addr: netip.AddrPortFrom(addr, port).String(), Password: "pw", TLSConfig: c, MaxRetries: -1, DialerRetries: 1})
		return errors.Join(r.Ping(ctx).Err(), r.Close())
	}
	own, err := e.Authorities("p/r/redis")
	if err != nil || len(own) != 1 {
		t.Fatalf("authorities %+v, %v", own, err)
	}
	others, err := e.Authorities("p/r/other")
	if err != nil {
		t.Fatal(err)
	}
	if err := ping(6378, trust(t, "", own...)); err != nil {
		t.Error(err)
	}
	if err := e.SetConfig(ctx, "p/r/redis", map[string]string{"maxmemory-policy": "volatile-lru"}); err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"another server's authority": ping(6378, trust(t, "", others...)), "not encrypted": ping(6378, nil), "the usual port": ping(6379, nil),
	} {
		if err == nil {
			t.Errorf("%s: it is let in", what)
		}
	}
	if err := e.RotateAuthority(ctx, "p/r/redis"); !errors.Is(err, authority.ErrNone) {
		t.Errorf("rotated to nothing: %v", err)
	}
	session := redis.NewClient(&redis.Options{
		Addr: netip.AddrPortFrom(addr, 6378).String(), Password: "pw", TLSConfig: trust(t, "", own...), PoolSize: 1, MaxRetries: -1, DialerRetries: 1,
	})
	defer session.Close()
	was, err := session.ClientID(ctx).Result()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.AddAuthority("p/r/redis"); err != nil {
		t.Fatal(err)
	}
	both, err := e.Authorities("p/r/redis")
	if err != nil || len(both) != 2 {
		t.Fatalf("there are %d authorities, %v", len(both), err)
	}
	if err := ping(6378, trust(t, "", both[1])); err == nil {
		t.Error("the next one alone, before: it is let in")
	}
	if err := errors.Join(ping(6378, trust(t, "", both...)), e.RotateAuthority(ctx, "p/r/redis"), ping(6378, trust(t, "", both...))); err != nil {
		t.Error(err)
	}
	if err := ping(6378, trust(t, "", own...)); err == nil {
		t.Error("the old one alone, after: it is let in")
	}
	if is, err := session.ClientID(ctx).Result(); err != nil || is != was {
		t.Errorf("a connection from before the rotation is %d instead of %d: %v", is, was, err)
	}
}
