package topology

import (
	"google.golang.org/api/iam/v1"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/kind"
)

// What instances may do: write logs and metrics, and connect to the stores.
var projectRoles = []string{"roles/cloudsql.client", "roles/logging.logWriter", "roles/monitoring.metricWriter", "roles/redis.dbConnectionUser"}

// What they may do with their own bucket: everything with its objects, and see the bucket, which clients ask for first.
var bucketRoles = []string{"roles/storage.legacyBucketReader", "roles/storage.objectAdmin"}

// secretLayer makes the service account of the instances and the secrets, and lets the one read the others.
func (b *builder) secretLayer() {
	b.account = b.add(kind.ServiceAccounts.New(b.name("vm"), b.params(), &iam.ServiceAccount{
		DisplayName: "Instances of the stack " + b.spec.Stack, Description: b.mark(),
	}))
	member := "serviceAccount:" + b.accountEmail()
	grant := func(roles ...string) *kind.Policy {
		p := &kind.Policy{}
		for _, role := range roles {
			p.Bindings = append(p.Bindings, kind.Binding{Role: role, Members: []string{member}})
		}
		return p
	}
	b.add(kind.ProjectIAM.New(b.name("vm"), b.params("member", member), grant(projectRoles...)).After(b.account))
	b.add(kind.BucketIAM.New(b.bucket.Name, b.params("member", member, "bucket", b.bucket.Name), grant(bucketRoles...)).After(b.account, b.bucket))
	for _, p := range dify.Purposes() {
		body := &kind.Secret{Labels: b.labels(), Generate: p.Length}
		secret := b.add(kind.Secrets.New(b.name(p.Name), b.params(), body))
		if p.Key == dify.RedisAuth {
			secret.Take("payload", b.redis.Output("authString")) // Memorystore makes it
		}
		b.passwords[p.Key] = secret
		b.add(kind.SecretIAM.New(secret.Name, b.params("member", member, "secret", secret.Name), grant("roles/secretmanager.secretAccessor")).After(b.account, secret))
	}
}
