package config

import "github.com/difyup/difyup/internal/fault"

// The structs of this file are the one description of difyup.yaml. Field comments become docs/config.md and the JSON
// schema; tags say what a value may be:
//
//	yaml      the key
//	required  "true": it has no default
//	default   the value without the key, written as in YAML
//	derived   in words, a default that depends on other options
//	enum      the values there are, separated by spaces
//	min, max  limits of a number
//	shape     the name of a shape in shapes.go, which a text or each text of a list or map must have
//	keys      the name of a shape that each key of a map must have
//	accept    "numbers": a text that YAML may take for a number
//	change    what an apply does when the value changes
//
// After changing anything here: go run ./internal/config/generate

// Spec is one stack: one deployment of Dify on Google Cloud.
//
// Three options have no default. All others may be left out.
type Spec struct {
	// The name of the stack. It begins the name of everything that difyup makes in the project, so that several stacks
	// fit into one project.
	Stack string `yaml:"stack" required:"true" shape:"stack" change:"fixed"`
	// The ID of the Google Cloud project. It must exist, with billing enabled.
	Project string `yaml:"project" required:"true" shape:"project" change:"fixed"`
	// The region in which everything runs that is not global.
	Region string `yaml:"region" required:"true" shape:"region" change:"fixed"`
	// The host name under which users reach Dify. Point its A record at the stack's address, which `difyup outputs`
	// shows. Without a domain the stack is reached by its address, with a self-signed certificate: that is for trying it.
	// Links that Dify hands to others, to models, plugins and webhooks, lead to the address then, whose certificate these do not know.
	Domain string `yaml:"domain" default:"" shape:"domain" change:"rolling"`
	// Labels put on everything that takes labels when it is made, for instance to split the bill: instances and their disks, databases,
	// Redis, buckets, secrets, the private zone. The load balancer's rules and addresses take them by a call of their own only, and have
	// none, and neither has the bucket of the state. difyup adds its own two, by which it recognises what belongs to the stack.
	Labels map[string]string `yaml:"labels" accept:"numbers" change:"rolling"`

	Dify         Dify         `yaml:"dify"`
	Network      Network      `yaml:"network"`
	LoadBalancer LoadBalancer `yaml:"load_balancer"`
	Compute      Compute      `yaml:"compute"`
	Database     Database     `yaml:"database"`
	Vector       Vector       `yaml:"vector"`
	Redis        Redis        `yaml:"redis"`
	Storage      Storage      `yaml:"storage"`

	places map[string]fault.Position // by path: "compute.zones[1]"
	file   string
}

