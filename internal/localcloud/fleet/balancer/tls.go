package balancer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/localcloud/fleet/wire"
)

// tlsConfig is what a proxy offers its clients: its certificates, chosen by the name they ask for, and the limits of
// its SSL policy. Without a usable certificate handshakes fail, as they do on Google.
func (b *Balancer) tlsConfig(proxy wire.TargetProxy) *tls.Config {
	c := &tls.Config{NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS10}
	for _, link := range proxy.Certificates {
		cert, err := b.certificate(wire.Key(link))
		if err != nil {
			b.opts.Log.Warn("certificate not usable", "certificate", wire.Name(link), "error", err)
			continue
		}
		c.Certificates = append(c.Certificates, *cert)
	}
	if policy, ok := wire.Get[wire.SSLPolicy](b.opts.Resources, proxy.Policy); ok && proxy.Policy != "" {
		c.MinVersion, c.CipherSuites = limits(policy)
	}
	return c
}

// limits gives a policy's least version and its TLS 1.2 cipher suites; nil suites mean Go's usual ones.
func limits(p wire.SSLPolicy) (uint16, []uint16) {
	least := uint16(tls.VersionTLS10)
	switch p.Min {
	case "TLS_1_1":
		least = tls.VersionTLS11
	case "TLS_1_2":
		least = tls.VersionTLS12
	case "TLS_1_3":
		least = tls.VersionTLS13
	}
	var suites []uint16
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		ecdhe := strings.HasPrefix(s.Name, "TLS_ECDHE_")
		aead := strings.Contains(s.Name, "_GCM_") || strings.Contains(s.Name, "_CHACHA20_")
		var in bool
		switch p.Profile {
		case "MODERN":
			in = ecdhe && !s.Insecure
		case "RESTRICTED", "FIPS_202205":
			in = ecdhe && aead
		case "CUSTOM":
			in = slices.Contains(p.Custom, s.Name)
		}
		if in {
			suites = append(suites, s.ID)
		}
	}
	return least, suites
}

// certificate gives a certificate and its key. Those Google would manage are signed by themselves here: no authority
// can see this machine.
func (b *Balancer) certificate(key string) (*tls.Certificate, error) {
	if chain, private, ok := b.opts.KeyPair(key); ok {
		sum := sha256.Sum256([]byte(chain + private))
		id := key + string(sum[:])
		if c, ok := b.certs[id]; ok {
			return c, nil
		}
		c, err := tls.X509KeyPair([]byte(chain), []byte(private))
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		b.certs[id] = &c
		return &c, nil
	}
	cert, ok := wire.Get[wire.SSLCertificate](b.opts.Resources, key)
	if !ok {
		return nil, fmt.Errorf("no such certificate")
	}
	if cert.Type != "MANAGED" {
		return nil, fmt.Errorf("no private key")
	}
	id := key + strings.Join(cert.Managed.Domains, ",")
	if c, ok := b.certs[id]; ok {
		return c, nil
	}
	c, err := selfSigned(cert.Managed.Domains)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	b.certs[id] = c
	return c, nil
}

func selfSigned(domains []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "local cloud, managed certificate"}, DNSNames: domains,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
