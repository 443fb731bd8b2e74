package front

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
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

// issued is a token that was given out.
type issued struct {
	identity
	expires time.Time
}

// identity is who a request is from.
type identity struct {
	caller string   // Owner, or a service account's email
	bound  Boundary // what the token was narrowed to; nil = all that the caller may
}

// owns says whether it is the owner, with all that the owner may.
func (i identity) owns() bool { return i.caller == Owner && i.bound == nil }

// Boundary is what a token was narrowed to. It gives nothing: what is within it must be the caller's besides.
type Boundary interface{ Permits(Use) bool }

// Use is one use of a permission on a bucket, as a Boundary sees it.
type Use struct {
	Permission string // "storage.objects.get"
	Bucket     string
	Object     string // "" for what is done with the bucket itself, as listing is
	Prefix     string // of the names that are listed
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
	t.issued[sha256.Sum256([]byte(token))] = issued{identity{caller: email}, now.Add(life)}
	return token
}

// The errors of Narrow.
var (
	ErrUnknownToken = errors.New("the token is not known, or not any more")
	ErrNarrowed     = errors.New("the token was narrowed already")
)

// narrowedOwner is how long what the owner's token is narrowed to is good; that of the others is as good as theirs.
const narrowedOwner = time.Hour

// Narrow gives a token for whom token is for, worth what is within a boundary and good no longer than it.
func (t *Tokens) Narrow(token string, b Boundary) (narrowed string, life time.Duration, err error) {
	source, ok := t.look(token)
	switch {
	case !ok:
		return "", 0, ErrUnknownToken
	case source.bound != nil:
		return "", 0, ErrNarrowed
	case source.owns():
		source.expires = time.Now().Add(narrowedOwner)
	}
	source.bound = b
	narrowed = "local." + rand.Text() + rand.Text()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.issued[sha256.Sum256([]byte(narrowed))] = source
	return narrowed, time.Until(source.expires), nil
}

// caller says whose token a request bears, or gives Google's refusal. A token in the query counts for nothing: queries
// get into logs.
func (t *Tokens) caller(req *http.Request) (identity, *Error) {
	scheme, token, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	token = strings.TrimLeft(token, " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return identity{}, unauthenticated(false)
	}
	if i, ok := t.look(token); ok {
		return i.identity, nil
	}
	return identity{}, unauthenticated(true)
}

// look finds a token that is still good.
func (t *Tokens) look(token string) (issued, bool) {
	sum := sha256.Sum256([]byte(token))
	if subtle.ConstantTimeCompare(sum[:], t.owner[:]) == 1 {
		return issued{identity: identity{caller: Owner}}, true
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	i, ok := t.issued[sum]
	return i, ok && time.Now().Before(i.expires)
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
