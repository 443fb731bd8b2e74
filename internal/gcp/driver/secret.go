package driver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/event"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/gcp"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// secret makes a secret together with its value. Google takes two calls for that; the number of the version is written
// down third, so that a secret without it was interrupted half way.
type secret struct{ gcp.REST }

var (
	_ gcp.Stepwise = (*secret)(nil)
	_ gcp.Picker   = (*secret)(nil)
)

// Whole says whether the last of the calls was made.
func (d *secret) Whole(live map[string]any) bool {
	return kind.SecretWhole(live)
}

// Read gives the secret, with the number of the version that was written down.
func (d *secret) Read(ctx context.Context, r *resource.Resource) (map[string]any, error) {
	live, err := d.REST.Read(ctx, r)
	return numbered(live), err
}

// Pick does the same in a list.
func (d *secret) Pick(r *resource.Resource, items []map[string]any) map[string]any {
	return numbered(d.REST.Pick(r, items))
}

func numbered(live map[string]any) map[string]any {
	if n, ok := kind.VersionIn(kind.Annotation(live, kind.SecretAdded)); ok {
		live["version"] = float64(n)
	}
	return live
}

func (d *secret) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	err := d.Do(ctx, gcp.Call{
		API: r.Kind.API, Method: http.MethodPost, Path: r.CollectionPath(), Query: url.Values{"secretId": {r.Leaf()}}, For: r.ID(),
		Body: map[string]any{"replication": map[string]any{"automatic": map[string]any{}}, "labels": body["labels"]},
	})
	if err != nil && !gcp.Exists(r.Kind.API, err) {
		return err
	}
	if err != nil {
		live, err := d.REST.Read(ctx, r)
		if err != nil {
			return err
		}
		if err := d.Ours(ctx, r, body, live); err != nil {
			return err
		}
	}
	return d.complete(ctx, r, body)
}

// complete gives the secret its value, unless it has the right one, in the version that is wanted, and writes the number
// down. A generated value is never generated twice.
func (d *secret) complete(ctx context.Context, r *resource.Resource, body map[string]any) error {
	number, have, err := d.SecretVersion(ctx, r, "latest")
	if err != nil && !gcp.Is(err, 404) {
		return err
	}
	payload, _ := body["payload"].(string)
	if payload == "" {
		if payload = have; payload == "" {
			length, _ := body["generate"].(float64)
			if payload, err = alphanumeric(int(length)); err != nil {
				return err
			}
		}
	}
	wanted, _ := body["version"].(float64)
	// In place of a secret that is gone there is one whose versions begin at 1 again; those that were read are passed by.
	for payload != have || number < int(wanted) {
		if number, err = d.add(ctx, r, payload, number); err != nil {
			return err
		}
		have = payload
	}
	if err := d.writeDown(ctx, r, number); err != nil {
		return err
	}
	if number > int(wanted) {
		return &fault.Fault{
			Summary: "A secret got another version than planned",
			Detail:  fmt.Sprintf("%s: its value is in version %d, not in %.0f, which somebody else added meanwhile. Instances would read that.", r.ID(), number, wanted),
			Remedy:  "Apply again:\n    difyup apply",
		}
	}
	return nil
}

// add adds a version after the one that is the newest, and gives its number.
func (d *secret) add(ctx context.Context, r *resource.Resource, payload string, newest int) (int, error) {
	sum := crc32.Checksum([]byte(payload), crc32.MakeTable(crc32.Castagnoli))
	var added struct{ Name string }
	err := d.Do(ctx, gcp.Call{
		API: r.Kind.API, Method: http.MethodPost, Path: r.Link() + ":addVersion", For: r.ID(), Out: &added,
		Body: map[string]any{"payload": map[string]any{
			"data": base64.StdEncoding.EncodeToString([]byte(payload)), "dataCrc32c": strconv.FormatUint(uint64(sum), 10),
		}},
		// Versions have no names of ours, so that a second request would be a second version.
		Carried: func(ctx context.Context) (bool, error) {
			number, now, err := d.SecretVersion(ctx, r, "latest")
			if gcp.Is(err, http.StatusNotFound) {
				return false, nil
			}
			return number > newest && now == payload, err
		},
	})
	if err != nil {
		return 0, err
	}
	if n, ok := kind.VersionIn(added.Name[strings.LastIndexByte(added.Name, '/')+1:]); ok {
		return n, nil
	}
	number, _, err := d.SecretVersion(ctx, r, "latest") // the answer was lost
	return number, err
}

