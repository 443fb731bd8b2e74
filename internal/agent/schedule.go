package agent

import (
	"context"
	"net/netip"
	"time"

	"github.com/difyup/difyup/internal/agent/scheduler"
	"github.com/difyup/difyup/internal/dify"
)

// schedule has beat reach Redis while this instance is the one whose scheduler runs, until ctx ends.
func (a *agent) schedule(ctx context.Context, secrets map[string]string) {
	at, peers := a.runtime.Relay()
	broker := a.redisOptions(secrets)
	broker.DB = dify.BrokerDatabase
	for wait := time.Second; ctx.Err() == nil; wait = min(2*wait, time.Minute) {
		err := scheduler.Run(ctx, scheduler.Options{
			Instance: a.name, Redis: broker, Resolver: a.resolver, TLS: a.tls(a.settings.Stores.Redis.TLS, dify.RedisAuthorities), Listen: netip.AddrPortFrom(at, dify.RelayPort), Peers: peers,
			Say: a.report.scheduler, Log: a.log,
		})
		if ctx.Err() != nil {
			return
		}
		a.log.Error("the scheduler cannot run on this instance; trying again", "error", hide(err, secrets), "in", wait)
		if sleep(ctx, wait) != nil {
			return
		}
	}
}
