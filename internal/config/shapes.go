package config

import "regexp"

// Shape is a form that a text must have. Forms that a pattern cannot say are checked in validate.go.
type Shape struct {
	Name    string
	Pattern string // anchored; in Go's syntax and ECMAScript's, for the JSON schema
	Says    string // completes "It must be …"
	Example string
}

// shapes gives the shapes by name.
func shapes() map[string]Shape {
	m := map[string]Shape{}
	for _, s := range []Shape{
		// Three characters, because the service account's ID, STACK-vm, needs six; twenty, so that every name fits.
		{"stack", `^[a-z]([-a-z0-9]{1,18})[a-z0-9]$`, "3 to 20 lower-case letters, digits and hyphens, beginning with a letter and not ending with a hyphen", "demo"},
		{"project", `^[a-z][-a-z0-9]{4,28}[a-z0-9]$`, "a project ID: 6 to 30 lower-case letters, digits and hyphens, beginning with a letter and not ending with a hyphen", "my-project-123"},
		{"region", `^[a-z]+-[a-z]+[0-9]+$`, "a region's name", "asia-northeast1"},
		{"zone", `^[a-z]+-[a-z]+[0-9]+-[a-z]$`, "a zone's name", "asia-northeast1-a"},
		{"domain", `^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)+[a-z]([-a-z0-9]{0,61}[a-z0-9])?$`, "a lower-case host name with a dot, without scheme, port or path", "dify.example.com"},
		{"cidr", `^[0-9.]+/[0-9]{1,2}$`, "an IPv4 range in CIDR notation", "10.10.0.0/20"},
		{"machine_type", `^([a-z][a-z0-9]*-)?(([a-z]+-[0-9]+(-lssd)?)|(custom-[0-9]+-[0-9]+(-ext)?)|micro|small|medium)$`, "the name of a machine type", "e2-standard-4"},
		{"tier", `^(db-custom-[0-9]+-[0-9]+|db-f1-micro|db-g1-small|db-perf-optimized-N-[0-9]+)$`, "db-custom-CPUS-MEGABYTES, db-f1-micro, db-g1-small or db-perf-optimized-N-CPUS", "db-custom-2-8192"},
		{"time", `^([01][0-9]|2[0-3]):[0-5][0-9]$`, "a time of day, HH:MM", "18:00"},
		{"bucket", `^[a-z0-9][-_a-z0-9]{1,61}[a-z0-9]$`, "3 to 63 lower-case letters, digits, hyphens and underscores, with a letter or digit at both ends", "my-project-demo-files"},
		{"location", `^([a-z]+-[a-z]+[0-9]+|asia|eu|us|asia1|eur[0-9]+|nam[0-9]+)$`, "a region, or one of asia, eu, us, asia1, eur4, nam4 and the like", "asia-northeast1"},
		{"origin", `^(\*|https?://[-.a-zA-Z0-9*]+(:[0-9]{1,5})?)$`, "a scheme and a host, without a path, or \"*\"", "https://app.example.com"},
		{"method", `^(GET|HEAD|PUT|POST|DELETE|OPTIONS|PATCH)$`, "an HTTP method in capitals", "GET"},
		{"registry", `^[a-z0-9][-.a-z0-9]*\.[a-z]+(:[0-9]{1,5})?(/[-._a-z0-9]+)*$`, "a host name and a path below it, without a scheme", "asia-northeast1-docker.pkg.dev/my-project-123/hub"},
		{"registry_host", `^[a-z0-9][-.a-z0-9]*\.[a-z]+(:[0-9]{1,5})?$`, "the host name of a registry, with its port if it has one", "ghcr.io"},
		{"image", `^([A-Za-z0-9_][-.A-Za-z0-9_]{0,127}|([a-z0-9]([-.a-z0-9]*[a-z0-9])?(:[0-9]{1,5})?/)?[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*(:[A-Za-z0-9_][-.A-Za-z0-9_]{0,127}|(:[A-Za-z0-9_][-.A-Za-z0-9_]{0,127})?@sha256:[0-9a-f]{64}))$`, "a tag, REPOSITORY:TAG or REPOSITORY@sha256:DIGEST, without a scheme", "ghcr.io/example/dify-api:1.17.1"},
		{"pip_mirror", `^https?://[^\s@'"\\$]+$`, "a URL without a user or password", "https://pypi.example.com/simple"},
		{"host_port", `^[a-zA-Z0-9]([-.a-zA-Z0-9]*[a-zA-Z0-9])?:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$`, "a host name or an IPv4 address, and a port", "smtp.example.internal:587"},
		{"variable", `^[A-Z_][A-Z0-9_]*$`, "the name of an environment variable: capitals, digits and underscores, not beginning with a digit", "HTTP_TIMEOUT"},
		{"secret_version", `^[a-zA-Z0-9_-]{1,255}@[1-9][0-9]{0,8}$`, "a secret of Secret Manager with the number of a version, NAME@VERSION", "sentry-dsn@1"},
		{"header", `^(\*|[-A-Za-z0-9]+)$`, "the name of an HTTP header", "Content-Type"},
	} {
		m[s.Name] = s
	}
	return m
}

// Fits says whether text has the shape.
func (s Shape) Fits(text string) bool {
	ok, err := regexp.MatchString(s.Pattern, text)
	return err == nil && ok
}
