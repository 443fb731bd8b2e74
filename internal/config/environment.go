package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/imagename"
)

// What Google takes as one value of an instance's metadata, and what is left of it for the user's variables. One variable is
// what Linux lets a program be started with.
const (
	metadataValue = 256 << 10
	allVariables  = metadataValue - 16<<10
	oneVariable   = 128<<10 - 1
)

func byService(of func(dify.Name) map[string]string) map[dify.Name]map[string]string {
	all := map[dify.Name]map[string]string{}
	for _, n := range dify.Names() {
		if m := of(n); len(m) > 0 {
			all[n] = m
		}
	}
	return all
}

// Variables gives what is added to the environment of each service.
func (s *Spec) Variables() map[dify.Name]map[string]string {
	e := s.Dify.Environment
	return byService(func(n dify.Name) map[string]string {
		return map[dify.Name]map[string]string{
			dify.API: e.API, dify.Worker: e.Worker, dify.WorkerBeat: e.WorkerBeat, dify.Web: e.Web,
			dify.PluginDaemon: e.PluginDaemon, dify.Sandbox: e.Sandbox, dify.SSRFProxy: e.SSRFProxy,
		}[n]
	})
}

// SecretVariables gives what is added to the environment of each service from Secret Manager.
func (s *Spec) SecretVariables() map[dify.Name]map[string]dify.SecretVersion {
	out := map[dify.Name]map[string]dify.SecretVersion{}
	for n, m := range s.secretTexts() {
		for name, text := range m {
			var v dify.SecretVersion
			if v.UnmarshalText([]byte(text)) != nil {
				continue // has a fault of its own
			}
			if out[n] == nil {
				out[n] = map[string]dify.SecretVersion{}
			}
			out[n][name] = v
		}
	}
	return out
}

func (s *Spec) secretTexts() map[dify.Name]map[string]string {
	e := s.Dify.EnvironmentSecrets
	return byService(func(n dify.Name) map[string]string {
		return map[dify.Name]map[string]string{
			dify.API: e.API, dify.Worker: e.Worker, dify.WorkerBeat: e.WorkerBeat, dify.Web: e.Web,
			dify.PluginDaemon: e.PluginDaemon, dify.Sandbox: e.Sandbox, dify.SSRFProxy: e.SSRFProxy,
		}[n]
	})
}

// options are those that decide what a variable is, where there is one.
func options() map[string]string {
	m := map[string]string{
		"SERVER_WORKER_AMOUNT": "dify.api_workers", "SERVER_WORKER_CONNECTIONS": "dify.api_connections", "CELERY_WORKER_AMOUNT": "dify.worker_concurrency",
		"SQLALCHEMY_POOL_SIZE": "dify.api_database_connections", "SQLALCHEMY_MAX_OVERFLOW": "dify.api_database_connections",
		"PIP_MIRROR_URL": "dify.pip_mirror", "GOOGLE_STORAGE_BUCKET_NAME": "storage.bucket", "PLUGIN_STORAGE_OSS_BUCKET": "storage.bucket",
	}
	for _, name := range []string{
		"CONSOLE_API_URL", "CONSOLE_WEB_URL", "SERVICE_API_URL", "APP_API_URL", "APP_WEB_URL", "FILES_URL", "TRIGGER_URL", "ENDPOINT_URL_TEMPLATE",
		"NEXT_PUBLIC_SOCKET_URL", "CONSOLE_CORS_ALLOW_ORIGINS", "WEB_API_CORS_ALLOW_ORIGINS",
	} {
		m[name] = "domain"
	}
	return m
}

