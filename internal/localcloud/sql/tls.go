package sql

import (
	"context"
	"errors"
	"time"

	"github.com/difyup/difyup/internal/localcloud/authority"
	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
)

// How connections are encrypted, and by whose certificates.

const (
	plainToo      = "ALLOW_UNENCRYPTED_AND_ENCRYPTED"
	encryptedOnly = "ENCRYPTED_ONLY"
)

// encrypted says whether an instance refuses connections that are not encrypted.
func encrypted(b map[string]any) bool {
	return body.String(b, "settings.ipConfiguration.sslMode") == encryptedOnly
}

// fillTLS refuses what is not done here. Of sslMode and the older requireSsl, the former counts.
func fillTLS(b map[string]any) error {
	const mode, authority = "settings.ipConfiguration.sslMode", "settings.ipConfiguration.serverCaMode"
	body.Default(b, mode, plainToo)
	body.Default(b, authority, "GOOGLE_MANAGED_INTERNAL_CA")
	switch {
	case body.String(b, mode) != plainToo && body.String(b, mode) != encryptedOnly || body.Bool(b, "settings.ipConfiguration.requireSsl"):
		return front.Unserved("The local cloud asks for no client certificates: sslMode must be " + plainToo + " or " + encryptedOnly + ".")
	case body.String(b, authority) != "GOOGLE_MANAGED_INTERNAL_CA":
		return front.Unserved("The local cloud's certificate authorities are each one instance's: serverCaMode must be GOOGLE_MANAGED_INTERNAL_CA.")
	}
	return nil
}

func authorityBody(instance string, a authority.Authority) map[string]any {
	return map[string]any{
		"kind": "sql#sslCert", "certSerialNumber": a.Serial, "cert": a.PEM, "createTime": body.Time(a.Made), "commonName": a.Subject,
		"expirationTime": body.Time(a.Ends), "sha1Fingerprint": a.SHA1, "instance": instance,
	}
}

// authority gives the one that signed the certificate of an instance; nil when its server is not there.
func (v *Service) authority(k string) any {
	all, active, _ := v.engine.Authorities(engineName(k)) // without a server there are none
	for _, a := range all {
		if a.SHA1 == active {
			return authorityBody(engineInstance(k), a)
		}
	}
	return nil
}

func (v *Service) listAuthorities(_ context.Context, r *front.Request) (any, error) {
	k, err := v.running(r)
	if err != nil {
		return nil, err
	}
	all, active, err := v.engine.Authorities(engineName(k))
	if err != nil {
		return nil, err
	}
	var certs []any
	for _, a := range all {
		certs = append(certs, authorityBody(engineInstance(k), a))
	}
	return map[string]any{"kind": "sql#instancesListServerCas", "certs": certs, "activeVersion": active}, nil
}

const authorityTime = 10 * time.Second

func (v *Service) addAuthority(_ context.Context, r *front.Request) (any, error) {
	if _, err := v.running(r); err != nil {
		return nil, err
	}
	return v.run(r, "UPDATE", authorityTime, func(_ context.Context, k string) error {
		return v.engine.AddAuthority(engineName(k))
	})
}

func (v *Service) rotateAuthority(_ context.Context, r *front.Request) (any, error) {
	k, err := v.running(r)
	if err != nil {
		return nil, err
	}
	next := body.String(r.Body, "rotateServerCaContext.nextVersion")
	all, active, err := v.engine.Authorities(engineName(k))
	if err != nil {
		return nil, err
	}
	there := false
	for i, a := range all {
		there = there || next != "" && a.SHA1 == next || next == "" && i > 0 && all[i-1].SHA1 == active
	}
	if !there {
		return nil, invalid("There is no server CA certificate to rotate to.")
	}
	return v.run(r, "UPDATE", authorityTime, func(ctx context.Context, k string) error {
		err := v.engine.RotateAuthority(ctx, engineName(k), next)
		if errors.Is(err, authority.ErrNone) {
			return invalid("There is no server CA certificate to rotate to.")
		}
		if err == nil {
			v.set(k, func(b map[string]any) { b["serverCaCert"] = v.authority(k) })
		}
		return err
	})
}
