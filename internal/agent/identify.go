package agent

import (
	"context"
	"time"

	"github.com/difyup/difyup/internal/agent/identity"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/sockets"
)

// narrowed gives the sources of the tokens that services get while life lasts.
func (a *agent) narrowed(life context.Context, services []dify.Service) map[dify.Name]*identity.Source {
	endpoint := a.endpoint
	if endpoint == "" {
		endpoint = "https://sts." + a.self.Universe
	}
	all := map[dify.Name]*identity.Source{}
	for _, s := range services {
		if s.Identity == nil || len(s.Identity.Objects) == 0 {
			continue
		}
		all[s.Name] = &identity.Source{
			Endpoint: endpoint, Client: a.google.client, Own: a.google.fresh, Boundary: identity.Boundary(a.settings.Stores.Bucket, s.Identity.Objects), Life: life,
		}
	}
	return all
}

// identify tells a service who it is, and gives it its tokens, until ctx ends.
func (a *agent) identify(ctx context.Context, n dify.Name) {
	log := a.log.With("service", n)
	endpoint := &identity.Endpoint{Instance: a.self, Log: log}
	if source := a.tokens[n]; source != nil {
		endpoint.Token = source.Token
	}
	at, from := a.runtime.Identity(n)
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, time.Minute) {
		l, err := sockets.ListenEarly(ctx, at)
		if err == nil {
			err = identity.Serve(ctx, l, from.Know, endpoint)
		}
		if ctx.Err() != nil {
			return
		}
		log.Error("the service cannot be told who it is; trying again", "error", err, "in", wait)
		if sleep(ctx, wait) != nil {
			return
		}
	}
}

// sts is the Security Token Service, which the containers' tokens come from. It is asked for the API's: without it, Dify does not
// come to run.
func (a *agent) sts() store {
	return store{name: "the Security Token Service", reach: func(ctx context.Context) error {
		_, err := a.tokens[dify.API].Token(ctx)
		return err
	}}
}
