package dify

import (
	"fmt"
	"net/url"
	"strconv"
)

// Env gives the environment that Dify's API, workers and plugin daemon get, by Dify's own names, from an instance's
// settings and the values of its secrets by purpose. A purpose without a value is an error.
func Env(s Settings, secrets map[string]string) (map[string]string, error) {
	for _, p := range Purposes() {
		if secrets[p.Key] == "" {
			return nil, fmt.Errorf("the secret %s has no value", p.Key)
		}
	}
	db, vector, redis := s.Stores.Database, s.Stores.Vector, s.Stores.Redis
	site := ""
	if s.Domain != "" {
		site = "https://" + s.Domain
	}
	broker := url.URL{
		Scheme: "redis", User: url.UserPassword("", secrets[RedisAuth]), Host: fmt.Sprintf("%s:%d", redis.Host, redis.Port), Path: "/1",
	}
	events := broker
	events.Path = "/0"
	env := map[string]string{
		"DEPLOY_ENV": "PRODUCTION", "LOG_LEVEL": "INFO", "TZ": "UTC",
		"SECRET_KEY": secrets[SecretKey], "INIT_PASSWORD": secrets[InitPassword],

		"DB_TYPE": "postgresql", "DB_HOST": db.Host, "DB_PORT": strconv.Itoa(db.Port), "DB_USERNAME": db.User, "DB_PASSWORD": secrets[DBPassword],
		"DB_DATABASE": db.Name, "DB_PLUGIN_DATABASE": db.PluginName,
		"SQLALCHEMY_POOL_SIZE": strconv.Itoa(PoolSize), "SQLALCHEMY_MAX_OVERFLOW": strconv.Itoa(PoolOverflow), "SQLALCHEMY_POOL_PRE_PING": "true",
		"DB_MAX_OPEN_CONNS": strconv.Itoa(DaemonConns), "SERVER_WORKER_AMOUNT": strconv.Itoa(APIWorkers),
		// Migrations are run by whoever the instances agree on, not by each.
		"MIGRATION_ENABLED": "false",

		"REDIS_HOST": redis.Host, "REDIS_PORT": strconv.Itoa(redis.Port), "REDIS_USERNAME": "", "REDIS_PASSWORD": secrets[RedisAuth], "REDIS_DB": "0",
		"REDIS_USE_SSL": "false", "CELERY_BROKER_URL": broker.String(), "EVENT_BUS_REDIS_URL": events.String(),

		"STORAGE_TYPE": "google-storage", "GOOGLE_STORAGE_BUCKET_NAME": s.Stores.Bucket, "GOOGLE_STORAGE_SERVICE_ACCOUNT_JSON_BASE64": "",
		"PLUGIN_STORAGE_TYPE": "gcs", "PLUGIN_STORAGE_OSS_BUCKET": s.Stores.Bucket, "GCS_CREDENTIALS": "",

		"VECTOR_STORE": "pgvector", "PGVECTOR_HOST": vector.Host, "PGVECTOR_PORT": strconv.Itoa(vector.Port), "PGVECTOR_USER": vector.User,
		"PGVECTOR_PASSWORD": secrets[VectorPassword], "PGVECTOR_DATABASE": vector.Name,

		"PLUGIN_DAEMON_KEY": secrets[PluginKey], "SERVER_KEY": secrets[PluginKey],
		"INNER_API_KEY_FOR_PLUGIN": secrets[InnerKey], "DIFY_INNER_API_KEY": secrets[InnerKey],
		"CODE_EXECUTION_API_KEY": secrets[SandboxKey], "API_KEY": secrets[SandboxKey],
		"PLUGIN_REMOTE_INSTALLING_ENABLED": "false", "PIP_MIRROR_AUTO_DETECT": "false",
	}
	// One domain sets every address. Empty means the address the browser came by; left out, the images' own would count.
	for _, name := range []string{"CONSOLE_API_URL", "CONSOLE_WEB_URL", "SERVICE_API_URL", "APP_API_URL", "APP_WEB_URL", "FILES_URL", "TRIGGER_URL"} {
		env[name] = site
	}
	// These have no word for the address the browser came by; without a domain the images' own count.
	if s.Domain != "" {
		env["ENDPOINT_URL_TEMPLATE"] = site + "/e/{hook_id}"
		env["NEXT_PUBLIC_SOCKET_URL"] = "wss://" + s.Domain
		env["CONSOLE_CORS_ALLOW_ORIGINS"], env["WEB_API_CORS_ALLOW_ORIGINS"] = site, site
	}
	return env, nil
}