// Dify is what runs.
type Dify struct {
	// The Dify release. Each release comes with the plugin daemon and the sandbox that belong to it, so that one number
	// says it all. Only releases that run on several machines without a key file are known. Any other from 1.14.2 on, and one of
	// your own such as `1.17.1-mine.1`, runs with all `images` named.
	Version string `yaml:"version" default:"1.17.1" accept:"numbers" change:"rolling"`
	// How many processes of the API an instance runs. Each has a CPU's worth of work and some 350 MB.
	APIWorkers int `yaml:"api_workers" derived:"half the vCPUs of the machine type, 1 to 4" min:"1" max:"64" change:"rolling"`
	// How many requests each process of the API has in hand at the same time. An answer that streams is one for as long as it
	// lasts. What an instance gets beyond that waits for up to 30 s, and is then answered 503. Dify's own default is 10.
	APIConnections int `yaml:"api_connections" derived:"100 for every two vCPUs, shared by the processes; 100 to 400" min:"10" max:"10000" change:"rolling"`
	// How many connections to the main database an instance's API may have open, over all its processes.
	// `database.max_connections` must allow those of all instances, which difyup checks.
	APIDatabaseConnections int `yaml:"api_database_connections" derived:"40 with one process of the API, 80 with more" min:"2" max:"1000" change:"rolling"`
	// How many tasks an instance's worker does at the same time: indexing documents, and running workflows whose answers
	// stream. Dify's own default is 1.
	WorkerConcurrency int `yaml:"worker_concurrency" derived:"two for every vCPU, 4 to 16" min:"1" max:"200" change:"rolling"`
	// Where the instances take images from in place of Docker Hub, as `HOST/PATH`: a mirror whose images have the same names
	// below it, such as a remote repository of Artifact Registry. Images that are named with their repository are not taken from there.
	Registry string `yaml:"registry" shape:"registry" change:"rolling"`
	// Secrets with which instances log in to registries, by host: `ghcr.io: SECRET@VERSION`; Docker Hub is `docker.io`. Make the secrets
	// yourself, in the stack's project, each with the value `USER:PASSWORD`. To Google's registries instances log in as their service
	// account, which may read those of the stack's project; in another project give it roles/artifactregistry.reader.
	RegistryCredentials map[string]string `yaml:"registry_credentials" keys:"registry_host" shape:"secret_version" change:"rolling"`
	// Where plugins and code take Python packages from in place of PyPI: the URL of an index.
	PipMirror string `yaml:"pip_mirror" shape:"pip_mirror" change:"rolling"`
	// What of your private networks the API, the worker and plugins may connect to besides the stores, each as `HOST:PORT`: a mail server, a
	// model server. All else there is refused to containers. HTTP requests of workflows, custom tools, MCP servers and external knowledge go through the
	// proxy, for which there is `proxied_services`.
	PrivateServices []string `yaml:"private_services" default:"[]" shape:"host_port" change:"rolling"`
	// What of your private networks the proxy lets HTTP requests through to, each as `HOST:PORT`, by the name or address that they use: an MCP
	// server, an API for tools. Whoever may write a workflow, or code in one, can send requests there.
	ProxiedServices []string `yaml:"proxied_services" default:"[]" shape:"host_port" change:"rolling"`

	Images             Images             `yaml:"images"`
	Environment        Environment        `yaml:"environment"`
	EnvironmentSecrets EnvironmentSecrets `yaml:"environment_secrets"`
}

// Images is images in place of those that belong to the release: each a tag of the usual repository, a whole reference
// `REPOSITORY:TAG`, or one with a digest, `REPOSITORY@sha256:…`, which no registry is asked for. A `version` that difyup does not
// know needs all five; it gets the settings, routes and memory of the nearest release before it that difyup knows, which the plan
// names. The databases are migrated once for each `version`: an API with migrations of its own needs a version of its own.
// An image that is not for everybody needs a registry of Google's, or `registry_credentials`.
type Images struct {
	// The image of the API, the worker and the scheduler; its usual repository is `langgenius/dify-api`.
	API string `yaml:"api" shape:"image" accept:"numbers" change:"rolling"`
	// The image of the web interface; its usual repository is `langgenius/dify-web`.
	Web string `yaml:"web" shape:"image" accept:"numbers" change:"rolling"`
	// The image of the plugin daemon; its usual repository is `langgenius/dify-plugin-daemon`, where tags end with `-local`.
	PluginDaemon string `yaml:"plugin_daemon" shape:"image" accept:"numbers" change:"rolling"`
	// The image of the sandbox; its usual repository is `langgenius/dify-sandbox`.
	Sandbox string `yaml:"sandbox" shape:"image" accept:"numbers" change:"rolling"`
	// The image of the proxy through which workflows reach the outside; its usual repository is `ubuntu/squid`.
	SSRFProxy string `yaml:"ssrf_proxy" shape:"image" accept:"numbers" change:"rolling"`
}

