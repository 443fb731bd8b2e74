package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Names is what names the certificates of servers bear besides the common name PROJECT:INSTANCE. Which of these Google's bear
// is not known: clients have to do with each.
type Names string

// What names there are.
const (
	NoNames      Names = "none"    // the common name alone
	DNSNames     Names = "dns"     // a DNS name of the instance's, which is not the one in the stack's zone
	AddressNames Names = "address" // the server's address
)

// Authority is a certificate authority of one server's.
type Authority struct {
	PEM             string
	Subject, Serial string
	SHA1            string // of the certificate, in hexadecimal
	Made, Ends      time.Time
	key             *ecdsa.PrivateKey
	cert            *x509.Certificate
}

// Set is those of one server: the former, the one that signed its certificate, and the next, each if there is one.
type Set struct {
	names  Names
	all    []*Authority
	active *Authority
}

// Life spans, as Google gives them.
const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
)

func newAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"difyup local cloud"}, CommonName: "Server CA " + rand.Text()},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(authorityLife), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	sum := sha1.Sum(der)
	return &Authority{
		PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), Subject: cert.Subject.String(), Serial: serial.String(),
		SHA1: hex.EncodeToString(sum[:]), Made: now, Ends: cert.NotAfter, key: key, cert: cert,
	}, nil
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
}

// NewSet makes a set with one authority.
func NewSet(names Names) (*Set, error) {
	first, err := newAuthority()
	if err != nil {
		return nil, fmt.Errorf("make a certificate authority: %w", err)
	}
	return &Set{names: names, all: []*Authority{first}, active: first}, nil
}

// Add makes the next authority, in place of one that waits already.
func (a *Set) Add() error {
	next, err := newAuthority()
	if err != nil {
		return fmt.Errorf("make a certificate authority: %w", err)
	}
	a.all = append(a.all[:slices.Index(a.all, a.active)+1:slices.Index(a.all, a.active)+1], next)
	return nil
}

// ErrNone is that there is no authority to rotate to.
var ErrNone = errors.New("there is no such certificate authority to rotate to")

// Rotate has the next authority, or the one with this SHA1, be the active one. Those before the last active one are dropped.
func (a *Set) Rotate(sha1 string) error {
	now := slices.Index(a.all, a.active)
	next := now + 1
	if sha1 != "" {
		next = slices.IndexFunc(a.all, func(c *Authority) bool { return c.SHA1 == sha1 })
	}
	if next < 0 || next >= len(a.all) {
		return ErrNone
	}
	a.active = a.all[next]
	a.all = a.all[min(now, next):]
	return nil
}

// pool is what who knows the server trusts.
func (a *Set) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range a.all {
		pool.AddCert(c.cert)
	}
	return pool
}

// Issue gives a certificate of the active authority for a server, and its key, in PEM. Its instance is known by a name whose
// first part is the project's and whose last part is its own.
func (a *Set) Issue(name string, addr netip.Addr) (certificate, private []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	parts := strings.Split(name, "/")
	project, instance := parts[0], parts[len(parts)-1]
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: project + ":" + instance}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(certificateLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	switch a.names {
	case DNSNames:
		template.DNSNames = []string{instance + "." + project + ".stores.goog"}
	case AddressNames:
		template.IPAddresses = []net.IP{addr.AsSlice()}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.active.cert, key.Public(), a.active.key)
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), nil
}

// Client is for connections of the local cloud's own, whatever names the certificate bears.
func (a *Set) Client() *tls.Config {
	pool := a.pool()
	return &tls.Config{
		MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, // VerifyConnection verifies all but the names
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool})
			return err
		},
	}
}

// List gives copies, the oldest first, and the SHA1 of the active one.
func (a *Set) List() (all []Authority, active string) {
	for _, c := range a.all {
		all = append(all, *c)
	}
	return all, a.active.SHA1
}
