//go:build linux

package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/agent/identity"
	"github.com/difyup/difyup/internal/agent/runtime"
)

// BenchmarkIdentity is how long a container waits for a token that the agent has, on a connection that it kept and on a new one, beside
// what a server takes that knows nobody: this machine may be doing other things.
func BenchmarkIdentity(b *testing.B) {
	for b.Loop() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		ctx, end := context.WithCancel(b.Context())
		// The API's own source, of a token that is good for long: the service is not asked.
		source := &identity.Source{
			Client: http.DefaultClient, Boundary: identity.Boundary("files", []string{""}),
			Own: func(context.Context) (identity.Token, error) {
				return identity.Token{Value: "own", Expires: time.Now().Add(time.Hour)}, nil
			},
		}
		sts, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		source.Endpoint = "http://" + sts.Addr().String()
		exchange := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"narrowed","expires_in":3600}`)
		})}
		var serving sync.WaitGroup
		serving.Go(func() { _ = exchange.Serve(sts) }) // until it is closed
		endpoint := &identity.Endpoint{Token: source.Token, Log: slog.New(slog.DiscardHandler)}
		serving.Go(func() { _ = identity.Serve(ctx, l, runtime.Asker{Device: "lo"}.Know, endpoint) })
		ask := func(at string, kept bool) time.Duration {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: !kept}}
			defer client.CloseIdleConnections()
			var took []time.Duration
			for range 1000 {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/computeMetadata/v1/instance/service-accounts/default/token", nil)
				if err != nil {
					b.Fatal(err)
				}
				req.Header.Set("Metadata-Flavor", "Google")
				began := time.Now()
				resp, err := client.Do(req)
				if err != nil {
					b.Fatal(err)
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != http.StatusOK {
					b.Fatal(resp.Status, err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			return took[len(took)/2]
		}
		for name, kept := range map[string]bool{"a token, on a connection that was kept, p50": true, "a token, on a new connection, p50": false} {
			bare, took := ask(source.Endpoint, kept), ask("http://"+l.Addr().String(), kept)
			figure(name, fmt.Sprintf("%.2f ms", took.Seconds()*1000), fmt.Sprintf("at most 2; a server that only answers takes %.2f", bare.Seconds()*1000))
		}
		end()
		exchange.Close()
		serving.Wait()
	}
}