// Environment is further environment variables of Dify's containers, for each container its own: `api: {NAME: value}`. They
// stand in the metadata of the instances, which everybody with access to the project can read: what is secret belongs into
// `environment_secrets`. Values are passed on as they are. What difyup sets itself cannot be set here, but for what no other container
// depends on: LOG_LEVEL, CHECK_UPDATE_URL, ENABLE_OAUTH_BEARER and WEB_API_CORS_ALLOW_ORIGINS; of `plugin_daemon`
// FORCE_VERIFYING_SIGNATURE, without which plugins that nobody has signed can be installed, and PYTHON_ENV_INIT_TIMEOUT; of `sandbox`
// WORKER_TIMEOUT, the seconds that code may run; of `worker` SQLALCHEMY_POOL_TIMEOUT.
type Environment struct {
	// Variables of the API.
	API map[string]string `yaml:"api" keys:"variable" accept:"numbers" change:"rolling"`
	// Variables of the worker.
	Worker map[string]string `yaml:"worker" keys:"variable" accept:"numbers" change:"rolling"`
	// Variables of the scheduler.
	WorkerBeat map[string]string `yaml:"worker_beat" keys:"variable" accept:"numbers" change:"rolling"`
	// Variables of the web interface.
	Web map[string]string `yaml:"web" keys:"variable" accept:"numbers" change:"rolling"`
	// Variables of the plugin daemon, which all plugins see too.
	PluginDaemon map[string]string `yaml:"plugin_daemon" keys:"variable" accept:"numbers" change:"rolling"`
	// Variables of the sandbox.
	Sandbox map[string]string `yaml:"sandbox" keys:"variable" accept:"numbers" change:"rolling"`
	// Variables of the proxy through which workflows reach the outside.
	SSRFProxy map[string]string `yaml:"ssrf_proxy" keys:"variable" accept:"numbers" change:"rolling"`
}

// EnvironmentSecrets is the same for values in Secret Manager: `api: {NAME: SECRET@VERSION}`. Make the secrets yourself, in the
// stack's project, before you apply; the instances get the right to read each, and nothing else of them is known to difyup.
// Another value is another version, and instances are replaced to read it. `difyup destroy` leaves the secrets alone.
type EnvironmentSecrets struct {
	// Variables of the API.
	API map[string]string `yaml:"api" keys:"variable" shape:"secret_version" change:"rolling"`
	// Variables of the worker.
	Worker map[string]string `yaml:"worker" keys:"variable" shape:"secret_version" change:"rolling"`
	// Variables of the scheduler.
	WorkerBeat map[string]string `yaml:"worker_beat" keys:"variable" shape:"secret_version" change:"rolling"`
	// Variables of the web interface.
	Web map[string]string `yaml:"web" keys:"variable" shape:"secret_version" change:"rolling"`
	// Variables of the plugin daemon, which all plugins see too.
	PluginDaemon map[string]string `yaml:"plugin_daemon" keys:"variable" shape:"secret_version" change:"rolling"`
	// Variables of the sandbox.
	Sandbox map[string]string `yaml:"sandbox" keys:"variable" shape:"secret_version" change:"rolling"`
	// Variables of the proxy through which workflows reach the outside.
	SSRFProxy map[string]string `yaml:"ssrf_proxy" keys:"variable" shape:"secret_version" change:"rolling"`
}

// Network is the private network of the stack. Instances have no external address: they reach the internet through
// Cloud NAT, and databases and cache by private services access.
type Network struct {
	// The addresses of the instances. Private, with room for all instances at the time of an update.
	CIDR string `yaml:"cidr" default:"10.10.0.0/20" shape:"cidr" change:"fixed"`
	// The addresses that Google takes databases and cache from: /23 or larger, private, apart from `cidr`.
	ServicesCIDR string `yaml:"services_cidr" default:"10.64.0.0/16" shape:"cidr" change:"fixed"`
	// Ranges from which SSH is let through to the instances, for those who reach the network by VPN or interconnect.
	SSHRanges []string `yaml:"ssh_ranges" default:"[]" shape:"cidr" change:"in place"`
	// Whether administrators may use SSH through Identity-Aware Proxy, which asks for their Google account:
	// `gcloud compute ssh --tunnel-through-iap`.
	IAPSSH bool `yaml:"iap_ssh" default:"true" change:"in place"`
	// Whether the subnet records its connections in Cloud Logging. Useful for an audit; billed by volume.
	FlowLogs bool `yaml:"flow_logs" default:"false" change:"in place"`
}

