package stores

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
)

// Patience bounds what is asked of one store. A server that restarts meanwhile is waited for: on a busy machine it takes seconds.
const Patience = 10 * time.Second

// PostgresConfig is for connections to PostgreSQL on a private network.
func PostgresConfig(resolver *net.Resolver, host string, port int, user, password, database string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig("")
	if err != nil {
		return nil, err
	}
	config.Host, config.Port, config.User, config.Password, config.Database = host, uint16(port), user, password, database
	config.Fallbacks, config.TLSConfig = nil, nil
	config.RuntimeParams = map[string]string{"application_name": "difyup"}
	config.LookupFunc = resolver.LookupHost
	config.ConnectTimeout = Patience
	return config, nil
}

// RedisOptions are for a client of Redis with a password, on a private network. It repeats nothing by itself: not every
// command may be.
func RedisOptions(resolver *net.Resolver, host string, port int, password string) *redis.Options {
	return &redis.Options{
		Addr: net.JoinHostPort(host, strconv.Itoa(port)), Password: password, PoolSize: 4, MaxRetries: -1, DialerRetries: 1,
		Dialer: (&net.Dialer{Timeout: Patience, Resolver: resolver}).DialContext,
	}
}

// ReachPostgres logs in to a database and leaves again.
func ReachPostgres(ctx context.Context, config *pgx.ConnConfig) error {
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	return c.Close(ctx)
}

// ReachRedis logs in to Redis and leaves again.
func ReachRedis(ctx context.Context, options *redis.Options) error {
	r := redis.NewClient(options)
	return errors.Join(r.Ping(ctx).Err(), r.Close())
}
