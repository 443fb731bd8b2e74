package localcloud

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Clients that can be led to no other address, Dify's among them, find the APIs by the names that they have at Google, at
// HTTPS's port, if their name server is the local cloud's and they trust its authority.

// systemBundles are where systems have the authorities that they trust.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// certify makes an authority, writes it to the directory, and gives a certificate of its for hosts. Both are good as long
// as a local cloud may run.
func certify(dir string, hosts []string) (*tls.Certificate, error) {
	now := time.Now()
	sign := func(c, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		if parentKey == nil {
			parentKey = key
		}
		if c.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
			return nil, nil, err
		}
		c.NotBefore, c.NotAfter = now.Add(-time.Hour), now.Add(365*24*time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), parentKey)
		return der, key, err
	}
	// It can sign for nothing but what is served here, whoever is made to trust it.
	ca := &x509.Certificate{
		Subject: pkix.Name{CommonName: "local cloud of difyup"}, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign, PermittedDNSDomainsCritical: true, PermittedDNSDomains: hosts,
	}
	root, rootKey, err := sign(ca, ca, nil)
	if err != nil {
		return nil, err
	}
	if ca, err = x509.ParseCertificate(root); err != nil {
		return nil, err
	}
	der, key, err := sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: hosts[0]}, DNSNames: hosts, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, rootKey)
	if err != nil {
		return nil, err
	}
	ours := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})
	var system []byte
	for _, path := range systemBundles {
		if system, err = os.ReadFile(path); err == nil {
			break
		}
	}
	return &tls.Certificate{Certificate: [][]byte{der, root}, PrivateKey: key}, errors.Join(
		os.WriteFile(filepath.Join(dir, caFile), ours, 0o644),
		os.WriteFile(filepath.Join(dir, bundleFile), slices.Concat(ours, system), 0o644),
	)
}

// serveSecurely serves the APIs under their hosts' names, at HTTPS's port of an address, until end is called. Where that port
// may not be bound they are not served: at another one, nobody would look.
func serveSecurely(addr netip.Addr, dir string, hosts []string, next http.Handler, log *slog.Logger) (end func() error, err error) {
	cert, err := certify(dir, hosts)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp4", netip.AddrPortFrom(addr, 443).String())
	if err != nil {
		log.Info("the APIs are not served by name", "error", err)
		return func() error { return nil }, nil
	}
	names := slices.Clone(hosts)
	for _, h := range hosts {
		names = append(names, h+":443")
	}
	server := &http.Server{
		Handler: ownHosts(names, ownPages(next)), ReadHeaderTimeout: 30 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{*cert}},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the APIs are no longer served by name", "error", err)
		}
	}()
	return func() error {
		err := server.Close()
		<-done
		return err
	}, nil
}
