package stores

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"

	"github.com/redis/go-redis/v9"
)

// TLS is for clients of stores. With roots, a server is refused whose certificate none of them signed; they are asked for at
// each connection, since authorities change. Names do not count: which ones the certificates bear is not known. Without roots,
// who answers is not looked at.
func TLS(roots func() *x509.CertPool) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true} // of what that skips, all but the names follows
	if roots != nil {
		c.VerifyConnection = func(s tls.ConnectionState) error {
			others := x509.NewCertPool()
			for _, cert := range s.PeerCertificates[1:] {
				others.AddCert(cert)
			}
			pool := roots()
			if pool == nil {
				pool = x509.NewCertPool() // not the system's
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: others})
			return err
		}
	}
	return c
}

// EncryptRedis has the client with these options speak TLS.
func EncryptRedis(o *redis.Options, c *tls.Config) {
	o.Dialer = Encrypted(o.Dialer, c)
}

// Dial connects.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// Encrypted connects as another one does, and speaks TLS then. It does not wait longer than Patience for that.
func Encrypted(dial Dial, c *tls.Config) Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, Patience)
		defer cancel()
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		encrypted := tls.Client(conn, c)
		if err := encrypted.HandshakeContext(ctx); err != nil {
			_ = conn.Close() // the handshake's error says it
			return nil, err
		}
		return encrypted, nil
	}
}
