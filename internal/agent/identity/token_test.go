package identity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// google is a metadata server, which has another token 5 minutes before one ends, and the Security Token Service.
type google struct {
	life      time.Duration
	own       Token
	tokens    int
	exchanges int
	fails     string // what the exchange is answered with; "" = a token
	broken    bool   // the metadata server
	hold      chan struct{}
}

func (g *google) token(context.Context) (Token, error) {
	if g.broken {
		return Token{}, errors.New("the metadata server is gone")
	}
	if time.Until(g.own.Expires) < fresh {
		g.tokens++
		g.own = Token{fmt.Sprintf("own-%d", g.tokens), time.Now().Add(g.life)}
	}
	return g.own, nil
}

func (g *google) RoundTrip(r *http.Request) (*http.Response, error) {
	g.exchanges++
	if g.hold != nil {
		select {
		case <-g.hold:
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	if r.URL.String() != "https://sts.example/v1/token" || r.Header.Get("Authorization") != "" {
		return nil, fmt.Errorf("%s with %q", r.URL, r.Header.Get("Authorization"))
	}
	code, text := 200, fmt.Sprintf(`{"access_token":"narrowed-%s","expires_in":%d}`, r.FormValue("subject_token"), int(time.Until(g.own.Expires).Seconds()))
	if g.fails != "" {
		status, body, _ := strings.Cut(g.fails, " ")
		if _, err := fmt.Sscan(status, &code); err != nil {
			return nil, err
		}
		text = body
	}
	header := http.Header{}
	if code == http.StatusTemporaryRedirect {
		header.Set("Location", "https://elsewhere.example/")
	}
	return &http.Response{StatusCode: code, Header: header, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

func source(g *google) *Source {
	return &Source{Endpoint: "https://sts.example/", Client: &http.Client{Transport: g}, Own: g.token, Boundary: "{}"}
}

// TestToken is an hour and more of a token that is asked for again and again.
func TestToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &google{life: time.Hour}
		s := source(g)
		want := func(value string, left time.Duration, exchanges int) {
			t.Helper()
			got, err := s.Token(t.Context())
			if err != nil || got.Value != value || time.Until(got.Expires).Round(time.Second) != left || g.exchanges != exchanges {
				t.Errorf("%s for %s, %v, after %d exchanges; want %s for %s, after %d", got.Value, time.Until(got.Expires), err, g.exchanges, value, left, exchanges)
			}
		}
		want("narrowed-own-1", time.Hour, 1)
		time.Sleep(54 * time.Minute)
		want("narrowed-own-1", 6*time.Minute, 1)
		time.Sleep(61 * time.Second)
		want("narrowed-own-2", time.Hour, 2)

		// While the service fails, what there is is given, as long as it is good.
		time.Sleep(55*time.Minute + time.Second)
		g.fails = `503 {"error":{"code":503,"status":"UNAVAILABLE"}}`
		want("narrowed-own-2", 5*time.Minute-time.Second, 3)
		g.broken = true
		want("narrowed-own-2", 5*time.Minute-time.Second, 3)
		time.Sleep(4*time.Minute + 50*time.Second)
		if got, err := s.Token(t.Context()); err == nil {
			t.Errorf("one that ends in %s is given: %v", time.Until(got.Expires), got)
		}
		g.broken, g.fails = false, ""
		want("narrowed-own-3", 55*time.Minute+11*time.Second-time.Second, 4)
	})
}

// TestByTheWallClock: a token ends while the machine is suspended, in which the monotonic clock stands still. In synctest's there is none.
func TestByTheWallClock(t *testing.T) {
	for what, s := range map[string]*Source{
		"the exchange says when it ends": source(&google{life: time.Hour}),
		"the machine's own ends before it": {Endpoint: "https://sts.example/", Client: &http.Client{Transport: &google{own: Token{Expires: time.Now().Add(time.Hour)}}}, Boundary: "{}", Own: func(context.Context) (Token, error) {
			return Token{"own", time.Now().Add(time.Minute)}, nil
		}},
	} {
		got, err := s.Token(t.Context())
		if err != nil || got.Expires != got.Expires.Round(0) {
			t.Errorf("%s: %v, %v", what, got.Expires, err)
		}
	}
}

// TestShortLives: with less than 5 minutes from the start there is nothing better to be had, and what can be had is given.
func TestShortLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &google{life: 20 * time.Second}
		s := source(g)
		for i := range 5 {
			got, err := s.Token(t.Context())
			if want := fmt.Sprintf("narrowed-own-%d", i+1); err != nil || got.Value != want {
				t.Errorf("%v, %v, want %s", got, err, want)
			}
			time.Sleep(time.Second)
		}
		// The metadata server has no better one: the exchange would give none either.
		own := g.own
		s.Own = func(context.Context) (Token, error) { return own, nil }
		before := g.exchanges
		for range 3 {
			if got, err := s.Token(t.Context()); err != nil || got.Value != "narrowed-own-5" {
				t.Errorf("%v, %v", got, err)
			}
		}
		if g.exchanges != before {
			t.Errorf("%d exchanges for nothing", g.exchanges-before)
		}
	})
}