// LoadBalancer is the global HTTPS load balancer, the only way in for users.
type LoadBalancer struct {
	// `managed`: Google issues and renews a certificate for `domain`, as soon as its A record points at the stack.
	// `self-signed`: difyup makes one, which browsers warn about. A certificate that is served already is served on until Google has issued
	// the new one; the next apply removes it.
	Certificate string `yaml:"certificate" enum:"managed self-signed" derived:"managed with a domain, else self-signed" change:"in place"`
	// Whether port 80 answers, with a permanent redirect to HTTPS.
	HTTPRedirect bool `yaml:"http_redirect" default:"true" change:"in place"`
	// Which ciphers are offered. `compatible` lets old clients in; `restricted` meets compliance demands.
	TLSProfile string `yaml:"tls_profile" default:"modern" enum:"compatible modern restricted" change:"in place"`
	// The oldest TLS version that is accepted. 1.3 needs the profile `restricted`.
	MinTLS string `yaml:"min_tls" default:"1.2" enum:"1.2 1.3" accept:"numbers" change:"in place"`
	// How long one request may take, in seconds. An answer that streams is one request, and so is a WebSocket.
	TimeoutSeconds int `yaml:"timeout_seconds" default:"3600" min:"30" max:"86400" change:"in place"`
	// How long an instance that leaves may finish its requests, in seconds, before Google tells it to end; it then has 55 s
	// more.
	DrainSeconds int `yaml:"drain_seconds" default:"60" min:"0" max:"3600" change:"in place"`
	// Whether requests are recorded in Cloud Logging.
	AccessLogs bool `yaml:"access_logs" default:"true" change:"in place"`
}

// Compute is the instances: a regional group that replaces what is broken and grows and shrinks with the load.
type Compute struct {
	// The machine type, of an x86 family, with 2 vCPUs and 4 GiB or more. It decides how much each of Dify's containers may
	// use. Each plugin is a process of its own, so that memory is what runs out first.
	MachineType string `yaml:"machine_type" default:"e2-standard-4" shape:"machine_type" change:"rolling"`
	// The size of the boot disk, in GB. Images and plugins live on it.
	DiskGB int `yaml:"disk_gb" default:"50" min:"30" max:"65536" change:"rolling"`
	// The type of the boot disk. Families c4 and n4 need hyperdisk-balanced, older ones cannot use it.
	DiskType string `yaml:"disk_type" default:"pd-balanced" enum:"pd-balanced pd-ssd pd-standard hyperdisk-balanced" change:"rolling"`
	// The zones that instances are spread over.
	Zones []string `yaml:"zones" derived:"three zones of the region" shape:"zone" change:"fixed"`
	// The fewest instances. With 2 or more, the loss of one, or of a zone, goes unnoticed.
	Min int `yaml:"min" default:"2" min:"1" max:"1000" change:"in place"`
	// The most instances. Databases must allow the connections of all of them, which difyup checks.
	Max int `yaml:"max" default:"4" min:"1" max:"1000" change:"in place"`
	// The share of CPU, above 0 and up to 1, at which the group keeps its instances by adding and removing some.
	CPUTarget float64 `yaml:"cpu_target" default:"0.6" min:"0" max:"1" change:"in place"`
	// What the group grows and shrinks by, besides CPU.
	Autoscale Autoscale `yaml:"autoscale"`
	// How long after its start an instance's load says nothing yet, in seconds.
	CooldownSeconds int `yaml:"cooldown_seconds" default:"300" min:"15" max:"3600" change:"in place"`
	// How many instances an update may add for its time: 0, or as many as there are zones, or more.
	MaxSurge int `yaml:"max_surge" derived:"the number of zones" min:"0" max:"1000" change:"in place"`
	// How many instances an update may take away for its time: 0, or as many as there are zones, or more. With 0, an
	// update never lowers the number that serve.
	MaxUnavailable int `yaml:"max_unavailable" default:"0" min:"0" max:"1000" change:"in place"`
	// How long a new instance may take until it serves, in seconds, before it is replaced. The first ones wait for Cloud SQL,
	// which takes up to 20 minutes to be created. With 1260 and more, one that still waits then is kept, whatever it waits for.
	HealingDelaySeconds int `yaml:"healing_delay_seconds" default:"1800" min:"0" max:"3600" change:"in place"`
}

