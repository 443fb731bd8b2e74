package smoke

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/fault"
)

// reach asks what the API answers without any store. Facts: smoke test, steps 1 and 2.
func reach(ctx context.Context, s *session) (string, error) {
	r, err := s.client.ask(ctx, http.MethodGet, "/console/api/ping", nil)
	if err != nil {
		return "", err
	}
	var pong struct{ Result string }
	if err := r.read(&pong, http.StatusOK); err != nil {
		return "", err
	}
	if pong.Result != "pong" {
		return "", fmt.Errorf("%s, and not with a pong", r.says())
	}
	s.version, s.standin = plain(r.header.Get("X-Version")), isStandIn(r)
	name := "Dify"
	if s.standin {
		name = "the stand-in for Dify"
	}
	return strings.TrimSpace(name + " " + s.version), nil
}

// isStandIn says whether an answer says that it does not come from Dify.
func isStandIn(r *reply) bool { return r.header.Get("X-Difyup-Standin") != "" }

// meet finds out which instances there are: those that must be, or else as many as show themselves.
func meet(ctx context.Context, s *session) (string, error) {
	ping := func(ctx context.Context) (*reply, error) {
		return s.client.ask(ctx, http.MethodGet, "/console/api/ping", nil)
	}
	met := map[string]int{}
	version := map[string]string{}
	check := func(r *reply) error {
		if err := r.want(http.StatusOK); err != nil {
			return err
		}
		version[plain(r.header.Get("X-Version"))] = orUnnamed(r.instance)
		if r.instance != "" {
			met[r.instance]++
		}
		return nil
	}
	if s.opts.Instances != nil {
		s.instances = slices.Sorted(slices.Values(s.opts.Instances))
		if _, err := s.everywhere(ctx, ping, check); err != nil {
			return "", err
		}
		if len(met) == 0 {
			s.instances = nil
		}
	} else {
		const quiet = 12 // as many requests without a new name mean that there are no more
		for without := 0; without < quiet; without++ {
			before := len(met)
			if without%3 == 2 {
				s.client.elsewhere()
			}
			r, err := ping(ctx)
			if err == nil {
				err = check(r)
			}
			if err != nil {
				return "", err
			}
			if len(met) > before {
				without = -1
			}
		}
	}
	if len(version) > 1 {
		var each []string
		for _, v := range slices.Sorted(maps.Keys(version)) {
			each = append(each, fmt.Sprintf("%s on %s", v, version[v]))
		}
		return "", &fault.Fault{
			Summary: "The instances run different versions of Dify",
			Detail:  "There is " + strings.Join(each, ", ") + ".",
			Remedy:  "If an update is going on, wait for its end:\n    difyup status",
		}
	}
	for v := range version {
		if want := s.opts.Version; want != "" && v != "" && v != want {
			return "", &fault.Fault{
				Summary: "Another version of Dify answers",
				Detail:  fmt.Sprintf("Dify %s answers, and %s is wanted.", v, want),
				Remedy:  "Have the instances replaced:\n    difyup apply",
			}
		}
	}
	if len(met) == 0 {
		return "answers do not say from which instance they come", nil
	}
	s.instances = slices.Sorted(maps.Keys(met))
	return fmt.Sprintf("%d: %s", len(met), strings.Join(s.instances, ", ")), nil
}

