package dify

import "net/url"

// TLS is how a store is spoken to.
type TLS string

// The ways.
const (
	Plain    TLS = ""         // as it is
	Required TLS = "required" // encrypted, whoever it is that answers
	Verified TLS = "verified" // encrypted, to a server whose certificate was signed by one of its instance's own authorities
)

// AuthorityDir is where services find the certificates of the authorities of stores, in files of these names.
const (
	AuthorityDir        = "/etc/difyup-authorities"
	DatabaseAuthorities = "postgresql.pem" // of both databases: libpq has one setting for all connections of a process
	RedisAuthorities    = "redis.pem"
)

// Authorities says which files of AuthorityDir a service reads.
func (s Service) Authorities() bool {
	for _, name := range []string{"PGSSLROOTCERT", "REDIS_SSL_CA_CERTS"} {
		if s.Environment[name] != "" {
			return true
		}
	}
	return false
}

// encryption is the settings by which services verify stores as far as each can. Which names Google's certificates bear is not
// known, and those that stores are reached by they do not: so what verifies names too is not used. See ADR 35, where each was run.
func encryption(s Settings) []variable {
	var rows []variable
	const (
		libpq = "libpq, of psycopg2: over what a connection does not say itself"
		pgx   = "pgx, of the daemon: with it, DB_SSL_MODE=require verifies the authority"
	)
	if tls := s.Stores.Database.TLS; tls != Plain {
		mode := "require"
		if tls == Verified {
			mode = "verify-ca"
			rows = append(rows,
				variable{"PGSSLROOTCERT", AuthorityDir + "/" + DatabaseAuthorities, apps(), libpq},
				variable{"PGSSLROOTCERT", AuthorityDir + "/" + DatabaseAuthorities, []Name{PluginDaemon}, pgx})
		}
		rows = append(rows, variable{"PGSSLMODE", mode, apps(), libpq})
	}
	if s.Stores.Redis.TLS != Plain {
		of := append(serving(), PluginDaemon)
		rows = append(rows,
			variable{"REDIS_SSL_CERT_REQS", "CERT_NONE", of, "api configs/middleware; daemon internal/types/app/config.go: everything else verifies names too"},
			variable{"REDIS_SSL_CA_CERTS", AuthorityDir + "/" + RedisAuthorities, of, "the same: redis-py reads the file, whatever is verified, and fails without"})
	}
	return rows
}

// daemonMode is pgx's name of a way. The daemon takes no other than these two.
func daemonMode(tls TLS) string {
	if tls == Plain {
		return "disable"
	}
	return "require"
}

// encryptBroker has clients of a URL of Redis's verify the authority and not the names. Celery takes it from there over its
// other settings.
func encryptBroker(u *url.URL, tls TLS) {
	if tls == Plain {
		return
	}
	u.Scheme = "rediss"
	u.RawQuery = "ssl_cert_reqs=required&ssl_check_hostname=false&ssl_ca_certs=" + AuthorityDir + "/" + RedisAuthorities
}