// Autoscale is further signals by which the group grows and shrinks. The one that asks for most instances counts.
type Autoscale struct {
	// How many tasks may wait for workers for each instance: with 50, the group has as many instances as there are fifties of
	// waiting tasks, within `min` and `max`. 0: the queues' length does not count. It is the metric
	// `custom.googleapis.com/difyup/queue_length`, which the instance writes on which the scheduler runs.
	QueueLength int `yaml:"queue_length" default:"0" min:"0" max:"1000000" change:"in place"`
}

// SQL is what both databases have.
type SQL struct {
	// The PostgreSQL major version.
	Version int `yaml:"version" default:"16" enum:"14 15 16 17" change:"restart"`
	// The Cloud SQL edition. It decides which tiers there are.
	Edition string `yaml:"edition" default:"enterprise" enum:"enterprise enterprise-plus" change:"restart"`
	// The machine: `db-custom-CPUS-MEGABYTES` (or `db-f1-micro`, `db-g1-small` for trials) in the edition enterprise,
	// `db-perf-optimized-N-CPUS` in enterprise-plus.
	Tier string `yaml:"tier" default:"db-custom-2-8192" shape:"tier" change:"restart"`
	// The size of the SSD, in GB. It grows by itself when it fills up, and never shrinks.
	DiskGB int `yaml:"disk_gb" default:"20" min:"10" max:"65536" change:"in place"`
	// Whether a standby in another zone takes over when the first fails. Doubles the price.
	HighAvailability bool `yaml:"high_availability" default:"false" change:"restart"`
	// How many connections PostgreSQL allows. difyup refuses a number that the instances could exceed.
	MaxConnections int `yaml:"max_connections" default:"2000" min:"25" max:"10000" change:"restart"`
	// How connections to the instance are encrypted. `required`: it refuses those that are not. `verified`: besides, clients refuse
	// it unless its certificate was signed by an authority of the instance's own, which instances fetch when they start; with it
	// in one of `database` and `vector`, the clients of both do. `allowed`: it takes connections of other programs that are not
	// encrypted; Dify's are. Which client verifies what, and how to change an authority: docs/tls.md.
	TLS string `yaml:"tls" default:"required" enum:"allowed required verified" change:"rolling"`
	// Whether Google refuses to delete the instance. `difyup destroy` lifts it for what you name.
	DeletionProtection bool `yaml:"deletion_protection" default:"true" change:"in place"`
	// Further PostgreSQL flags, as Cloud SQL names them, for instance `log_min_duration_statement: 500`.
	Flags map[string]string `yaml:"flags" accept:"numbers" change:"restart"`

	Backups Backups `yaml:"backups"`
}

// Database is the main PostgreSQL instance, with Dify's own database and that of the plugins.
type Database struct {
	SQL `yaml:",inline"`
}

// Vector is the PostgreSQL instance with pgvector, which holds the embeddings and searches them. It takes the same
// options as `database`.
type Vector struct {
	SQL `yaml:",inline"`
}

// Backups is the daily backups of an instance. They live and die with it.
type Backups struct {
	// Whether there are daily backups.
	Enabled bool `yaml:"enabled" default:"true" change:"in place"`
	// When they start, in UTC.
	StartTime string `yaml:"start_time" default:"18:00" shape:"time" accept:"numbers" change:"in place"`
	// How many are kept: as many as `log_days`, or more.
	Retained int `yaml:"retained" default:"7" min:"1" max:"365" change:"in place"`
	// Whether the write-ahead log is kept too, so that the state of any second can be restored. Needs backups.
	PointInTimeRecovery bool `yaml:"point_in_time_recovery" default:"true" change:"restart"`
	// For how many days the log is kept: up to 7, or 35 in the edition enterprise-plus.
	LogDays int `yaml:"log_days" default:"7" min:"1" max:"35" change:"in place"`
}

