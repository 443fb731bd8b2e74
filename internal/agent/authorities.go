package agent

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
)

// authorities are the certificates of the authorities that sign those of the stores. The agent fetches them with rights of its
// own, verifies by them, and writes them into files for Dify's services.
type authorities struct {
	mu    sync.Mutex
	pools map[string]*x509.CertPool // by the name of the file
	texts map[string][]byte
}

// Of each of a store's authorities that are listed, any may sign: the one that does now, the next one, and the one before.
func (s *authorities) pool(file string) func() *x509.CertPool {
	return func() *x509.CertPool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.pools[file]
	}
}

// set notes what a file holds, and says whether that is new.
func (s *authorities) set(file string, certs []*x509.Certificate) (text []byte, changed bool) {
	pool := x509.NewCertPool()
	var out bytes.Buffer
	for _, c := range certs {
		pool.AddCert(c)
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes all
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pools == nil {
		s.pools, s.texts = map[string]*x509.CertPool{}, map[string][]byte{}
	}
	changed = !bytes.Equal(s.texts[file], out.Bytes())
	s.pools[file], s.texts[file] = pool, out.Bytes()
	return out.Bytes(), changed
}

// tls is how the agent speaks to a store; nil = as it is.
func (a *agent) tls(how dify.TLS, file string) *tls.Config {
	switch how {
	case dify.Plain:
		return nil
	case dify.Verified:
		return stores.TLS(a.authorities.pool(file))
	}
	return stores.TLS(nil)
}

// trust fetches the authorities of the stores that are verified, and writes them for the services.
func (a *agent) trust(ctx context.Context) error {
	s := a.settings.Stores
	var databases []*x509.Certificate
	for _, d := range []struct {
		name string
		dify.Database
	}{{"the database", s.Database}, {"the vector database", s.Vector}} {
		if d.TLS != dify.Verified {
			continue
		}
		certs, err := a.databaseAuthorities(ctx, d.Instance)
		if err != nil {
			return &unready{"the certificate authorities of " + d.name, words(err), err.Error()}
		}
		databases = append(databases, certs...)
	}
	if err := a.keep(dify.DatabaseAuthorities, databases); err != nil {
		return err
	}
	if s.Redis.TLS != dify.Verified {
		return nil
	}
	certs, err := a.redisAuthorities(ctx, s.Redis.Instance)
	if err != nil {
		return &unready{"the certificate authorities of Redis", words(err), err.Error()}
	}
	return a.keep(dify.RedisAuthorities, certs)
}

// keep writes certificates into a file of services, in which they see a change at once.
func (a *agent) keep(file string, certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return nil
	}
	text, changed := a.authorities.set(file, certs)
	path := filepath.Join(a.opts.Authorities, file)
	if !changed {
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
			return nil
		}
	}
	if err := publish(a.opts.Authorities, path, text); err != nil {
		return fmt.Errorf("write the certificate authorities: %w", err)
	}
	a.log.Info("the certificate authorities of stores are known", "file", file, "authorities", len(certs))
	return nil
}

// publish writes a file for services, whole. It is no secret, and they run as users of their own: the agent's umask does not count.
func publish(dir, path string, text []byte) error {
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
		return err
	}
	next := path + ".next"
	if err := os.WriteFile(next, text, 0o644); err != nil {
		return err
	}
	return errors.Join(os.Chmod(next, 0o644), os.Rename(next, path))
}

// trustEvery is how often the authorities are fetched anew: one that is added is known long before it signs.
const (
	trustEvery    = 10 * time.Minute
	shortestTrust = 2 * time.Second // where time is scaled
)

// keepTrusting fetches the authorities now and then, until ctx ends.
func (a *agent) keepTrusting(ctx context.Context) {
	for sleep(ctx, a.scaled(trustEvery, shortestTrust)) == nil {
		if err := a.trust(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("the certificate authorities of stores cannot be fetched; those that are known stay", "error", err)
		}
	}
}

func (a *agent) databaseAuthorities(ctx context.Context, instance string) ([]*x509.Certificate, error) {
	var answer struct {
		Certs []struct{ Cert string }
	}
	what := "authorities of " + instance
	path := "v1/projects/" + url.PathEscape(a.settings.Project) + "/instances/" + url.PathEscape(instance) + "/listServerCas"
	if err := a.ask(ctx, "sqladmin.googleapis.com", "/"+path, what, &answer); err != nil {
		return nil, err
	}
	var texts []string
	for _, c := range answer.Certs {
		texts = append(texts, c.Cert)
	}
	return certificates(what, texts)
}

func (a *agent) redisAuthorities(ctx context.Context, instance string) ([]*x509.Certificate, error) {
	var answer struct {
		ServerCaCerts []struct{ Cert string }
	}
	what := "authorities of " + instance
	path := "v1/projects/" + url.PathEscape(a.settings.Project) + "/locations/" + url.PathEscape(a.settings.Region) + "/instances/" + url.PathEscape(instance)
	if err := a.ask(ctx, "redis.googleapis.com", "/"+path, what, &answer); err != nil {
		return nil, err
	}
	var texts []string
	for _, c := range answer.ServerCaCerts {
		texts = append(texts, c.Cert)
	}
	return certificates(what, texts)
}

// ask asks one of Google's APIs, as the instance's service account.
func (a *agent) ask(ctx context.Context, host, path, what string, answer any) error {
	raw, err := a.google.call(ctx, a.endpoint, request{Host: host, Method: http.MethodGet, Path: path, What: what})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return fmt.Errorf("%s: the answer cannot be read", what)
	}
	return nil
}

var errNoAuthority = errors.New("there is none yet")

// certificates reads those of authorities; at least one.
func certificates(what string, texts []string) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for _, text := range texts {
		for rest := []byte(text); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", what, err)
			}
			all = append(all, cert)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: %w", what, errNoAuthority)
	}
	return all, nil
}