// pages asks for what a browser begins with. Facts: step 4.
func pages(ctx context.Context, s *session) (string, error) {
	for _, path := range []string{"/", "/signin"} {
		_, err := s.everywhere(ctx, func(ctx context.Context) (*reply, error) { return s.client.ask(ctx, http.MethodGet, path, nil) }, func(r *reply) error {
			if err := r.want(http.StatusOK, http.StatusTemporaryRedirect, http.StatusPermanentRedirect); err != nil {
				return err
			}
			if r.status == http.StatusOK && !strings.HasPrefix(r.header.Get("Content-Type"), "text/html") {
				return fmt.Errorf("%s, and not with a page", r.says())
			}
			if r.status == http.StatusOK {
				s.told = append(s.told, toldBy(r))
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	return "/ and /signin", nil
}

// told is what a page tells the browser that it was told itself, in attributes of its body.
type told struct {
	instance     string
	console      string // where the console's API is; "" = the page does not say
	cookieDomain string
}

var (
	bodyTag   = regexp.MustCompile(`<body[^>]*>`)
	attribute = regexp.MustCompile(` data-(api-prefix|cookie-domain)="([^"]*)"`)
)

func toldBy(r *reply) told {
	t := told{instance: r.instance}
	for _, m := range attribute.FindAllSubmatch(bodyTag.Find(r.body), -1) {
		switch string(m[1]) {
		case "api-prefix":
			t.console = html.UnescapeString(string(m[2]))
		case "cookie-domain":
			t.cookieDomain = html.UnescapeString(string(m[2]))
		}
	}
	return t
}

// cookiesAgree checks that pages look for the API's cookies by the names that these have: with a prefix when both the API's and
// the console's addresses are https and there is no domain for cookies (api/libs/token.py). A page goes by the address of the API
// that it was told (web/config/index.ts).
func (s *session) cookiesAgree() error {
	_, prefixed := s.client.cookies[hostPrefix+"csrf_token"]
	for _, t := range s.told {
		if t.console == "" || prefixed == (t.cookieDomain == "" && strings.HasPrefix(t.console, "https://")) {
			continue
		}
		name := "csrf_token"
		if prefixed {
			name = hostPrefix + name
		}
		return &fault.Fault{
			Summary: "A browser cannot log in",
			Detail: fmt.Sprintf("The API gives the browser the cookie %s, and the page of %s, which was told that the console's API is at %s, looks for one of another name: every request after the login is answered with 401.",
				name, orUnnamed(t.instance), plain(t.console)),
			Remedy: "CONSOLE_API_URL must be the same for `web` and `api`, and of the scheme of CONSOLE_WEB_URL. difyup tells all of them the domain, or the stack's address: have the instances replaced:\n    difyup apply",
		}
	}
	return nil
}

func (s *session) setupStep(ctx context.Context, each func(step string)) (string, error) {
	return s.everywhere(ctx, func(ctx context.Context) (*reply, error) {
		return s.client.ask(ctx, http.MethodGet, "/console/api/setup", nil)
	}, func(r *reply) error {
		var setup struct{ Step string }
		if err := r.read(&setup, http.StatusOK); err != nil {
			return err
		}
		if setup.Step != "not_started" && setup.Step != "finished" {
			return fmt.Errorf("%s with the step %q", r.says(), plain(setup.Step))
		}
		each(setup.Step)
		return nil
	})
}

// database asks every instance whether Dify is set up, which is in the database. Facts: step 3.
func database(ctx context.Context, s *session) (string, error) {
	steps := map[string]bool{}
	detail, err := s.setupStep(ctx, func(step string) { steps[step] = true })
	if err != nil {
		return "", err
	}
	if len(steps) > 1 {
		return "", &fault.Fault{
			Summary: "The instances have different databases",
			Detail:  "Some say that Dify is set up, and others that it is not.",
			Remedy:  "All instances must use the stack's database. See which one they have, DB_HOST.",
		}
	}
	return detail, nil
}

// setup makes the first account when there is none. Facts: steps 5 and 6.
func setup(ctx context.Context, s *session) (string, error) {
	step := ""
	if _, err := s.setupStep(ctx, func(now string) { step = now }); err != nil {
		return "", err
	}
	if step == "finished" {
		return "done before", nil
	}
	if !s.opts.Setup {
		return "", &fault.Fault{
			Summary: "Dify is not set up",
			Detail:  "Nobody has made the first account yet, which owns everything.",
			Remedy:  fmt.Sprintf("Make it in the browser, at %s/install, or have it made here:\n    difyup smoke --setup", s.client.base),
		}
	}
	r, err := s.client.ask(ctx, http.MethodGet, "/console/api/init", nil)
	if err != nil {
		return "", err
	}
	var init struct{ Status string }
	if err := r.read(&init, http.StatusOK); err != nil {
		return "", err
	}
	if init.Status != "finished" {
		password := ""
		if s.opts.InitPassword != nil {
			if password, err = s.opts.InitPassword(ctx); err != nil {
				return "", err
			}
		}
		if r, err = s.client.ask(ctx, http.MethodPost, "/console/api/init", map[string]any{"password": password}); err != nil {
			return "", err
		}
		if r.code() == "init_validate_failed" {
			return "", &fault.Fault{
				Summary: "Wrong init password",
				Detail:  "Dify has another INIT_PASSWORD than the one that was given.",
				Remedy:  "INIT_PASSWORD is in Secret Manager and is read when an instance starts; if it was changed, have the instances replaced:\n    difyup apply",
			}
		}
		if err := r.want(http.StatusCreated, http.StatusOK); err != nil {
			return "", err
		}
	}
	name, _, _ := strings.Cut(s.opts.Email, "@")
	if runes := []rune(name); len(runes) > 30 {
		name = string(runes[:30])
	}
	if r, err = s.client.ask(ctx, http.MethodPost, "/console/api/setup", map[string]any{
		"email": s.opts.Email, "name": name, "password": s.opts.Password, "language": "en-US",
	}); err != nil {
		return "", err
	}
	switch r.code() {
	case "already_setup":
		return "somebody else was faster", nil
	case "not_init_validated":
		return "", &fault.Fault{
			Summary: "The instances have different SECRET_KEYs",
			Detail:  "One took the init password, and another one does not believe it: the cookie in between is signed with SECRET_KEY.",
			Remedy:  oneSecretKey,
		}
	}
	if err := r.want(http.StatusCreated, http.StatusOK); err != nil {
		return "", err
	}
	return "made now: " + s.opts.Email, nil
}

// login logs in, once: Dify locks an address for a day after five wrong passwords. Facts: step 7.
func login(ctx context.Context, s *session) (string, error) {
	r, err := s.client.ask(ctx, http.MethodPost, "/console/api/login", map[string]any{
		"email": s.opts.Email, "password": base64.StdEncoding.EncodeToString([]byte(s.opts.Password)), "remember_me": true,
	})
	if err != nil {
		return "", err
	}
	switch {
	case r.status == http.StatusTooManyRequests || strings.Contains(r.code(), "limit"):
		return "", &fault.Fault{
			Summary: "The account is locked",
			Detail:  "Dify locks an e-mail address for a day after five wrong passwords.",
			Remedy:  "Wait, or use another account:\n    difyup smoke --email ADDRESS",
		}
	case r.forbidden():
		return "", &fault.Fault{
			Summary: "Password login is switched off",
			Detail:  sentence(r.says()),
			Remedy:  "This proof logs in by password. Have ENABLE_EMAIL_PASSWORD_LOGIN be true meanwhile, then with an account that has one:\n    difyup smoke --email ADDRESS",
		}
	case r.status == http.StatusUnauthorized || r.code() == "authentication_failed":
		return "", &fault.Fault{
			Summary: "Wrong e-mail address or password",
			Detail:  "It was tried once only: Dify locks an address for a day after five wrong passwords.",
			Remedy:  "Give an account that exists, with the password in the environment:\n    DIFYUP_SMOKE_PASSWORD=… difyup smoke --email ADDRESS",
		}
	}
	if err := r.want(http.StatusOK); err != nil {
		return "", err
	}
	for _, name := range []string{"access_token", "refresh_token", "csrf_token"} {
		if s.client.cookie(name) == "" {
			return "", fmt.Errorf("%s, without the cookie %s", r.says(), name)
		}
	}
	s.later("the session", func(ctx context.Context) error {
		r, err := s.client.ask(ctx, http.MethodPost, "/console/api/logout", map[string]any{})
		if err != nil {
			return err
		}
		return r.want(http.StatusOK)
	})
	return "as " + s.opts.Email, s.cookiesAgree()
}

// profile shows the access token to every instance. Facts: step 8.
func profile(ctx context.Context, s *session) (string, error) {
	knows := map[string]int{}
	return s.everywhere(ctx, func(ctx context.Context) (*reply, error) {
		return s.client.ask(ctx, http.MethodGet, "/console/api/account/profile", nil)
	}, func(r *reply) error {
		if r.status == http.StatusUnauthorized && len(s.instances) != 1 {
			detail := fmt.Sprintf("%s does not accept the token that another instance signed", orUnnamed(r.instance))
			if len(knows) > 0 {
				detail += "; it is accepted by " + counts(knows)
			}
			return &fault.Fault{Summary: "The instances have different SECRET_KEYs", Detail: detail + ".", Remedy: oneSecretKey}
		}
		var account struct{ ID, Email string }
		if err := r.read(&account, http.StatusOK); err != nil {
			return err
		}
		if !strings.EqualFold(account.Email, s.opts.Email) {
			return errors.New("the profile is somebody else's: a cache between here and Dify keeps answers")
		}
		knows[orUnnamed(r.instance)]++
		return nil
	})
}

func orUnnamed(instance string) string {
	if instance == "" {
		return "an instance"
	}
	return instance
}

// renew has every instance renew a session that another one made: what it goes by is in Redis. Facts: refresh tokens.
func renew(ctx context.Context, s *session) (string, error) {
	by := "" // who made the refresh token that we have now
	proven, began := map[string]bool{}, time.Now()
	missing := func() []string {
		return slices.DeleteFunc(slices.Clone(s.instances), func(i string) bool { return proven[i] })
	}
	requests := 0
	for ; len(missing()) > 0 || len(s.instances) == 0 && requests < unnamed; requests++ {
		if !s.awaits(ctx, requests, began) {
			if s.excuse(ctx, missing()) {
				continue
			}
			return "", &fault.Fault{
				Summary: "An instance gets no requests",
				Detail:  fmt.Sprintf("In %d requests only %d of %d instances renewed a session of another one.", requests, len(proven), max(1, len(s.instances))),
				Remedy:  "See whether all are healthy, then run this again:\n    difyup status",
			}
		}
		if requests%3 == 2 || len(s.instances) == 0 {
			s.client.elsewhere()
		}
		r, err := s.client.ask(ctx, http.MethodPost, "/console/api/refresh-token", map[string]any{})
		if err != nil {
			return "", err
		}
		if r.status == http.StatusUnauthorized {
			maker := orUnnamed(by)
			if by == "" {
				maker = "another instance"
			}
			return "", &fault.Fault{
				Summary: "The instances do not share one Redis",
				Detail:  fmt.Sprintf("%s does not know the session that %s made; sessions are kept in Redis.", orUnnamed(r.instance), maker),
				Remedy:  oneRedis,
			}
		}
		if err := r.want(http.StatusOK); err != nil {
			return "", err
		}
		if len(s.instances) <= 1 || by != "" && r.instance != by {
			proven[r.instance] = true
		}
		by = r.instance
	}
	if len(s.instances) == 0 {
		return onSome(requests), nil
	}
	return s.onAll(len(s.instances)), nil
}