// writeDown sets the annotation that says which version difyup added, beside those that are there.
func (d *secret) writeDown(ctx context.Context, r *resource.Resource, number int) error {
	for try := 0; ; try++ {
		live, err := d.REST.Read(ctx, r)
		if err != nil {
			return err
		}
		switch {
		case live["etag"] == nil:
			return fmt.Errorf("complete %s: it was read without its etag, and is not written blindly", r.ID())
		case kind.Annotation(live, kind.SecretAdded) == strconv.Itoa(number):
			return nil
		}
		annotations := map[string]any{}
		if have, ok := live["annotations"].(map[string]any); ok {
			annotations = maps.Clone(have)
		}
		delete(annotations, kind.SecretFormer)
		annotations[kind.SecretAdded] = strconv.Itoa(number)
		err = d.Do(ctx, gcp.Call{
			API: r.Kind.API, Method: http.MethodPatch, Path: r.Link(), Query: url.Values{"updateMask": {"annotations"}}, For: r.ID(),
			Body: map[string]any{"annotations": annotations, "etag": live["etag"]},
		})
		if !gcp.Is(err, 409, 412) || try == 5 {
			return err
		}
		d.Notify(event.Retried, r.ID(), "it was changed meanwhile")
		if err := gcp.Sleep(ctx, gcp.Backoff(try, 50*time.Millisecond, 2*time.Second)); err != nil {
			return err
		}
	}
}

func (d *secret) Update(ctx context.Context, r *resource.Resource, body, live map[string]any, changed []resource.Path) error {
	ours := func(p resource.Path) bool { return p == "payload" || p == "version" }
	if slices.ContainsFunc(changed, ours) {
		if err := d.complete(ctx, r, body); err != nil {
			return err
		}
	}
	rest := slices.DeleteFunc(slices.Clone(changed), ours)
	if len(rest) == 0 {
		return nil
	}
	return d.REST.Update(ctx, r, body, live, rest)
}

// alphanumeric gives n random characters of [A-Za-z0-9]: Dify's parts build URLs and DSNs without quoting.
func alphanumeric(n int) (string, error) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	if n < 1 {
		return "", fmt.Errorf("a generated secret needs a length. This is a bug in difyup")
	}
	out := make([]byte, n)
	for i := range out {
		k, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			return "", fmt.Errorf("generate a secret: %w", err)
		}
		out[i] = alphabet[k.Int64()]
	}
	return string(out), nil
}

// certificate makes a self-signed certificate when one is wanted. Its key exists in memory only, and at Google.
type certificate struct{ gcp.REST }

// Self-signed certificates are for rehearsals and first steps: ten years spare their users an expiry.
const validity = 10 * 365 * 24 * time.Hour

func (d *certificate) Create(ctx context.Context, r *resource.Resource, body map[string]any) error {
	want := map[string]any{"name": body["name"], "description": body["description"], "type": body["type"]}
	domains := stringsAt(body, "domains")
	if body["type"] == "MANAGED" {
		want["managed"] = map[string]any{"domains": domains}
	} else {
		cert, key, err := selfSigned(domains, time.Now())
		if err != nil {
			return fmt.Errorf("make a certificate: %w", err)
		}
		want["selfManaged"] = map[string]any{"certificate": string(cert), "privateKey": string(key)}
	}
	_, err := d.Mutate(ctx, gcp.Call{API: r.Kind.API, Method: http.MethodPost, Path: r.CollectionPath(), Body: want, For: r.ID()})
	if gcp.Exists(r.Kind.API, err) {
		// Its name follows what is wanted of it. The certificate itself is another at each attempt, and any will do.
		return d.Adopt(ctx, r, body)
	}
	return err
}

func selfSigned(domains []string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, err
	}
	name := domains[0]
	if len(name) > 64 { // a common name has no more, and the alternative names say it all
		name = ""
	}
	template := &x509.Certificate{
		SerialNumber: serial, DNSNames: domains,
		Subject:   pkix.Name{CommonName: name, Organization: []string{"difyup self-signed"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(validity),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), nil
}
