package dify_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/dify"
)

// TestEncrypted compares what services are told of how to speak to stores, for each way.
func TestEncrypted(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*dify.Stores)
		want   string
	}{
		{"plain", func(*dify.Stores) {}, `
api REDIS_USE_SSL=false
worker REDIS_USE_SSL=false
worker_beat REDIS_USE_SSL=false
plugin_daemon DB_SSL_MODE=disable
plugin_daemon REDIS_USE_SSL=false
`},
		{"required", func(s *dify.Stores) { s.Database.TLS, s.Vector.TLS = dify.Required, dify.Required }, `
api PGSSLMODE=require
api REDIS_USE_SSL=false
worker PGSSLMODE=require
worker REDIS_USE_SSL=false
worker_beat PGSSLMODE=require
worker_beat REDIS_USE_SSL=false
plugin_daemon DB_SSL_MODE=require
plugin_daemon REDIS_USE_SSL=false
`},
		{"verified", func(s *dify.Stores) {
			s.Database.TLS, s.Vector.TLS, s.Redis.TLS, s.Redis.Port = dify.Verified, dify.Verified, dify.Verified, 6378
		}, `
api CELERY_BROKER_URL=rediss://:value-of-REDIS_AUTH@redis.demo.internal:6378/1?ssl_cert_reqs=required&ssl_check_hostname=false&ssl_ca_certs=/etc/difyup-authorities/redis.pem
api EVENT_BUS_REDIS_URL=rediss://:value-of-REDIS_AUTH@redis.demo.internal:6378/0?ssl_cert_reqs=required&ssl_check_hostname=false&ssl_ca_certs=/etc/difyup-authorities/redis.pem
api PGSSLMODE=verify-ca
api PGSSLROOTCERT=/etc/difyup-authorities/postgresql.pem
api REDIS_SSL_CA_CERTS=/etc/difyup-authorities/redis.pem
api REDIS_SSL_CERT_REQS=CERT_NONE
api REDIS_USE_SSL=true
worker CELERY_BROKER_URL=rediss://:value-of-REDIS_AUTH@redis.demo.internal:6378/1?ssl_cert_reqs=required&ssl_check_hostname=false&ssl_ca_certs=/etc/difyup-authorities/redis.pem
worker EVENT_BUS_REDIS_URL=rediss://:value-of-REDIS_AUTH@redis.demo.internal:6378/0?ssl_cert_reqs=required&ssl_check_hostname=false&ssl_ca_certs=/etc/difyup-authorities/redis.pem
worker PGSSLMODE=verify-ca
worker PGSSLROOTCERT=/etc/difyup-authorities/postgresql.pem
worker REDIS_SSL_CA_CERTS=/etc/difyup-authorities/redis.pem
worker REDIS_SSL_CERT_REQS=CERT_NONE
worker REDIS_USE_SSL=true
worker_beat PGSSLMODE=verify-ca
worker_beat PGSSLROOTCERT=/etc/difyup-authorities/postgresql.pem
worker_beat REDIS_USE_SSL=false
plugin_daemon DB_SSL_MODE=require
plugin_daemon PGSSLROOTCERT=/etc/difyup-authorities/postgresql.pem
plugin_daemon REDIS_SSL_CA_CERTS=/etc/difyup-authorities/redis.pem
plugin_daemon REDIS_SSL_CERT_REQS=CERT_NONE
plugin_daemon REDIS_USE_SSL=true
`},
	} {
		s, secrets := settings()
		tc.change(&s.Stores)
		var got strings.Builder
		got.WriteString("\n")
		services := project(t, dify.Default, s, secrets)
		for _, n := range dify.Names() {
			var lines []string
			for name, value := range services[n].Environment {
				if strings.Contains(name, "SSL") && !strings.HasPrefix(name, "SSRF") || strings.HasPrefix(value, "rediss") {
					lines = append(lines, fmt.Sprintf("%s %s=%s\n", n, name, value))
				}
			}
			slices.Sort(lines)
			got.WriteString(strings.Join(lines, ""))
			// Who is to read the files gets them.
			reads := strings.Contains(strings.Join(lines, ""), dify.AuthorityDir)
			if services[n].Authorities() != reads {
				t.Errorf("%s: %s reads authorities: %t, and gets them: %t", tc.name, n, reads, !reads)
			}
		}
		if d := cmp.Diff(tc.want, got.String()); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
}

// TestNoAuth has a Redis without a password: nobody asks for one, and no URL has one.
func TestNoAuth(t *testing.T) {
	s, secrets := settings()
	s.Stores.Redis.NoAuth = true
	delete(secrets, dify.RedisAuth)
	if slices.ContainsFunc(s.Purposes(), func(p dify.Purpose) bool { return p.Key == dify.RedisAuth }) || len(s.Purposes()) != len(dify.Purposes())-1 {
		t.Errorf("the purposes are %+v", s.Purposes())
	}
	api := project(t, dify.Default, s, secrets)[dify.API].Environment
	if got := api["CELERY_BROKER_URL"] + " " + api["REDIS_PASSWORD"]; got != "redis://redis.demo.internal:6379/1 " {
		t.Errorf("the API is told %q", got)
	}
}
