package standin

import (
	"context"
	"crypto/hmac"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
)

// beat plays Dify's scheduler: it reaches the broker, as Celery's does with each tick, and enqueues nothing.
type beat struct {
	broker *redis.Client
	env    settings
	log    *slog.Logger
}

func newBeat(env settings, o Options) (*beat, error) {
	options, err := redis.ParseURL(env("CELERY_BROKER_URL"))
	if err != nil {
		return nil, errors.New("the setting CELERY_BROKER_URL is no URL of Redis") // the cause would show its password
	}
	dial := stores.RedisOptions(o.Resolver, "", 0, "")
	options.PoolSize, options.MaxRetries, options.DialerRetries, options.Dialer = 1, -1, 1, dial.Dialer
	return &beat{redis.NewClient(options), env, o.Log}, nil
}

func (b *beat) run(ctx context.Context) {
	const every = 5 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for {
		late, cancel := context.WithTimeout(ctx, stores.Patience)
		err := b.broker.Ping(late).Err()
		cancel()
		text := ""
		if err != nil && ctx.Err() == nil {
			text = b.env.hide(err)
		}
		if text != said && text != "" {
			b.log.Warn("the broker does not answer", "error", text)
		}
		said = text
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *beat) close() { _ = b.broker.Close() } // connections only

// sandbox plays the code runner: it knows its key, and runs nothing.
func sandbox(env settings) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, map[string]any{"status": "ok"}) })
	mux.HandleFunc("POST /v1/sandbox/run", func(w http.ResponseWriter, r *http.Request) {
		if !hmac.Equal([]byte(r.Header.Get("X-Api-Key")), []byte(env("API_KEY"))) {
			write(w, http.StatusUnauthorized, map[string]any{"code": -401, "message": "Unauthorized"})
			return
		}
		write(w, http.StatusOK, map[string]any{"code": -400, "message": "the stand-in runs no code"})
	})
	return mux
}

// proxy plays the SSRF proxy: it lets nobody through.
func proxy() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusForbidden, map[string]any{"message": "the stand-in lets nobody out"})
	})
}

// elsewhere gives where a service of the same instance is dialled: where services are processes, all have one address, and
// what are names among containers are nothing there.
func (s settings) elsewhere(host string) string {
	at := s("STANDIN_ADDRESS")
	if at == "" {
		return host
	}
	for _, n := range dify.Names() {
		if host == string(n) {
			return at
		}
	}
	return host
}
