package topology

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// Agent is the program that every instance runs.
type Agent struct {
	Path    string // of the file, or what stands for it where files are read
	SHA256  string // hex
	Runtime string // what it runs Dify with: a name that the agent knows, "compose"
}

// APIs are the Google services that a stack uses.
func APIs() []string {
	return []string{
		"cloudresourcemanager.googleapis.com", "compute.googleapis.com", "dns.googleapis.com", "iam.googleapis.com", "logging.googleapis.com",
		"monitoring.googleapis.com", "redis.googleapis.com", "secretmanager.googleapis.com", "servicenetworking.googleapis.com", "sqladmin.googleapis.com",
		"storage.googleapis.com", "sts.googleapis.com",
	}
}

// builder gathers the resources of one stack. Its layers are functions: what a layer stands on are its parameters, what
// others may refer to is its result.
type builder struct {
	spec     *config.Spec
	agent    Agent
	given    Given
	all      []*resource.Resource
	services *resource.Resource // all but itself wait for it
}

// Given is what a graph is built of besides the file and the agent: what was decided before, or read.
type Given struct {
	Pins     map[string]string // the digests of images, by their tags (Images); one without runs by its tag
	Versions Versions          // of the stack's secrets
	// Certificates are the URLs of those that the load balancer serves besides the wanted one, which Google has not issued yet.
	Certificates []string
}

// Build gives the graph of a stack whose instances run agent.
func Build(s *config.Spec, agent Agent, given Given) (*resource.Graph, error) {
	b := &builder{spec: s, agent: agent, given: given}
	b.services = b.add(kind.Services.New("enabled", b.params(), &kind.ServiceList{Services: APIs()}))
	network := b.networkLayer()
	files := b.storageLayer()
	program := b.programLayer()
	identity := b.identityLayer(files, program)
	redis := b.cacheLayer(network)
	secrets, rights := b.secretLayer(identity, redis)
	databases := b.databaseLayer(network, secrets)
	group := b.computeLayer(network, program, identity, rights)
	address := b.edgeLayer(group)
	b.namingLayer(network, databases, redis, address)
	return resource.NewGraph(b.all...)
}

// add puts a resource into the graph. All but the enabling of the APIs wait for it.
func (b *builder) add(r *resource.Resource) *resource.Resource {
	if b.services != nil {
		r.After(b.services)
	}
	b.all = append(b.all, r)
	return r
}

// params gives the parameters of collections, with further ones as pairs of name and value.
func (b *builder) params(pairs ...string) map[string]string {
	m := map[string]string{"project": b.spec.Project, "region": b.spec.Region}
	for p := range slices.Chunk(pairs, 2) {
		m[p[0]] = p[1]
	}
	return m
}

// name gives the name of the stack's only resource of a kind, or of the one with this purpose.
func (b *builder) name(purpose string) string { return b.spec.Stack + "-" + purpose }

// mark is the description that says to which stack a resource without labels belongs.
func (b *builder) mark() string { return resource.Description(b.spec.Stack) }

// labels gives the user's labels and those that say to which stack a resource belongs.
func (b *builder) labels() map[string]string {
	m := map[string]string{}
	maps.Copy(m, b.spec.Labels)
	maps.Copy(m, resource.Labels(b.spec.Stack))
	return m
}

// host gives a name in the stack's private zone: "db" gives "db.demo.internal".
func (b *builder) host(name string) string { return name + "." + b.spec.Stack + ".internal" }

// redisID is the ID of the Redis instance.
func (b *builder) redisID() resource.ID {
	return resource.ID(kind.RedisInstances.Name + "/" + b.name("redis"))
}

// accountEmail is the email of the service account that instances have; it is known before the account exists.
func (b *builder) accountEmail() string { return Account(b.spec.Stack, b.spec.Project) }

// Account is the email of the service account of a stack's instances.
func Account(stack, project string) string {
	return stack + "-vm@" + project + ".iam.gserviceaccount.com"
}

// hash gives eight characters that stand for a value.
func hash(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("topology: %v. This is a bug in difyup.", err))
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:4])
}

// purposes gives those of the secrets that a stack has.
func purposes(s *config.Spec) []dify.Purpose {
	return dify.Settings{Stores: dify.Stores{Redis: dify.Address{NoAuth: !s.Redis.Auth}}}.Purposes()
}

