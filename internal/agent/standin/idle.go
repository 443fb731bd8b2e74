package standin

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/difyup/difyup/internal/agent/stores"
	"github.com/difyup/difyup/internal/dify"
)

// beat plays Dify's scheduler: it enqueues a task now and then, as Celery's does, and as that one it waits for an answer as long
// as it takes.
type beat struct {
	broker *redis.Client
	env    settings
	log    *slog.Logger
}

// polls is the queue of what Dify's scheduler enqueues each minute.
const polls = "schedule_poller"

func newBeat(env settings, o Options) (*beat, error) {
	options, err := redis.ParseURL(env("CELERY_BROKER_URL"))
	if err != nil {
		return nil, errors.New("the setting CELERY_BROKER_URL is no URL of Redis") // the cause would show its password
	}
	host, port, err := net.SplitHostPort(options.Addr)
	if err != nil {
		return nil, errors.New("the setting CELERY_BROKER_URL names no host and port")
	}
	dial := stores.RedisOptions(o.Resolver, "", 0, "")
	options.Addr = net.JoinHostPort(env.elsewhere(host), port)
	options.PoolSize, options.MaxRetries, options.DialerRetries, options.Dialer = 1, -1, 1, dial.Dialer
	options.ReadTimeout, options.WriteTimeout = -1, -1
	return &beat{redis.NewClient(options), env, o.Log}, nil
}

func (b *beat) run(ctx context.Context) {
	// What waits for an answer ends when the connection does.
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = b.broker.Close() // connections only
	})
	defer func() {
		if !stop() {
			<-closed
		}
	}()
	const every = 2 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for {
		raw, err := json.Marshal(task{Name: "poll", ID: newID(), From: b.env("STANDIN_INSTANCE")})
		if err == nil {
			err = b.broker.LPush(ctx, polls, raw).Err()
		}
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

func (b *beat) close() {} // run has done it

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
	for _, n := range append(dify.Names(), dify.RelayHost) {
		if host == string(n) {
			return at
		}
	}
	return host
}
