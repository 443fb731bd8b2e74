package dify_test

import (
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/dify"
)

func TestLookup(t *testing.T) {
	r, err := dify.Lookup("1.16.1")
	if err != nil || r.PluginDaemon != "0.6.8" {
		t.Errorf("1.16.1: %v, %v", r, err)
	}
	if _, err := dify.Lookup(dify.Default); err != nil {
		t.Errorf("the default release is unknown: %v", err)
	}
	for version, want := range map[string]string{"1.9.0": "service account's key", "2.0.0": "does not know", "latest": "does not know"} {
		if _, err := dify.Lookup(version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", version, err, want)
		}
	}
}

func TestConnections(t *testing.T) {
	// Four instances, three and one more while rolling: 4 × (20 × 3 + 2 + 15) + 12.
	main, vector := dify.Connections(4)
	if main != 320 || vector != 50 {
		t.Errorf("got %d and %d, want 320 and 50", main, vector)
	}
}

// settings are an instance's, with a value for each secret.
func settings() (dify.Settings, map[string]string) {
	s := dify.Settings{
		Stack: "demo", Project: "p", Region: "r", Runtime: "standin", DifyVersion: dify.Default, Domain: "dify.example.com",
		Stores: dify.Stores{
			Database: dify.Database{Host: "db.demo.internal", Port: 5432, User: "dify", Name: "dify", PluginName: "dify_plugin"},
			Vector:   dify.Database{Host: "vector.demo.internal", Port: 5432, User: "dify", Name: "dify"},
			Redis:    dify.Address{Host: "redis.demo.internal", Port: 6379}, Bucket: "files",
		},
	}
	secrets := map[string]string{}
	for _, p := range dify.Purposes() {
		secrets[p.Key] = "value-of-" + p.Key
	}
	return s, secrets
}

func TestEnv(t *testing.T) {
	s, secrets := settings()
	env, err := dify.Env(s, secrets)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"SECRET_KEY": "value-of-SECRET_KEY", "DB_HOST": "db.demo.internal", "DB_PORT": "5432", "DB_PASSWORD": "value-of-DB_PASSWORD", "DB_PLUGIN_DATABASE": "dify_plugin",
		"CELERY_BROKER_URL": "redis://:value-of-REDIS_AUTH@redis.demo.internal:6379/1", "STORAGE_TYPE": "google-storage", "GOOGLE_STORAGE_BUCKET_NAME": "files",
		"VECTOR_STORE": "pgvector", "PGVECTOR_PASSWORD": "value-of-VECTOR_PASSWORD", "CONSOLE_API_URL": "https://dify.example.com",
		"PLUGIN_DAEMON_KEY": "value-of-PLUGIN_DAEMON_KEY", "SERVER_KEY": "value-of-PLUGIN_DAEMON_KEY",
	} {
		if env[name] != want {
			t.Errorf("%s is %q, want %q", name, env[name], want)
		}
	}
	s.Domain = ""
	if env, err = dify.Env(s, secrets); err != nil || env["CONSOLE_API_URL"] != "" {
		t.Errorf("without a domain CONSOLE_API_URL is %q, %v", env["CONSOLE_API_URL"], err)
	}
	if _, set := env["CONSOLE_API_URL"]; !set {
		t.Error("without a domain CONSOLE_API_URL is not set: the image's own value would count")
	}
	delete(secrets, dify.RedisAuth)
	if _, err := dify.Env(s, secrets); err == nil || !strings.Contains(err.Error(), "REDIS_AUTH") {
		t.Errorf("without a secret: %v", err)
	}
}
