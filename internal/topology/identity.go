package topology

import (
	"maps"
	"slices"

	"google.golang.org/api/iam/v1"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/imagename"
	"github.com/difyup/difyup/internal/kind"
	"github.com/difyup/difyup/internal/resource"
)

// What instances may do: write logs and metrics, and connect to the stores. Where images are in the project, read these too.
var projectRoles = []string{"roles/cloudsql.client", "roles/logging.logWriter", "roles/monitoring.metricWriter", "roles/redis.dbConnectionUser"}

// What they may do besides to fetch the authorities of stores whose certificates are verified: see what Cloud SQL and Memorystore
// say of the project's instances. The narrower roles do not show the authorities that are going to sign.
const (
	sqlAuthorities   = "roles/cloudsql.viewer"
	redisAuthorities = "roles/redis.viewer"
)

// What they may do with the bucket of Dify's files: everything with its objects, and see the bucket, which clients ask for
// first. And with that of their own program: read it. Whoever could write it would be root on every instance to come.
var (
	filesRoles   = []string{"roles/storage.legacyBucketReader", "roles/storage.objectAdmin"}
	programRoles = []string{"roles/storage.objectViewer"}
)

// identity is whom the instances are, and how they are given roles.
type identity struct {
	account *resource.Resource
	member  string // in IAM's words
}

// grant is a policy that gives the member roles.
func (i identity) grant(roles ...string) *kind.Policy {
	p := &kind.Policy{}
	for _, role := range roles {
		p.Bindings = append(p.Bindings, kind.Binding{Role: role, Members: []string{i.member}})
	}
	return p
}

// identityLayer makes the service account of the instances, which may use the project's services and their buckets.
func (b *builder) identityLayer(files *resource.Resource, p program) identity {
	account := b.add(kind.ServiceAccounts.New(b.name("vm"), b.params(), &iam.ServiceAccount{
		DisplayName: "Instances of the stack " + b.spec.Stack, Description: b.mark(),
	}))
	i := identity{account: account, member: "serviceAccount:" + b.accountEmail()}
	roles := slices.Clone(projectRoles)
	if b.ownRegistry() {
		roles = append(roles, "roles/artifactregistry.reader")
	}
	if b.verified() {
		roles = append(roles, sqlAuthorities)
	}
	if b.spec.Redis.TransitEncryption {
		roles = append(roles, redisAuthorities)
	}
	slices.Sort(roles)
	b.add(kind.ProjectIAM.New(b.name("vm"), b.params("member", i.member), i.grant(roles...)).After(account))
	b.add(kind.BucketIAM.New(files.Name, b.params("member", i.member, "bucket", files.Name), i.grant(filesRoles...)).After(account, files))
	b.add(kind.BucketIAM.New(p.bucket.Name, b.params("member", i.member, "bucket", p.bucket.Name), i.grant(programRoles...)).After(account, p.bucket))
	return i
}

// ownRegistry says whether images are in a registry of the stack's project, where the instances log in as themselves.
func (b *builder) ownRegistry() bool {
	release, err := dify.Choose(b.spec.Dify.Version, b.spec.Images())
	if err != nil {
		return false // a description that was read has a release
	}
	for _, image := range dify.Images(release, b.settings()) {
		if imagename.InProject(image, b.spec.Project) {
			return true
		}
	}
	return false
}

// secrets are the stack's, by purpose.
type secrets map[string]*resource.Resource

// secretLayer makes the secrets and lets the instances read them, and those that the user made for Dify's containers and for registries.
// The second result is the rights to the latter, which instances have for as long as a template names the secrets.
func (b *builder) secretLayer(i identity, redis *resource.Resource) (all secrets, rights []*resource.Resource) {
	all = secrets{}
	for _, p := range purposes(b.spec) {
		body := &kind.Secret{Labels: b.labels(), Version: b.given.Versions.of(p.Key).Added, Generate: p.Length}
		secret := b.add(kind.Secrets.New(b.name(p.Name), b.params(), body))
		if p.Key == dify.RedisAuth {
			secret.Take("payload", redis.Output("authString")) // Memorystore makes it
		}
		all[p.Key] = secret
		b.add(kind.SecretIAM.New(secret.Name, b.params("member", i.member, "secret", secret.Name), i.grant("roles/secretmanager.secretAccessor")).After(i.account, secret))
	}
	for _, name := range userSecrets(b.spec) {
		rights = append(rights, b.add(kind.SecretIAM.New(name, b.params("member", i.member, "secret", name), i.grant("roles/secretmanager.secretAccessor")).After(i.account)))
	}
	return all, rights
}

// userSecrets gives the names of the secrets that the user made for Dify's containers and for registries, sorted.
func userSecrets(s *config.Spec) []string {
	names := map[string]bool{}
	for _, of := range s.SecretVariables() {
		for _, v := range of {
			names[v.Name] = true
		}
	}
	for _, v := range s.RegistryCredentials() {
		names[v.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// Secret is the stack's secret with one of the values that instances need, as dify.SecretKey.
func Secret(s *config.Spec, key string) resource.ID {
	b := &builder{spec: s}
	for _, p := range purposes(s) {
		if p.Key == key {
			return resource.ID(kind.Secrets.Name + "/" + b.name(p.Name))
		}
	}
	return ""
}
