package standin

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// signer signs what users carry about, with SECRET_KEY: instances with different keys do not know each other's.
type signer []byte

var (
	errSignature = errors.New("the token's signature is not valid")
	errExpired   = errors.New("the token has expired")
)

// claims are what a token says. Access tokens name the user twice, as Dify's do.
type claims struct {
	User    string `json:"user_id,omitempty"`
	Subject string `json:"sub"`
	Expires int64  `json:"exp"`
}

// issue makes a JSON web token, HS256.
func (s signer) issue(c claims) (string, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(raw)
	return text + "." + encode(s.sum(text)), nil
}

func (s signer) verify(token string) (claims, error) {
	var c claims
	i := strings.LastIndexByte(token, '.')
	if i < 0 {
		return c, errSignature
	}
	sum, err := base64.RawURLEncoding.DecodeString(token[i+1:])
	if err != nil || !hmac.Equal(sum, s.sum(token[:i])) {
		return c, errSignature
	}
	_, body, _ := strings.Cut(token[:i], ".")
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || json.Unmarshal(raw, &c) != nil {
		return c, errSignature
	}
	if c.Expires < time.Now().Unix() {
		return c, errExpired
	}
	return c, nil
}

func (s signer) sum(text string) []byte {
	h := hmac.New(sha256.New, s)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func encode(raw []byte) string { return base64.RawURLEncoding.EncodeToString(raw) }
