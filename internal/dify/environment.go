package dify

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// variable is one setting, and whose it is.
type variable struct {
	name, value string
	of          []Name
	read        string // which file of which program reads it, or what happens without it
}

// Whose settings there are. API, worker and beat are one image and one program; each gets what it uses.
func apps() []Name    { return []Name{API, Worker, WorkerBeat} }
func serving() []Name { return []Name{API, Worker} }

// The largest package of a plugin, in bytes: the API and the daemon must agree, and the front door lets 100 MB in.
const pluginPackage = 50 << 20

// Where the plugin daemon keeps things in the bucket. The slash at the end of the first keeps it apart from the second; where there
// is none, the daemon adds one.
const (
	pluginsInstalled = "plugin/"
	pluginPackages   = "plugin_packages"
	pluginAssets     = "assets"
	pluginData       = "persistence"
)

// pluginObjects gives the beginnings of the names of the plugin daemon's objects. Plugins run in its container: what else is in
// the bucket, above all the workspaces' private keys, is none of theirs.
func pluginObjects() []string {
	return []string{pluginsInstalled, pluginPackages + "/", pluginAssets + "/", pluginData + "/"}
}

// variables is the table of all settings. Names collide between programs (DB_DATABASE, API_KEY), and plugins inherit all that
// the daemon has: whoever adds a row says whose it is, and where it is read. Values that are what the program would take
// without them stand here only where stock compose or the image says otherwise.
func variables(r Release, s Settings, secrets map[string]string, b Budget) []variable {
	db, vector, redis := s.Stores.Database, s.Stores.Vector, s.Stores.Redis
	site := ""
	switch {
	case s.Domain != "":
		site = "https://" + s.Domain
	case s.Address.IsValid():
		site = "https://" + s.Address.String()
	}
	broker := url.URL{Scheme: "redis", Host: fmt.Sprintf("%s:%d", redis.Host, redis.Port), Path: "/" + itoa(BrokerDatabase)}
	if !redis.NoAuth {
		broker.User = url.UserPassword("", secrets[RedisAuth])
	}
	// The relay's way from beat is on the machine, and not encrypted; from there on it is the agent's.
	relayed := broker
	encryptBroker(&broker, redis.TLS)
	events := broker
	events.Path, relayed.Host = "/0", fmt.Sprintf("%s:%d", RelayHost, RelayPort)
	api, worker, beat, web := []Name{API}, []Name{Worker}, []Name{WorkerBeat}, []Name{Web}
	daemon, box := []Name{PluginDaemon}, []Name{Sandbox}
	with := func(sets ...[]Name) (all []Name) {
		for _, set := range sets {
			all = append(all, set...)
		}
		return all
	}
	const (
		feature    = "api configs/feature"
		middleware = "api configs/middleware"
		entrypoint = "api docker/entrypoint.sh"
		config     = "daemon internal/types/app/config.go"
		next       = "web docker/entrypoint.sh, env.ts"
		boxConfig  = "sandbox internal/static/config.go"
	)
	rows := []variable{
		{"TZ", "UTC", Names(), "every program's C library"},

		// What the container is. MIGRATION_ENABLED: migrations are run by whoever the instances agree on, not by each.
		{"MODE", "api", api, entrypoint},
		{"MODE", "worker", worker, entrypoint},
		{"MODE", "beat", beat, entrypoint},
		{"MIGRATION_ENABLED", "false", apps(), entrypoint},
		{"DEPLOY_ENV", "PRODUCTION", with(apps(), web), "api configs/deploy; web env.ts"},
		{"LOG_LEVEL", "INFO", apps(), "api configs/feature"},
		{"LOG_FILE", "", apps(), feature + ": what is in a file is in no log of Docker's, and fills the disk"},
		{"SCARF_NO_ANALYTICS", "true", apps(), "the library unstructured, which phones home"},
		{"CHECK_UPDATE_URL", "", api, feature + ": phones home"},
		{"DISABLE_TELEMETRY", "true", apps(), feature + ": since 1.17, phones home"},

		// How much it does at once: see budget.go.
		{"SERVER_WORKER_AMOUNT", itoa(b.APIWorkers), api, entrypoint},
		{"SERVER_WORKER_CLASS", "gevent", api, entrypoint},
		{"SERVER_WORKER_CONNECTIONS", itoa(b.APIConnections + apiSpare), api, entrypoint + ": 10 in stock compose, of which each stream holds one; the front door sends as many as there are without the spare ones"},
		{"GUNICORN_TIMEOUT", "360", api, entrypoint + ": 200 without it"},
		{"DIFY_BIND_ADDRESS", "0.0.0.0", api, entrypoint},
		{"DIFY_PORT", itoa(API.Port()), api, entrypoint},
		{"CELERY_WORKER_AMOUNT", itoa(b.WorkerTasks), worker, entrypoint + ": 1 without it, and a workflow that streams is a task"},

		// Keys.
		{"SECRET_KEY", secrets[SecretKey], apps(), feature},
		{"INIT_PASSWORD", secrets[InitPassword], api, "api controllers/console/init_validate.py"},
		{"PLUGIN_DAEMON_KEY", secrets[PluginKey], serving(), feature},
		{"SERVER_KEY", secrets[PluginKey], daemon, config},
		{"INNER_API_KEY_FOR_PLUGIN", secrets[InnerKey], serving(), feature},
		{"DIFY_INNER_API_KEY", secrets[InnerKey], daemon, config},
		{"CODE_EXECUTION_API_KEY", secrets[SandboxKey], serving(), feature},
		{"API_KEY", secrets[SandboxKey], box, boxConfig},

		// PostgreSQL. The daemon's database is its own: with Dify's it puts its tables there.
		{"DB_TYPE", "postgresql", with(apps(), daemon), middleware + "; " + config},
		{"DB_HOST", db.Host, with(apps(), daemon), middleware + "; " + config},
		{"DB_PORT", itoa(db.Port), with(apps(), daemon), middleware + "; " + config},
		{"DB_USERNAME", db.User, with(apps(), daemon), middleware + "; " + config},
		{"DB_PASSWORD", secrets[DBPassword], with(apps(), daemon), middleware + "; " + config},
		{"DB_DATABASE", db.Name, apps(), middleware},
		{"DB_DATABASE", db.PluginName, daemon, config},
		{"DB_SSL_MODE", daemonMode(db.TLS), daemon, config},
		{"DB_MAX_OPEN_CONNS", itoa(daemonConns), daemon, config},
		{"DB_MAX_IDLE_CONNS", "5", daemon, config},
		{"SQLALCHEMY_POOL_SIZE", itoa(b.APIPool.Size), api, middleware},
		{"SQLALCHEMY_MAX_OVERFLOW", itoa(b.APIPool.Overflow), api, middleware},
		{"SQLALCHEMY_POOL_SIZE", itoa(b.WorkerPool.Size), worker, middleware},
		{"SQLALCHEMY_MAX_OVERFLOW", itoa(b.WorkerPool.Overflow), worker, middleware},
		{"SQLALCHEMY_POOL_TIMEOUT", "600", worker, middleware + ": 30 without it, for which a model may embed; what indexes waits for its turn"},
		{"SQLALCHEMY_POOL_SIZE", "1", beat, middleware},
		{"SQLALCHEMY_MAX_OVERFLOW", itoa(beatConns - 1), beat, middleware},
		{"SQLALCHEMY_POOL_PRE_PING", "true", apps(), middleware + ": after a failover, connections that are dead would be used"},

		// Redis: 0 is the cache, 1 Celery's. Streams lose the start of a workflow in 1.13.3 to 1.16.1, pubsub does not.
		// Beat's way leads through the agent, which lets one beat of the stack at a time send something.
		{"REDIS_HOST", redis.Host, with(serving(), daemon), middleware + "; " + config},
		{"REDIS_PORT", itoa(redis.Port), with(serving(), daemon), middleware + "; " + config},
		{"REDIS_HOST", RelayHost, beat, middleware},
		{"REDIS_PORT", itoa(RelayPort), beat, middleware},
		{"REDIS_USERNAME", "", apps(), middleware},
		{"REDIS_PASSWORD", secrets[RedisAuth], with(apps(), daemon), middleware + "; daemon: REDIS_PASSWORD"},
		{"REDIS_DB", "0", with(apps(), daemon), middleware + "; " + config},
		{"REDIS_USE_SSL", strconv.FormatBool(redis.TLS != Plain), with(serving(), daemon), middleware + "; " + config},
		{"REDIS_USE_SSL", "false", beat, middleware},
		{"REDIS_KEEPALIVE", "true", apps(), middleware + ", not yet in 1.14.2: a connection that was dropped in silence is noticed"},
		{"REDIS_KEY_PREFIX", "plugin_daemon", daemon, config},
		{"CELERY_BROKER_URL", broker.String(), serving(), middleware},
		{"CELERY_BROKER_URL", relayed.String(), beat, middleware},
		{"EVENT_BUS_REDIS_URL", events.String(), serving(), middleware},
		{"EVENT_BUS_REDIS_CHANNEL_TYPE", "pubsub", serving(), middleware},

		// Files, with rights that the agent gives (Identity): without a key, Google's clients ask the metadata server, whose place it takes.
		{"STORAGE_TYPE", "google-storage", apps(), "api configs/middleware/storage"},
		{"GOOGLE_STORAGE_BUCKET_NAME", s.Stores.Bucket, apps(), "api configs/middleware/storage"},
		{"GOOGLE_STORAGE_SERVICE_ACCOUNT_JSON_BASE64", "", apps(), "api configs/middleware/storage"},
		{"PLUGIN_STORAGE_TYPE", "gcs", daemon, config},
		{"PLUGIN_STORAGE_OSS_BUCKET", s.Stores.Bucket, daemon, config},
		{"GCS_CREDENTIALS", "", daemon, config},
		{"PLUGIN_INSTALLED_PATH", pluginsInstalled, daemon, config + `: "plugin" is the beginning of plugin_packages too`},
		{"PLUGIN_PACKAGE_CACHE_PATH", pluginPackages, daemon, config},
		{"PLUGIN_MEDIA_CACHE_PATH", pluginAssets, daemon, config},
		{"PERSISTENCE_STORAGE_PATH", pluginData, daemon, config + ": where plugins keep their data"},

		// Vectors.
		{"VECTOR_STORE", "pgvector", serving(), "api configs/middleware"},
		{"PGVECTOR_HOST", vector.Host, serving(), "api configs/middleware/vdb"},
		{"PGVECTOR_PORT", itoa(vector.Port), serving(), "api configs/middleware/vdb"},
		{"PGVECTOR_USER", vector.User, serving(), "api configs/middleware/vdb"},
		{"PGVECTOR_PASSWORD", secrets[VectorPassword], serving(), "api configs/middleware/vdb"},
		{"PGVECTOR_DATABASE", vector.Name, serving(), "api configs/middleware/vdb"},

		// The way from one to the other. Never to another instance's: a plugin may not run there yet.
		{"PLUGIN_DAEMON_URL", PluginDaemon.url(), serving(), feature + ": its own container without it"},
		{"PLUGIN_DAEMON_TIMEOUT", "600.0", serving(), feature},
		{"PLUGIN_MAX_PACKAGE_SIZE", itoa(pluginPackage), serving(), feature + ": 15 MB without it"},
		{"CODE_EXECUTION_ENDPOINT", Sandbox.url(), serving(), feature},
		{"SSRF_PROXY_HTTP_URL", SSRFProxy.url(), serving(), feature + ": without it, requests of workflows go straight out"},
		{"SSRF_PROXY_HTTPS_URL", SSRFProxy.url(), serving(), feature},
		{"INTERNAL_FILES_URL", API.url(), serving(), feature + ": previews fail without it, and files for plugins"},
		{"DIFY_INNER_API_URL", API.url(), daemon, config + ": it ends at once without it"},

		// The plugin daemon.
		{"SERVER_PORT", itoa(PluginDaemon.Port()), daemon, config},
		{"PLATFORM", "local", daemon, config + ": it ends at once without it"},
		{"PLUGIN_WORKING_PATH", "/app/storage/cwd", daemon, config + ": it ends at once without it"},
		{"PYTHON_ENV_INIT_TIMEOUT", "600", daemon, config + ": 120 is too short on small machines"},
		{"MAX_PLUGIN_PACKAGE_SIZE", itoa(pluginPackage), daemon, config},
		{"PLUGIN_MAX_EXECUTION_TIMEOUT", "600", daemon, config},
		{"PLUGIN_REMOTE_INSTALLING_ENABLED", "false", daemon, config + ": opens a port, and leads to other instances"},
		{"FORCE_VERIFYING_SIGNATURE", "true", daemon, config},
		{"PIP_MIRROR_AUTO_DETECT", "false", daemon, config + ": may choose a mirror by itself"},

		// The sandbox. What it runs reaches the outside through the proxy alone.
		{"GIN_MODE", "release", box, "sandbox's web framework"},
		{"SANDBOX_PORT", itoa(Sandbox.Port()), box, boxConfig},
		{"WORKER_TIMEOUT", "15", box, boxConfig},
		{"ENABLE_NETWORK", "true", box, boxConfig},
		{"HTTP_PROXY", SSRFProxy.url(), box, boxConfig},
		{"HTTPS_PROXY", SSRFProxy.url(), box, boxConfig},

		// What is open to all without these.
		{"SWAGGER_UI_ENABLED", "false", api, "api configs/extra: true without it, and the documents are public"},
		{"ENABLE_COLLABORATION_MODE", "false", api, feature + ": true without it; needs a server that sockets stick to"},
		{"ENABLE_OAUTH_BEARER", "false", serving(), feature},

		// The web interface.
		{"HOSTNAME", "0.0.0.0", web, "Next.js: the container's own name without it, which is one network's"},
		{"PORT", itoa(Web.Port()), web, "Next.js"},
		{"NEXT_TELEMETRY_DISABLED", "1", web, "Next.js, which phones home"},
		{"NEXT_PUBLIC_COOKIE_DOMAIN", "", web, next},
		{"COOKIE_DOMAIN", "", api, feature},

		// One domain, or else the stack's address, sets every address: see ADR 30. Empty means the address the browser came by;
		// left out, the images' own would count.
		{"CONSOLE_API_URL", site, with(serving(), web), feature + "; " + next + ": by its scheme the page knows the name of the API's cookie"},
		{"CONSOLE_WEB_URL", site, with(serving(), web), feature + "; " + next + ": where the marketplace leads back to"},
		{"SERVICE_API_URL", site, serving(), feature},
		{"APP_API_URL", site, web, next},
		{"APP_WEB_URL", site, serving(), feature},
		{"FILES_URL", site, serving(), feature},
		{"TRIGGER_URL", site, serving(), feature},
	}
	rows = append(rows, encryption(s)...)
	add := func(name, value string, of []Name, read string) { rows = append(rows, variable{name, value, of, read}) }
	// These have no word for the address the browser came by.
	if site != "" {
		add("ENDPOINT_URL_TEMPLATE", site+"/e/{hook_id}", serving(), feature)
		add("NEXT_PUBLIC_SOCKET_URL", "wss"+strings.TrimPrefix(site, "https"), web, next)
		add("CONSOLE_CORS_ALLOW_ORIGINS", site, api, feature)
		add("WEB_API_CORS_ALLOW_ORIGINS", site, api, feature)
	}
	if !Older(r.Version, "1.15.0") {
		add("SERVER_CONSOLE_API_URL", API.url(), web, next+": since 1.15")
		// The agent services of 1.15 come with public development keys; without them their feature is hidden.
		add("NEXT_PUBLIC_ENABLE_AGENT_V2", "false", web, next+": since 1.15")
	}
	if s.PipMirror != "" {
		add("PIP_MIRROR_URL", s.PipMirror, with(daemon, box), config+"; sandbox entrypoint")
	}
	return rows
}