// verified says whether clients verify the certificates of the databases. Dify's have one setting for both.
func (b *builder) verified() bool {
	return b.spec.Database.TLS == "verified" || b.spec.Vector.TLS == "verified"
}

// settings is what instances are told.
func (b *builder) settings() dify.Settings {
	s := b.spec
	out := dify.Settings{
		Stack: s.Stack, Project: s.Project, Region: s.Region, Runtime: b.agent.Runtime, DifyVersion: s.Dify.Version, Domain: s.Domain,
		Stores: dify.Stores{
			Database: dify.Database{Host: b.host("db"), Port: 5432, User: sqlUser, Name: mainDatabase, PluginName: pluginDatabase, TLS: dify.Required},
			Vector:   dify.Database{Host: b.host("vector"), Port: 5432, User: sqlUser, Name: mainDatabase, TLS: dify.Required},
			Redis:    dify.Address{Host: b.host("redis"), Port: 6379, NoAuth: !s.Redis.Auth},
			Bucket:   s.Storage.Bucket,
		},
		Secrets:     map[string]dify.SecretVersion{},
		Environment: s.Variables(), SecretEnvironment: s.SecretVariables(),
		Machine: s.Machine(), Tuning: s.Tuning(), Images: s.Images(), Registry: s.Dify.Registry, RegistryCredentials: s.RegistryCredentials(), PipMirror: s.Dify.PipMirror, PrivateServices: s.Dify.PrivateServices, ProxiedServices: s.Dify.ProxiedServices, Pins: b.given.Pins,
	}
	if s.Domain == "" {
		out.Edge = b.host("edge")
	}
	if b.verified() {
		for d, instance := range map[*dify.Database]string{&out.Stores.Database: "main", &out.Stores.Vector: "vector"} {
			d.TLS, d.Instance = dify.Verified, b.name(instance)
		}
	}
	if r := &out.Stores.Redis; s.Redis.TransitEncryption {
		r.Port, r.TLS, r.Instance = 6378, dify.Verified, b.name("redis")
	}
	for _, p := range purposes(s) {
		out.Secrets[p.Key] = dify.SecretVersion{Name: b.name(p.Name), Version: b.given.Versions.of(p.Key).Used}
	}
	return out
}

// Output is something a user wants to know about a running stack.
type Output struct {
	Name string // "address"
	Doc  string // what it is, for people
	// Text is the value, or what stands before it: "https://".
	Text string
	From resource.Output // what Google decides; the zero value when Text is all
}

// Outputs gives the outputs of a stack, in the order in which they are shown.
func Outputs(s *config.Spec) []Output {
	b := &builder{spec: s}
	shown := func(k *resource.Kind, purpose string, p resource.Path) resource.Output {
		return resource.Output{Of: resource.ID(k.Name + "/" + b.name(purpose)), Path: p}
	}
	address := shown(kind.GlobalAddresses.Kind, "ip", "address")
	url := Output{Name: "url", Doc: "where users reach Dify", Text: "https://" + s.Domain}
	if s.Domain == "" {
		url.From = address
	}
	return []Output{
		url,
		{Name: "address", Doc: "the load balancer's address, for the domain's A record", From: address},
		{Name: "bucket", Doc: "the files", Text: s.Storage.Bucket},
		{Name: "database", Doc: "the main PostgreSQL instance", From: shown(kind.SQLInstances.Kind, "main", "connectionName")},
		{Name: "database_address", Doc: "its private address", From: shown(kind.SQLInstances.Kind, "main", privateAddress)},
		{Name: "vector_database", Doc: "the PostgreSQL instance with pgvector", From: shown(kind.SQLInstances.Kind, "vector", "connectionName")},
		{Name: "vector_database_address", Doc: "its private address", From: shown(kind.SQLInstances.Kind, "vector", privateAddress)},
		{Name: "redis_address", Doc: "the Redis instance's private address", From: shown(kind.RedisInstances.Kind, "redis", "host")},
		{Name: "service_account", Doc: "whom the instances are", Text: b.accountEmail()},
		{Name: "admin_password_secret", Doc: "the secret with the password that Dify's setup page asks for", Text: b.name("init-password")},
	}
}