// TestOneFlight: whoever asks meanwhile gets what the one under way brings, also when who began it is gone.
func TestOneFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &google{life: time.Hour, hold: make(chan struct{})}
		s := source(g)
		ctx, gone := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := s.Token(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("who is gone gets %v", err)
			}
		})
		synctest.Wait()
		for range 20 {
			all.Go(func() {
				if got, err := s.Token(t.Context()); err != nil || got.Value != "narrowed-own-1" {
					t.Errorf("%v, %v", got, err)
				}
			})
		}
		synctest.Wait()
		gone()
		synctest.Wait()
		close(g.hold)
		all.Wait()
		if g.exchanges != 1 {
			t.Errorf("%d exchanges", g.exchanges)
		}

		// What is under way ends with the one that it is for.
		life, end := context.WithCancel(t.Context())
		s = source(&google{life: time.Hour, hold: make(chan struct{})})
		s.Life = life
		all.Go(func() {
			if _, err := s.Token(t.Context()); !errors.Is(err, context.Canceled) {
				t.Errorf("at the end: %v", err)
			}
		})
		synctest.Wait()
		end()
		all.Wait()
	})
}

// TestRefusals: the reason is told, and nothing of what else was answered.
func TestRefusals(t *testing.T) {
	for answer, want := range map[string]string{
		`400 {"error":"invalid_grant","error_description":"secret-token"}`:                                                           "the Security Token Service answers 400 Bad Request invalid_grant",
		`403 {"error":{"code":403,"message":"secret-token","status":"PERMISSION_DENIED","details":[{"reason":"SERVICE_DISABLED"}]}}`: "the Security Token Service answers 403 Forbidden SERVICE_DISABLED",
		`403 {"error":{"code":403,"message":"secret-token","status":"PERMISSION_DENIED"}}`:                                           "the Security Token Service answers 403 Forbidden PERMISSION_DENIED",
		`502 <html>secret-token</html>`:              "the Security Token Service answers 502 Bad Gateway",
		`307 `:                                       "the Security Token Service answers 307 Temporary Redirect",
		`400 {"error":"secret-token"}`:               "the Security Token Service answers 400 Bad Request",
		`200 {"access_token":"","x":"secret-token"}`: "the Security Token Service's answer cannot be read",
		`200 <html>secret-token</html>`:              "the Security Token Service's answer cannot be read",
	} {
		g := &google{life: time.Hour, fails: answer}
		if _, err := source(g).Token(t.Context()); g.exchanges != 1 || err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", answer, err, want)
		}
	}
}

// TestBoundary compares boundaries with what they were agreed to be.
func TestBoundary(t *testing.T) {
	for _, tc := range []struct {
		prefixes []string
		want     string
	}{
		{[]string{""}, `{"accessBoundary":{"accessBoundaryRules":[{"availableResource":"//storage.googleapis.com/projects/_/buckets/files","availablePermissions":["inRole:roles/storage.legacyBucketReader","inRole:roles/storage.objectAdmin"]}]}}`},
		{[]string{"plugin/", "assets/"}, `{"accessBoundary":{"accessBoundaryRules":[{"availableResource":"//storage.googleapis.com/projects/_/buckets/files","availablePermissions":["inRole:roles/storage.objectAdmin"],` +
			`"availabilityCondition":{"expression":"resource.name.startsWith('projects/_/buckets/files/objects/plugin/') || api.getAttribute('storage.googleapis.com/objectListPrefix', '').startsWith('plugin/') || ` +
			`resource.name.startsWith('projects/_/buckets/files/objects/assets/') || api.getAttribute('storage.googleapis.com/objectListPrefix', '').startsWith('assets/')"}}]}}`},
	} {
		if got := Boundary("files", tc.prefixes); got != tc.want {
			t.Errorf("%q:\n%s\nwant\n%s", tc.prefixes, got, tc.want)
		}
	}
	if got := Boundary("files", nil); !strings.Contains(got, `"expression":""`) {
		t.Errorf("without any: %s", got)
	}
}
