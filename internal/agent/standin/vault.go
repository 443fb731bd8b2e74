package standin

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
)

// A tenant's secrets are encrypted with its public key, which is in the database, and decrypted with its private key,
// which is an object in the bucket. Whoever changes the bucket loses them.

func privateKeyObject(tenant string) string { return "privkeys/" + tenant + "/private.pem" }

// newKey makes a tenant's keys, saves the private one in the bucket, and gives the public one.
func (b *bucket) newKey(ctx context.Context, tenant string) (public string, err error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	raw, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return "", err
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := b.save(ctx, privateKeyObject(tenant), private); err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: raw})), nil
}

func encrypt(public, text string) (string, error) {
	block, _ := pem.Decode([]byte(public))
	if block == nil {
		return "", errors.New("the tenant's public key cannot be read")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("the tenant's public key: %w", err)
	}
	key, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return "", errors.New("the tenant's public key is not of RSA")
	}
	once := make([]byte, 32)
	if _, err := rand.Read(once); err != nil {
		return "", err
	}
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, key, once, nil)
	if err != nil {
		return "", err
	}
	seal, err := sealer(once)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(append(wrapped, seal.Seal(nil, nil, []byte(text), nil)...)), nil
}

// decrypt reads the tenant's private key from the bucket each time, so that nobody lives on what the bucket once held.
func (b *bucket) decrypt(ctx context.Context, tenant, text string) (string, error) {
	raw, err := b.load(ctx, privateKeyObject(tenant))
	if errors.Is(err, errNoObject) {
		return "", fmt.Errorf("the private key of the tenant %s is not in the bucket %s", tenant, b.name)
	}
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return "", errors.New("the tenant's private key cannot be read")
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("the tenant's private key: %w", err)
	}
	sealed, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(sealed) < key.Size() {
		return "", errors.New("the encrypted text is damaged")
	}
	once, err := rsa.DecryptOAEP(sha256.New(), nil, key, sealed[:key.Size()], nil)
	if err != nil {
		return "", fmt.Errorf("the tenant's private key is another one than the secret was encrypted for: %w", err)
	}
	seal, err := sealer(once)
	if err != nil {
		return "", err
	}
	plain, err := seal.Open(nil, nil, sealed[key.Size():], nil)
	return string(plain), err
}

// sealer encrypts one text with a key that is used for no other.
func sealer(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
