package standin

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/stores"
)

// The stand-in speaks TLS by the settings by which Dify's programs do, and verifies as much as they.

// authorities gives those in a file, which is read at each connection, as libpq and redis-py do.
func authorities(file string) (func() *x509.CertPool, error) {
	read := func() (*x509.CertPool, error) {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("the certificate authorities: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("the certificate authorities: %s holds none", file)
		}
		return pool, nil
	}
	if _, err := read(); err != nil {
		return nil, err
	}
	return func() *x509.CertPool {
		pool, _ := read() // without any, nobody is trusted
		return pool
	}, nil
}

// postgresTLS is what libpq makes of PGSSLMODE, and pgx in the plugin daemon of DB_SSL_MODE: with PGSSLROOTCERT, `require`
// verifies the authority too. nil is for servers that are spoken to as they are.
func (s settings) postgresTLS() (*tls.Config, error) {
	mode, file := s.or("DB_SSL_MODE", s("PGSSLMODE")), s("PGSSLROOTCERT")
	switch {
	case mode == "" || mode == "disable":
		return nil, nil
	case mode != "require" && mode != "verify-ca":
		return nil, fmt.Errorf("the stand-in does not know the mode %q of encryption", mode)
	case file == "" && mode == "require":
		return stores.TLS(nil), nil
	}
	roots, err := authorities(file)
	if err == nil && s("DB_SSL_MODE") != "" { // pgx reads the file once, when the daemon starts
		first := roots()
		roots = func() *x509.CertPool { return first }
	}
	return stores.TLS(roots), err
}

// encryptCache has a client of Redis do as REDIS_USE_SSL says. Like redis-py, it reads the authorities even to verify nothing.
func (s settings) encryptCache(o *redis.Options) error {
	if s("REDIS_USE_SSL") != "true" {
		return nil
	}
	if err := s.must("REDIS_SSL_CERT_REQS", "CERT_NONE"); err != nil {
		return err
	}
	if _, err := authorities(s("REDIS_SSL_CA_CERTS")); err != nil {
		return err
	}
	stores.EncryptRedis(o, stores.TLS(nil))
	return nil
}

// broker gives the options of a URL of Redis's, as Celery reads it.
func (s settings) broker(name string, dial stores.Dial) (*redis.Options, error) {
	bad := errors.New("the setting " + name + " is no URL of Redis") // the cause would show its password
	u, err := url.Parse(s(name))
	if err != nil {
		return nil, bad
	}
	query := u.Query()
	u.RawQuery = ""
	o, err := redis.ParseURL(u.String())
	if err != nil {
		return nil, bad
	}
	o.TLSConfig, o.Dialer = nil, dial
	if u.Scheme == "redis" {
		return o, nil
	}
	if query.Get("ssl_cert_reqs") != "required" || query.Get("ssl_check_hostname") != "false" {
		return nil, fmt.Errorf("the setting %s does not say to verify the authority and no names", name)
	}
	roots, err := authorities(query.Get("ssl_ca_certs"))
	if err != nil {
		return nil, err
	}
	stores.EncryptRedis(o, stores.TLS(roots))
	return o, nil
}
