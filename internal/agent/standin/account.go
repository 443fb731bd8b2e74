package standin

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// newID gives a UUID, version 4.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	const hex = "0123456789abcdef"
	var s strings.Builder
	for i, x := range b {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			s.WriteByte('-')
		}
		s.WriteByte(hex[x>>4])
		s.WriteByte(hex[x&15])
	}
	return s.String()
}

func hash(password string, salt []byte) ([]byte, error) {
	return pbkdf2.Key(sha256.New, password, salt, 10_000, 32)
}

// valid is Dify's rule for passwords.
func valid(password string) bool {
	return len(password) >= 8 && strings.ContainsFunc(password, unicode.IsLetter) && strings.ContainsFunc(password, unicode.IsDigit)
}

func (a *api) setUpAt(ctx context.Context) (at time.Time, done bool, err error) {
	err = a.row(ctx, []any{&at}, `SELECT setup_at FROM standin_setups`)
	if errors.Is(err, pgx.ErrNoRows) {
		return at, false, nil
	}
	return at, err == nil, err
}

func (a *api) getSetup(_ http.ResponseWriter, r *http.Request) (answer, error) {
	at, done, err := a.setUpAt(r.Context())
	if err != nil {
		return answer{}, err
	}
	if !done {
		return answer{http.StatusOK, map[string]any{"step": "not_started", "setup_at": nil}}, nil
	}
	return answer{http.StatusOK, map[string]any{"step": "finished", "setup_at": at.UTC().Format("2006-01-02T15:04:05")}}, nil
}

// initialized says whether the visitor knows INIT_PASSWORD, as a session cookie tells, which SECRET_KEY signs.
func (a *api) initialized(r *http.Request) bool {
	if a.env("INIT_PASSWORD") == "" {
		return true
	}
	c, err := a.signer.verify(cookieOf(r, "session"))
	return err == nil && c.Subject == "init"
}

func (a *api) getInit(_ http.ResponseWriter, r *http.Request) (answer, error) {
	_, done, err := a.setUpAt(r.Context())
	if err != nil {
		return answer{}, err
	}
	status := "not_started"
	if done || a.initialized(r) {
		status = "finished"
	}
	return answer{http.StatusOK, map[string]any{"status": status}}, nil
}

func (a *api) postInit(w http.ResponseWriter, r *http.Request) (answer, error) {
	var in struct{ Password string }
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	if _, done, err := a.setUpAt(r.Context()); err != nil || done {
		return answer{}, errors.Join(err, errAlready)
	}
	if !hmac.Equal([]byte(in.Password), []byte(a.env("INIT_PASSWORD"))) {
		return answer{}, refuse(http.StatusUnauthorized, "init_validate_failed", "The init password is another one.")
	}
	token, err := a.signer.issue(claims{Subject: "init", Expires: time.Now().Add(accessLife).Unix()})
	if err != nil {
		return answer{}, err
	}
	http.SetCookie(w, &http.Cookie{Name: "session", Value: token, Path: "/", HttpOnly: true, Secure: a.secure, SameSite: http.SameSiteLaxMode})
	return answer{http.StatusCreated, map[string]any{"result": "success"}}, nil
}

