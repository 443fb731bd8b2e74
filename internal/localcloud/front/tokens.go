package front

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Owner is the caller who bears the owner's token, and may do everything.
const Owner = "owner"

// Tokens are the access tokens that the local cloud knows: the owner's, and those that the metadata servers gave out.
// They are kept as sums, so that looking one up takes no longer the more of it was guessed.
type Tokens struct {
	owner [sha256.Size]byte

	mu     sync.RWMutex
	issued map[[sha256.Size]byte]issued
}

// issued is a service account's token.
type issued struct {
	email   string
	expires time.Time
}

func newTokens(owner string) *Tokens {
	return &Tokens{owner: sha256.Sum256([]byte(owner)), issued: map[[sha256.Size]byte]issued{}}
}

// Issue gives a new token for a service account, which is good for life.
func (t *Tokens) Issue(email string, life time.Duration) string {
	token, now := "local."+rand.Text()+rand.Text(), time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.issued, func(_ [sha256.Size]byte, i issued) bool { return now.After(i.expires) })
	t.issued[sha256.Sum256([]byte(token))] = issued{email, now.Add(life)}
	return token
}

// caller says whose token a request bears, or gives Google's refusal. A token in the query counts for nothing: queries
// get into logs.
func (t *Tokens) caller(req *http.Request) (string, *Error) {
	scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	token = strings.TrimLeft(token, " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", unauthenticated(false)
	}
	sum := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(sum[:], t.owner[:]) == 1 {
		return Owner, nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if i, ok := t.issued[sum]; ok && time.Now().Before(i.expires) {
		return i.email, nil
	}
	return "", unauthenticated(true)
}

// unauthenticated is Google's refusal of a request without a token, or with one that it does not know.
func unauthenticated(token bool) *Error {
	e := &Error{
		Code: http.StatusUnauthorized, Reason: "required",
		Message: "Request is missing required authentication credential. Expected OAuth 2 access token, login cookie or other valid authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
		Details: []any{map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "CREDENTIALS_MISSING", "domain": "googleapis.com"}},
	}
	if token {
		e.Reason = "authError"
		e.Message = strings.Replace(e.Message, "Request is missing required authentication credential", "Request had invalid authentication credentials", 1)
		e.Details = []any{map[string]any{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ACCESS_TOKEN_TYPE_UNSUPPORTED", "domain": "googleapis.com"}}
	}
	return e
}

// refuse answers a request whose sender is not known, in the envelope of the API it is for.
func (s *Server) refuse(w http.ResponseWriter, req *http.Request, e *Error) {
	challenge := `Bearer realm="https://accounts.google.com/"`
	if e.Reason == "authError" {
		challenge += `, error="invalid_token"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	api := ""
	if rt, _ := s.router.find(req); rt != nil {
		api = rt.method.API
	} else if rt, _ := s.objectPath(req); rt != nil {
		s.failXML(w, req, e)
		return
	}
	s.fail(w, api, e)
}
