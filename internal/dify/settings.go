package dify

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Settings is what an instance is told, in its metadata, under the key difyup-config. It holds no secret: those are
// named, and fetched at boot.
type Settings struct {
	Stack       string `json:"stack"`
	Project     string `json:"project"`
	Region      string `json:"region"`
	Runtime     string `json:"runtime"` // "compose" or "standin": which runtime the agent uses
	DifyVersion string `json:"difyVersion"`
	Domain      string `json:"domain"` // "" = reached by address
	// Edge is the name of the address at which the stack is reached; "" with a domain, which is used instead.
	Edge string `json:"edge,omitempty"`
	// Address is what Edge stands for. It is no part of the metadata: the agent looks it up at boot.
	Address netip.Addr `json:"-"`
	Stores  Stores     `json:"stores"`
	// Secrets gives, for each purpose of Purposes, the version of a secret that instances read: this one and no other, for as
	// long as they live.
	Secrets map[string]SecretVersion `json:"secrets"`

	Machine Machine `json:"machine"`
	Tuning  Tuning  `json:"tuning,omitzero"`
	// Images are those that the user names, in place of the release's: a tag, "REPOSITORY:TAG", or "REPOSITORY@sha256:…", where a
	// tag before the digest does not count.
	Images map[Name]string `json:"images,omitempty"`
	// Registry is a mirror of Docker Hub that images are taken from, "HOST/PATH"; "" = Docker Hub itself. It does not hold for
	// those that the user names with their repository.
	Registry string `json:"registry,omitempty"`
	// RegistryCredentials are secrets with USER:PASSWORD for registries, by host, "docker.io" for Docker Hub.
	RegistryCredentials map[string]SecretVersion `json:"registryCredentials,omitempty"`
	// Pins are the digests of images, "sha256:…", by what Images calls them. An image without is run by its tag.
	Pins map[string]string `json:"pins,omitempty"`
	// PipMirror is where plugins and code get Python packages from; "" = PyPI.
	PipMirror string `json:"pipMirror,omitempty"`
	// PrivateServices are what else of private networks the API, the worker and plugins may connect to, each "HOST:PORT".
	PrivateServices []string `json:"privateServices,omitempty"`
	// ProxiedServices are what the proxy lets requests through to there, each "HOST:PORT".
	ProxiedServices []string `json:"proxiedServices,omitempty"`
	// Environment is what the user adds to the environment of services. What difyup sets itself cannot be set there.
	Environment map[Name]map[string]string `json:"environment,omitempty"`
	// SecretEnvironment is the same for values that are in Secret Manager.
	SecretEnvironment map[Name]map[string]SecretVersion `json:"secretEnvironment,omitempty"`
}

// Stores are where Dify's data is.
type Stores struct {
	Database Database `json:"database"`
	Vector   Database `json:"vector"`
	Redis    Address  `json:"redis"`
	Bucket   string   `json:"bucket"`
}

// Database is a PostgreSQL database.
type Database struct {
	Host       string `json:"host"`
	Port       int    `json:"port"`
	User       string `json:"user"`
	Name       string `json:"name"`
	PluginName string `json:"pluginName,omitempty"` // the plugin daemon's, beside the main one
	TLS        TLS    `json:"tls,omitempty"`
	Instance   string `json:"instance,omitempty"` // the name of the instance, whose authorities sign its certificate
}

// Address is where Redis is, and how it is spoken to.
type Address struct {
	Host     string `json:"host"`
	Port     int    `json:"port"`
	TLS      TLS    `json:"tls,omitempty"`
	Instance string `json:"instance,omitempty"` // the name of the instance, whose authorities sign its certificate
	NoAuth   bool   `json:"noAuth,omitempty"`   // it asks for no password, so that there is no secret with one
}

// SecretVersion is one version of a secret in Secret Manager. Its text is NAME@VERSION.
type SecretVersion struct {
	Name    string
	Version int // from 1
}

func (v SecretVersion) String() string { return v.Name + "@" + strconv.Itoa(v.Version) }

// MarshalText gives its text.
func (v SecretVersion) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads its text. A secret without a version is refused: the newest is another one tomorrow.
func (v *SecretVersion) UnmarshalText(text []byte) error {
	name, number, ok := strings.Cut(string(text), "@")
	n, err := strconv.Atoi(number)
	switch {
	case !ok || name == "":
		return errors.New("a version of a secret is written NAME@VERSION")
	case err != nil || n < 1 || strconv.Itoa(n) != number:
		return fmt.Errorf("the version of the secret %s is not a number from 1", name)
	}
	*v = SecretVersion{Name: name, Version: n}
	return nil
}

// The purposes of secrets.
const (
	SecretKey      = "SECRET_KEY"
	InitPassword   = "INIT_PASSWORD"
	PluginKey      = "PLUGIN_DAEMON_KEY"
	InnerKey       = "INNER_API_KEY"
	SandboxKey     = "SANDBOX_API_KEY"
	DBPassword     = "DB_PASSWORD"
	VectorPassword = "VECTOR_PASSWORD"
	RedisAuth      = "REDIS_AUTH"
)

// Purpose is what a secret is for.
type Purpose struct {
	Key    string // in Settings.Secrets
	Name   string // its secret is called STACK-Name
	Length int    // characters of [A-Za-z0-9] to generate; 0 = Redis makes it
	// Held says that a new value takes more than new instances: a store knows the old one, or data were encrypted with it.
	Held bool
}

// Purposes gives the purposes of the secrets that instances with these settings have.
func (s Settings) Purposes() []Purpose {
	return slices.DeleteFunc(Purposes(), func(p Purpose) bool { return p.Key == RedisAuth && s.Stores.Redis.NoAuth })
}

// Purposes gives the secrets of a stack, one for each purpose. All are alphanumeric: the plugin daemon builds its DSN, and
// Celery's URL is built, without quoting.
func Purposes() []Purpose {
	return []Purpose{
		{SecretKey, "secret-key", 48, true},
		{InitPassword, "init-password", 24, false}, // Dify takes 30 at most
		{PluginKey, "plugin-key", 48, false},
		{InnerKey, "inner-key", 48, false},
		{SandboxKey, "sandbox-key", 48, false},
		{DBPassword, "db-password", 32, true},
		{VectorPassword, "vector-password", 32, true},
		{RedisAuth, "redis-auth", 0, true},
	}
}