func (a *api) postSetup(_ http.ResponseWriter, r *http.Request) (answer, error) {
	var in struct{ Email, Name, Password, Language string }
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	if _, done, err := a.setUpAt(r.Context()); err != nil || done {
		return answer{}, errors.Join(err, errAlready)
	}
	switch {
	case !a.initialized(r):
		return answer{}, refuse(http.StatusUnauthorized, "not_init_validated", "The init password was not given yet.")
	case !strings.Contains(in.Email, "@") || in.Name == "" || len(in.Name) > 30:
		return answer{}, invalid("An e-mail address and a name of 30 characters at most are wanted.")
	case !valid(in.Password):
		return answer{}, invalid("The password needs 8 characters, letters and digits among them.")
	}
	ctx, cancel := ensure(r.Context())
	defer cancel()
	tenant, account, salt := newID(), newID(), make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	password, err := hash(in.Password, salt)
	if err != nil {
		return answer{}, err
	}
	public, err := a.bucket.newKey(ctx, tenant)
	if err != nil {
		return answer{}, err
	}
	err = a.db(ctx, func(c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO standin_setups (version) VALUES ($1)`, a.env("STANDIN_VERSION")); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `INSERT INTO standin_tenants VALUES ($1, $2, $3)`, tenant, in.Name+"'s Workspace", public); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `INSERT INTO standin_accounts VALUES ($1, $2, $3, $4, $5, $6)`, account, tenant, strings.ToLower(in.Email), in.Name, salt, password)
			return err
		})
	})
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23505" { // somebody else was faster
		err = errAlready
	}
	if err != nil {
		return answer{}, err
	}
	return answer{http.StatusCreated, map[string]any{"result": "success"}}, nil
}

// After so many wrong passwords an e-mail address is locked for a day.
const (
	wrongPasswords = 5
	lockout        = 24 * time.Hour
)

func (a *api) postLogin(w http.ResponseWriter, r *http.Request) (answer, error) {
	if strings.EqualFold(a.env("ENABLE_EMAIL_PASSWORD_LOGIN"), "false") {
		return answer{}, errForbidden
	}
	var in struct{ Email, Password string }
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	ctx := r.Context()
	email := strings.ToLower(in.Email)
	wrong := "login_error_rate_limit:" + email
	var tries int
	if err := a.cache.do(ctx, func(ctx context.Context) (err error) {
		tries, err = a.cache.Get(ctx, wrong).Int()
		return isNil(err)
	}); err != nil {
		return answer{}, err
	}
	if tries >= wrongPasswords {
		return answer{}, refuse(http.StatusTooManyRequests, "email_code_login_limit", "Too many wrong passwords. Try again later.")
	}
	password, err := base64.StdEncoding.DecodeString(in.Password)
	if err != nil {
		return answer{}, refuse(http.StatusUnauthorized, "authentication_failed", "The password is not encoded as it must be.")
	}
	var u user
	var salt, kept []byte
	err = a.row(ctx, []any{&u.id, &u.tenant, &salt, &kept}, `SELECT id, tenant_id, salt, password FROM standin_accounts WHERE email = $1`, email)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return answer{}, err
	}
	given, hashErr := hash(string(password), salt)
	if hashErr != nil {
		return answer{}, hashErr
	}
	if err != nil || !hmac.Equal(given, kept) {
		if err := a.cache.do(ctx, func(ctx context.Context) error {
			_, err := a.cache.Incr(ctx, wrong).Result()
			return errors.Join(err, a.cache.Expire(ctx, wrong, lockout).Err())
		}); err != nil {
			return answer{}, err
		}
		return answer{}, refuse(http.StatusUnauthorized, "authentication_failed", "Invalid email or password.")
	}
	if err := a.cache.do(ctx, func(ctx context.Context) error { return a.cache.Del(ctx, wrong).Err() }); err != nil {
		return answer{}, err
	}
	if err := a.session(ctx, w, u.id); err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, map[string]any{"result": "success"}}, nil
}

// session gives a user tokens: two that are signed, and one that Redis knows.
func (a *api) session(ctx context.Context, w http.ResponseWriter, account string) error {
	expires := time.Now().Add(accessLife).Unix()
	access, err := a.signer.issue(claims{User: account, Subject: "Console API Passport", Expires: expires})
	if err != nil {
		return err
	}
	csrf, err := a.signer.issue(claims{Subject: account, Expires: expires})
	if err != nil {
		return err
	}
	refresh := rand.Text() + rand.Text()
	if err := a.cache.do(ctx, func(ctx context.Context) error {
		return errors.Join(a.cache.Set(ctx, "refresh_token:"+refresh, account, refreshLife).Err(), a.cache.Set(ctx, "account_refresh_token:"+account, refresh, refreshLife).Err())
	}); err != nil {
		return err
	}
	a.setCookie(w, accessCookie, access, accessLife)
	a.setCookie(w, refreshCookie, refresh, refreshLife)
	a.setCookie(w, csrfCookie, csrf, accessLife)
	return nil
}

func (a *api) postRefresh(w http.ResponseWriter, r *http.Request) (answer, error) {
	failed := func(why string) (answer, error) {
		return answer{http.StatusUnauthorized, map[string]any{"result": "fail", "message": why}}, nil
	}
	token := cookieOf(r, a.cookie(refreshCookie))
	if token == "" {
		return failed("There is no refresh token.")
	}
	ctx, cancel := ensure(r.Context())
	defer cancel()
	var account string
	if err := a.cache.do(ctx, func(ctx context.Context) (err error) {
		account, err = a.cache.Get(ctx, "refresh_token:"+token).Result()
		return isNil(err)
	}); err != nil {
		return answer{}, err
	}
	if account == "" {
		return failed("The refresh token is unknown.")
	}
	if err := a.session(ctx, w, account); err != nil {
		return answer{}, err
	}
	if err := a.cache.do(ctx, func(ctx context.Context) error { return a.cache.Del(ctx, "refresh_token:"+token).Err() }); err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, map[string]any{"result": "success"}}, nil
}

func (a *api) postLogout(w http.ResponseWriter, r *http.Request) (answer, error) {
	token := cookieOf(r, a.cookie(refreshCookie))
	if err := a.cache.do(r.Context(), func(ctx context.Context) error { return a.cache.Del(ctx, "refresh_token:"+token).Err() }); err != nil {
		return answer{}, err
	}
	for _, name := range []string{accessCookie, refreshCookie, csrfCookie} {
		a.setCookie(w, name, "", -time.Second)
	}
	return answer{http.StatusOK, map[string]any{"result": "success"}}, nil
}

func (a *api) getProfile(r *http.Request, u user) (answer, error) {
	var name, email string
	if err := a.row(r.Context(), []any{&name, &email}, `SELECT name, email FROM standin_accounts WHERE id = $1`, u.id); err != nil {
		return answer{}, err
	}
	return answer{http.StatusOK, map[string]any{"id": u.id, "name": name, "email": email, "is_password_set": true, "interface_language": "en-US", "timezone": "UTC"}}, nil
}

// postEncrypt is called by the plugin daemon, which must know the inner key.
func (a *api) postEncrypt(_ http.ResponseWriter, r *http.Request) (answer, error) {
	if key := r.Header.Get("X-Inner-Api-Key"); key == "" || !hmac.Equal([]byte(key), []byte(a.inner)) {
		return answer{}, notFound("The address")
	}
	var in struct {
		Tenant string            `json:"tenant_id"`
		Opt    string            `json:"opt"`
		Data   map[string]string `json:"data"`
	}
	if err := read(r, &in); err != nil {
		return answer{}, err
	}
	ctx := r.Context()
	var public string
	if err := a.row(ctx, []any{&public}, `SELECT public_key FROM standin_tenants WHERE id = $1`, in.Tenant); err != nil {
		return answer{}, err
	}
	out := map[string]string{}
	for k, v := range in.Data {
		var err error
		switch in.Opt {
		case "encrypt":
			out[k], err = encrypt(public, v)
		case "decrypt":
			out[k], err = a.bucket.decrypt(ctx, in.Tenant, v)
		}
		if err != nil {
			return answer{http.StatusOK, map[string]any{"data": nil, "error": a.env.hide(err)}}, nil
		}
	}
	return answer{http.StatusOK, map[string]any{"data": map[string]any{"data": out}, "error": ""}}, nil
}

// asText gives a JSON value as a text that holds it.
func asText(v any) string {
	raw, _ := json.Marshal(v) // of what we made
	return string(raw)
}