func environment(r *reader, s *Spec) {
	release, err := dify.Choose(s.Dify.Version, s.Images())
	known := err == nil
	plain, secret := s.Variables(), s.secretTexts()
	const section, secrets = "dify.environment", "dify.environment_secrets"
	reserved := func(path string, n dify.Name, name string) {
		why := ""
		if known && r.ok(path) {
			why = dify.Reserved(release, n, name)
		}
		if why == "" {
			return
		}
		remedy := "Remove the line."
		o := options()[name]
		if n == dify.Worker && o == "dify.api_database_connections" {
			o = "dify.worker_concurrency"
		}
		if o != "" {
			remedy = "Remove the line. What it decides is set by the option " + quote(o) + "."
		}
		r.at(path, "Variable of difyup's", fmt.Sprintf("%s of %s cannot be set: %s.", quote(name), quote(string(n)), why), remedy)
	}
	for _, n := range dify.Names() {
		for _, name := range sorted(plain[n]) {
			path := section + "." + string(n) + "." + name
			value := plain[n][name]
			reserved(path, n, name)
			if i := strings.IndexFunc(value, func(c rune) bool { return !unicode.IsPrint(c) && c != '\n' && c != '\t' }); i >= 0 && r.ok(path) {
				r.at(path, "Malformed value", fmt.Sprintf("The value of %s has a character that cannot be printed, %+q.", quote(name), []rune(value[i:])[0]),
					"Write printable text. Bytes belong into a secret or a file, encoded as the program expects it.")
			}
			if size := len(name) + 1 + len(value); size > oneVariable && r.ok(path) {
				r.at(path, "Value is too long", fmt.Sprintf("%s takes %d bytes. Linux starts no program with a variable of more than %d.", quote(name), size, oneVariable), "Shorten it.")
			}
		}
		for _, name := range sorted(secret[n]) {
			path := secrets + "." + string(n) + "." + name
			reserved(path, n, name)
			if _, twice := plain[n][name]; twice && r.ok(path) {
				r.at(path, "Duplicate key", fmt.Sprintf("%s of %s is set in `environment` too.", quote(name), quote(string(n))), "Keep one of the two lines.")
			}
			ownSecret(r, s, path, secret[n][name])
		}
	}
	if !r.ok(section, secrets) {
		return
	}
	// They are sent as JSON, which takes more for some characters.
	raw, err := json.Marshal([]any{plain, s.SecretVariables()})
	if size := len(raw); err == nil && size > allVariables {
		path, most := secrets, ""
		if len(plain) > 0 {
			largest := slices.MaxFunc(slices.Sorted(maps.Keys(plain)), func(a, b dify.Name) int { return weight(plain[a]) - weight(plain[b]) })
			path, most = section+"."+string(largest), "; those of "+quote(string(largest))+" take the most"
		}
		r.at(path, "Environment is too large",
			fmt.Sprintf("The variables take %d bytes in the metadata of the instances. Google takes %d in one value, of which %d are left for them.", size, metadataValue, allVariables),
			"Shorten or remove some"+most+". A long value can be a secret: its name alone is in the metadata.")
	}
}

// ownSecret refuses a secret that is the stack's own.
func ownSecret(r *reader, s *Spec, path, version string) {
	of, _, _ := strings.Cut(version, "@")
	for _, p := range dify.Purposes() {
		if r.ok(path, "stack") && of == s.Stack+"-"+p.Name {
			r.at(path, "Secret of the stack's own", fmt.Sprintf("%s is a secret that difyup makes and gives to those containers that need it. No other may have it.", quote(of)), "Name a secret of your own.")
		}
	}
}

// RegistryCredentials gives the versions of secrets with which instances log in to registries, by host.
func (s *Spec) RegistryCredentials() map[string]dify.SecretVersion {
	out := map[string]dify.SecretVersion{}
	for host, text := range s.Dify.RegistryCredentials {
		var v dify.SecretVersion
		if v.UnmarshalText([]byte(text)) == nil { // else it has a fault of its own
			out[host] = v
		}
	}
	return out
}

func registries(r *reader, s *Spec) {
	const section = "dify.registry_credentials"
	used := map[string]bool{}
	release, err := dify.Choose(s.Dify.Version, s.Images())
	for _, image := range dify.Images(release, dify.Settings{Images: s.Images(), Registry: s.Dify.Registry}) {
		host, _ := imagename.Registry(image)
		used[host] = true
	}
	for _, host := range sorted(s.Dify.RegistryCredentials) {
		path := section + "." + host
		ownSecret(r, s, path, s.Dify.RegistryCredentials[host])
		switch {
		case !r.ok(path):
		case imagename.OfGoogle(host):
			r.at(path, "Registry of Google's", fmt.Sprintf("Instances log in to %s as their service account, and need no password.", quote(host)), "Remove the line.")
		case err == nil && !used[host] && r.ok("dify.version", "dify.images", "dify.registry"):
			r.at(path, "Registry that no image is in", fmt.Sprintf("Instances fetch no image from %s, so that its credentials have no use.", quote(host)),
				"Remove the line, or name an image of that registry in `dify.images`, or the registry itself in `dify.registry`.")
		}
	}
}

func weight(m map[string]string) (n int) {
	for name, value := range m {
		n += len(name) + len(value)
	}
	return n
}