// Redis is the cache and the queue: Memorystore for Redis.
type Redis struct {
	// The memory, in GB.
	MemoryGB int `yaml:"memory_gb" default:"1" min:"1" max:"300" change:"restart"`
	// Whether a replica in another zone takes over. Without it, queued tasks are lost with the instance.
	HighAvailability bool `yaml:"high_availability" default:"false" change:"fixed"`
	// The Redis version.
	Version string `yaml:"version" default:"7.2" enum:"7.0 7.2" accept:"numbers" change:"fixed"`
	// Whether Redis asks for a password, which Google makes and only the instances know. Without, whatever reaches the private
	// network can use it.
	Auth bool `yaml:"auth" default:"true" change:"fixed"`
	// Whether connections to Redis are encrypted, and others refused. Which client verifies what: docs/tls.md.
	TransitEncryption bool `yaml:"transit_encryption" default:"false" change:"fixed"`
	// How often a snapshot is written to disk.
	Persistence string `yaml:"persistence" default:"none" enum:"none 1h 6h 12h 24h" change:"in place"`
	// What happens when memory is full. Queued tasks have no expiry, so that only policies which spare such keys are
	// offered.
	MaxmemoryPolicy string `yaml:"maxmemory_policy" default:"noeviction" enum:"noeviction volatile-lru volatile-lfu volatile-random volatile-ttl" change:"in place"`
}

// Storage is the bucket for uploaded files, plugins and the keys with which Dify encrypts credentials. It is closed to the
// public. Besides the instances, those reach it to whom the project gives it: as Google makes every bucket, the project's
// owners, editors and viewers.
type Storage struct {
	// The name of the bucket, unique in the world.
	Bucket string `yaml:"bucket" derived:"PROJECT-STACK-files" shape:"bucket" change:"fixed"`
	// Where it is: a region, or `asia`, `eu`, `us` and other multi-regions.
	Location string `yaml:"location" derived:"the region" shape:"location" change:"fixed"`
	// Whether overwritten and deleted files are kept as older versions. Losing a file can mean losing the key that
	// credentials are encrypted with, so leave it on.
	Versioning bool `yaml:"versioning" default:"true" change:"in place"`
	// For how many days Google can bring back what was deleted for good: 0, or 7 to 90.
	SoftDeleteDays int `yaml:"soft_delete_days" default:"7" min:"0" max:"90" change:"in place"`
	// Which web pages may read the bucket from a browser.
	CORS []CORS `yaml:"cors" derived:"reading, for the domain" change:"in place"`
	// Rules that remove objects or move them to cheaper storage. Take care that none touches files in use.
	Lifecycle []LifecycleRule `yaml:"lifecycle" derived:"older versions go after 30 days, unfinished uploads after 7" change:"in place"`
}

// CORS lets pages of some origins use the bucket.
type CORS struct {
	// The origins, for instance https://app.example.com; `"*"` for all.
	Origins []string `yaml:"origins" required:"true" shape:"origin"`
	// The HTTP methods.
	Methods []string `yaml:"methods" default:"[GET, HEAD]" shape:"method"`
	// The response headers that pages may see.
	Headers []string `yaml:"headers" default:"[Content-Type]" shape:"header"`
	// For how long browsers may remember the answer, in seconds.
	MaxAgeSeconds int `yaml:"max_age_seconds" default:"3600" min:"0" max:"86400"`
}

// LifecycleRule does something to the objects that meet all its conditions. At least one of `age_days`,
// `noncurrent_days` and `newer_versions` is needed.
type LifecycleRule struct {
	// What happens: `delete`, a move to a cheaper class, or the end of unfinished uploads.
	Action string `yaml:"action" required:"true" enum:"delete nearline coldline archive abort-uploads"`
	// Days since the object was made.
	AgeDays int `yaml:"age_days" default:"0" min:"0" max:"36500"`
	// Days since the object was overwritten or deleted. Only older versions meet this.
	NoncurrentDays int `yaml:"noncurrent_days" default:"0" min:"0" max:"36500"`
	// How many newer versions there must be. Only older versions meet this.
	NewerVersions int `yaml:"newer_versions" default:"0" min:"0" max:"1000"`
	// The object's name begins with one of these. They narrow a rule, and are no condition alone.
	Prefixes []string `yaml:"prefixes" default:"[]"`
}
