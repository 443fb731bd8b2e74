package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Token is an access token, and until when it is good.
type Token struct {
	Value   string
	Expires time.Time // without a monotonic reading, which stands still while the machine is suspended
}

// How long a token must still be good for it to be given without looking for a better one: clients of Google's ask for another
// when less than 3 minutes and 45 seconds are left, and its metadata server has a new one when it is less than 5 minutes. And how
// long it must be good to be given at all, when there is no better one.
const (
	fresh  = 5 * time.Minute
	usable = 10 * time.Second
)

// patience bounds one exchange. Clients wait for the metadata server for 3 s at first, and ask again.
const patience = 20 * time.Second

// Source gives narrowed tokens. Its fields do not change once it is used.
type Source struct {
	Endpoint string                               // of the Security Token Service: "https://sts.googleapis.com/"
	Client   *http.Client                         // must have a timeout
	Own      func(context.Context) (Token, error) // the machine's own token, which the metadata server gave for this call
	Boundary string                               // what the tokens are narrowed to, see Boundary
	Life     context.Context                      // ends what searches are under way; nil = nothing does, but their own patience

	mu     sync.Mutex
	last   Token
	own    string  // what last was narrowed from
	flight *flight // that is under way
}

// flight is one search for a token, which all wait for who ask meanwhile.
type flight struct {
	done  chan struct{}
	token Token
	err   error
}

// Token gives a token that is good for at least 5 minutes, or as long as the machine's own if that is less. While the Security
// Token Service cannot be asked, it gives what it has. A search goes on when ctx ends: somebody else may wait for it. It ends with Life.
func (s *Source) Token(ctx context.Context) (Token, error) {
	s.mu.Lock()
	if time.Until(s.last.Expires) >= fresh {
		defer s.mu.Unlock()
		return s.last, nil
	}
	f := s.flight
	if f == nil {
		f = &flight{done: make(chan struct{})}
		s.flight = f
		life := s.Life
		if life == nil {
			life = context.WithoutCancel(ctx)
		}
		go s.search(life, f)
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
}

func (s *Source) search(ctx context.Context, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	s.mu.Lock()
	last, before := s.last, s.own
	s.mu.Unlock()
	own, err := s.Own(ctx)
	next := last
	// From the same token, nothing better can be made.
	if err == nil && (own.Value != before || time.Until(last.Expires) < usable) {
		next, err = s.exchange(ctx, own)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.last, s.own = next, own.Value
	case time.Until(last.Expires) >= usable:
		next, err = last, nil
	}
	f.token, f.err = next, err
	s.flight = nil
	close(f.done)
}

// StatusError is an answer of the Security Token Service's other than a token.
type StatusError struct {
	Code   int
	Reason string // OAuth's or Google's word for it, "invalid_grant"
}

func (e *StatusError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("the Security Token Service answers %d %s %s", e.Code, http.StatusText(e.Code), e.Reason))
}

// exchange has the Security Token Service narrow the machine's token. What it answers is in no error: it may hold a token.
func (s *Source) exchange(ctx context.Context, own Token) (Token, error) {
	const of = "urn:ietf:params:oauth:token-type:access_token"
	form := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "requested_token_type": {of},
		"subject_token_type": {of}, "subject_token": {own.Value}, "options": {s.Boundary},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(s.Endpoint, "/")+"/v1/token", strings.NewReader(form.Encode()))
	if err != nil {
		return Token{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	asked := time.Now()
	client := *s.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the token is nobody else's
	resp, err := client.Do(req)
	if err != nil {
		return Token{}, fmt.Errorf("ask the Security Token Service: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return Token{}, fmt.Errorf("ask the Security Token Service: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return Token{}, &StatusError{resp.StatusCode, reason(raw)}
	}
	var answer struct {
		Token   string `json:"access_token"`
		Seconds int    `json:"expires_in"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Token == "" {
		return Token{}, errors.New("the Security Token Service's answer cannot be read")
	}
	t := Token{answer.Token, own.Expires}
	if end := asked.Add(time.Duration(answer.Seconds) * time.Second); answer.Seconds > 0 && end.Before(t.Expires) {
		t.Expires = end
	}
	t.Expires = t.Expires.Round(0)
	return t, nil
}

// reason gives the word that a refusal has for a program, if it is a word.
func reason(raw []byte) string {
	var oauth struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(raw, &oauth) == nil {
		return word(oauth.Error)
	}
	var google struct {
		Error struct {
			Status  string `json:"status"`
			Details []struct {
				Reason string `json:"reason"`
			} `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal(raw, &google) != nil {
		return ""
	}
	for _, d := range google.Error.Details {
		if d.Reason != "" {
			return word(d.Reason)
		}
	}
	return word(google.Error.Status)
}

func word(text string) string {
	if len(text) > 64 || strings.Trim(strings.ToLower(text), "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return text
}
