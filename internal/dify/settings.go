package dify

// Settings is what an instance is told, in its metadata, under the key difyup-config. It holds no secret: those are
// named, and fetched at boot.
type Settings struct {
	Stack       string `json:"stack"`
	Project     string `json:"project"`
	Region      string `json:"region"`
	Runtime     string `json:"runtime"` // "compose" or "standin": which runtime the agent uses
	DifyVersion string `json:"difyVersion"`
	Domain      string `json:"domain"` // "" = reached by address
	Stores      Stores `json:"stores"`
	// Secrets gives the Secret Manager name for each purpose of Purposes.
	Secrets map[string]string `json:"secrets"`

	Machine Machine `json:"machine"`
	Tuning  Tuning  `json:"tuning,omitzero"`
	// Registry is a mirror of Docker Hub that all images are taken from, "HOST/PATH"; "" = Docker Hub itself.
	Registry string `json:"registry,omitempty"`
	// Pins are the digests of images, "sha256:…", by what Images calls them. An image without is run by its tag.
	Pins map[string]string `json:"pins,omitempty"`
	// PipMirror is where plugins and code get Python packages from; "" = PyPI.
	PipMirror string `json:"pipMirror,omitempty"`
	// Environment is what the user adds to the environment of services. What difyup sets itself cannot be set there.
	Environment map[Name]map[string]string `json:"environment,omitempty"`
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
}

// Address is a host and a port.
type Address struct {
	Host string `json:"host"`
	Port int    `json:"port"`
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
}

// Purposes gives the secrets of a stack, one for each purpose. All are alphanumeric: the plugin daemon builds its DSN, and
// Celery's URL is built, without quoting.
func Purposes() []Purpose {
	return []Purpose{
		{SecretKey, "secret-key", 48},
		{InitPassword, "init-password", 24}, // Dify takes 30 at most
		{PluginKey, "plugin-key", 48},
		{InnerKey, "inner-key", 48},
		{SandboxKey, "sandbox-key", 48},
		{DBPassword, "db-password", 32},
		{VectorPassword, "vector-password", 32},
		{RedisAuth, "redis-auth", 0},
	}
}
