package agent

import (
	"context"
	"errors"
	"time"

	"github.com/difyup/difyup/internal/agent/migrate"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/report"
)

// A migration that failed is run again after a while: by then a database may have room, or a right been given. Each attempt
// may take locks that instances of an older release wait for.
const (
	migrateAgain  = 10 * time.Second
	migrateLatest = 5 * time.Minute
)

// migrate has the stack's databases brought up to the release, by this instance or another one. It gives the error of ctx, or
// that the stores must be looked at again.
func (a *agent) migrate(ctx context.Context, services []dify.Service, secrets map[string]string) error {
	say := func(what string) { a.wait(report.Migrates, what) }
	for wait := migrateAgain; ; wait = min(2*wait, migrateLatest) {
		say("looks at the schema of the databases")
		config, err := a.database(a.settings.Stores.Database.Name, secrets)
		if err == nil {
			var schema migrate.Schema
			schema, err = migrate.Run(ctx, migrate.Options{
				Main: config, Release: a.release, Services: services, Instance: a.name, Job: a.runtime.Job, Say: say, Log: a.log,
			})
			if err == nil {
				a.report.schema(report.Schema{Version: schema.Version, Head: schema.Head})
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var failed *migrate.Failed
		var newer *migrate.Newer
		switch {
		case errors.As(err, &failed):
			say("the migration of " + string(failed.Of) + " " + failed.Why + "; the log of the instance says more")
		case errors.As(err, &newer):
			say(newer.Error())
		default:
			say("the migration: the database " + words(err))
		}
		a.log.Error("the databases are not migrated; trying again", "error", hide(err, secrets), "in", wait)
		if sleepErr := sleep(ctx, wait); sleepErr != nil {
			return sleepErr
		}
		if failed == nil && newer == nil {
			return err
		}
	}
}
