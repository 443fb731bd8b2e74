package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/report"
)

// Containers whose lines are looked at, as Cloud Logging's entries name them.
var (
	python = []string{"api", "worker", "worker_beat"}
	daemon = []string{"plugin_daemon"}
	agent  = []string{report.AgentLog}
	coded  = append(slices.Clone(daemon), agent...) // those whose client of PostgreSQL adds the code to an error
)

// Illnesses gives all that is looked for, in the order in which it is told: what an illness of the cloud explains is below it.
//
// What difyup refuses to set up is not among them: releases whose daemon needs a key for Cloud Storage, a scheduler on every instance,
// remote installation of plugins, a public mirror of PyPI that the daemon chooses by itself.
func Illnesses() []Illness {
	return []Illness{
		{
			Code: "store-failed", Title: "A store does not run", Source: Cloud, Grave: true,
			Sign:   "Google calls a database or Redis FAILED or SUSPENDED",
			Cause:  "Billing was disabled, the disk is full and may not grow, or Google could not repair it.",
			Remedy: "See its page in Google's console; when it runs again, instances find it by themselves.",
			Local:  "The local cloud's log, cloud.log in its directory, says why. Delete the stack and create it again.",
			find:   func(c *Case) []sight { return seen(c.Status.Broken()...) },
		},
		{
			Code: "unfinished", Title: "A run did not come to its end", Source: Cloud,
			Sign:   "the state has a run that began and nobody is at work",
			Cause:  "difyup was interrupted, or its machine ended.",
			Remedy: "The next apply goes on where it was.", Command: "difyup apply",
			find: func(c *Case) []sight {
				i := c.Status.Intent
				if i == nil || c.Status.Lock != nil {
					return nil
				}
				return seen(fmt.Sprintf("`%s` by %s, begun %s ago", i.Command, i.By, ago(c.Now.Sub(i.At))))
			},
		},
		{
			Code: "lost", Title: "Data of the stack are gone", Source: Cloud, Grave: true,
			Sign:   "a database, the bucket of files or SECRET_KEY was made to its end, does not exist, and nobody is at work",
			Cause:  "Somebody deleted it.",
			Remedy: "See in Google's audit logs who did, and ask Google's support soon whether it can be brought back: a bucket can be, within the days of its soft delete. apply makes it again without what it held, and only if it is named with --recreate.",
			Local:  "apply makes it again without what it held, and only if it is named with --recreate.",
			find: func(c *Case) []sight {
				if c.Status.Lock != nil {
					return nil
				}
				return seen(c.Status.Lost...)
			},
		},
		{
			Code: "missing", Title: "Resources of the stack are not there", Source: Cloud, Grave: true,
			Sign:   "what the state names does not exist, and nobody is at work",
			Cause:  "Somebody deleted it, or a run that should have made it failed.",
			Remedy: "apply makes them again.", Command: "difyup apply",
			find: func(c *Case) []sight {
				if c.Status.Lock != nil {
					return nil
				}
				return seen(slices.DeleteFunc(slices.Clone(c.Status.Missing), func(id string) bool { return slices.Contains(c.Status.Lost, id) })...)
			},
		},
		{
			Code: "certificate", Title: "Google cannot issue the certificate", Source: Plan, Grave: true,
			Sign:   "a managed certificate, or one of its domains, is in a state that begins with FAILED, PROVISIONING_FAILED or RENEWAL_FAILED",
			Cause:  "The domain does not lead to the load balancer, a CAA record forbids Google's authorities, or too many were asked for.",
			Remedy: "Give the domain an A record with the address of `difyup outputs`, and no other; a CAA record must allow pki.goog. Unless the state says PERMANENTLY, Google tries again by itself.", Command: "difyup outputs",
			find: func(c *Case) []sight {
				var all []string
				failed := func(state string) bool { return strings.Contains(state, "FAILED") }
				for id, v := range c.live("compute.sslCertificates", "managed") {
					m, _ := v.(map[string]any)
					if state := fmt.Sprint(m["status"]); failed(state) {
						all = append(all, fmt.Sprintf("%s is %s", id, state))
					}
					domains, _ := m["domainStatus"].(map[string]any)
					for name, state := range domains {
						if failed(fmt.Sprint(state)) {
							all = append(all, fmt.Sprintf("%s: %s is %v", id, name, state))
						}
					}
				}
				slices.Sort(all)
				return seen(all...)
			},
		},
		{
			Code: "certificate-ends", Title: "The certificate ends soon", Source: Plan, Grave: true,
			Sign:   "a certificate of the stack's own ends within 30 days",
			Cause:  "Nobody renews a certificate that Google does not manage.",
			Remedy: "Use `load_balancer.certificate: managed`, which Google renews.",
			find: func(c *Case) []sight {
				var all []string
				for id, v := range c.live("compute.sslCertificates", "expireTime") {
					end, err := time.Parse(time.RFC3339, fmt.Sprint(v))
					if kind, _ := c.Plan.Live[id]["type"].(string); err == nil && kind == "SELF_MANAGED" && end.Sub(c.Now) < 30*24*time.Hour {
						all = append(all, fmt.Sprintf("%s ends at %s", id, end.UTC().Format(time.DateOnly)))
					}
				}
				return seen(all...)
			},
		},
		{
			Code: "domain", Title: "The domain leads elsewhere", Source: Names, needs: []Source{Cloud}, Grave: true,
			Sign:   "the domain's addresses are others than the load balancer's, or it has none",
			Cause:  "The A record is missing or of an earlier load balancer, or a proxy stands in front.",
			Remedy: "Give the domain an A record with the address of `difyup outputs`. With a proxy of yours in front this is as it should be.", Command: "difyup outputs",
			find: func(c *Case) []sight {
				if c.Domain == "" || c.Status.Address == "" || slices.ContainsFunc(c.Addresses, func(a netip.Addr) bool { return a.Unmap().String() == c.Status.Address }) {
					return nil
				}
				if len(c.Addresses) == 0 {
					return seen(c.Domain + " has no address; the load balancer's is " + c.Status.Address)
				}
				return seen(fmt.Sprintf("%s leads to %v, not to %s", c.Domain, c.Addresses, c.Status.Address))
			},
		},
		{
			Code: "stream-cut", Title: "Answers that take long are cut off", Source: Plan, Known: "gcpdiag lb/BP/2025_002",
			Sign:   "the load balancer's backend ends a request after less than 20 minutes",
			Cause:  "The backend's timeout counts for a whole answer, also while it streams; a workflow may take 20 minutes.",
			Remedy: "Set `load_balancer.timeout_seconds` to 1200 or more, or have apply undo what somebody changed.", Command: "difyup apply",
			find: below("compute.backendServices", "timeoutSec", 1200),
		},
		{
			Code: "health-path", Title: "Instances are judged by another page than Dify's health", Source: Plan, Grave: true,
			Sign:   "a health check asks for another path than difyup's",
			Cause:  "Somebody changed it. `/` is answered by the web container, which says nothing of the API behind it.",
			Remedy: "apply sets it right.", Command: "difyup apply",
			find: changed("compute.healthChecks", "httpHealthCheck.requestPath"),
		},
		{
			Code: "healing-early", Title: "Instances that still start may be replaced", Source: Plan,
			Sign:   "autohealing waits less than 21 minutes for a new instance",
			Cause:  "A first boot installs Docker, fetches images and may migrate the databases. Who is replaced meanwhile begins anew. From 1260 seconds on, one that still waits is kept.",
			Remedy: "Set `compute.healing_delay_seconds` to 1260 or more, or have apply undo what somebody changed.", Command: "difyup apply",
			find: below("compute.regionInstanceGroupManagers", "autoHealingPolicies[0].initialDelaySec", 1260),
		},
		{
			Code: "not-as-described", Title: "The cloud is not as the description says", Source: Plan,
			Sign:   "plan is not empty, and nobody is at work",
			Cause:  "The description was changed and not applied, or somebody changed resources by other means.",
			Remedy: "See what is different; apply makes it as described.", Command: "difyup plan",
			find: func(c *Case) []sight {
				var all []string
				for _, s := range c.Plan.Steps {
					if s.Action != plan.Await && c.Status.Lock == nil {
						all = append(all, fmt.Sprintf("%s (%s)", s.ID, s.Action))
					}
				}
				return seen(all...)
			},
		},
		{
			Code: "no-capacity", Title: "An instance cannot be made", Source: Cloud, Grave: true,
			Sign:   "the group says of an instance that a quota is used up, or that a zone has no machine left",
			Cause:  "The project's quota for the machine type or for addresses is used up, or Google has none left in the zone.",
			Remedy: "Ask for more quota, or choose another `compute.machine_type`; the group tries again by itself.", Command: "difyup status",
			find: each(func(_ *Case, i *ops.Instance) (string, bool) {
				for _, word := range []string{"quota", "does not have enough resources", "ZONE_RESOURCE_POOL_EXHAUSTED", "stockout"} {
					if containsFold(i.Error, word) {
						return i.Error, false
					}
				}
				return "", false
			}),
		},
		{
			Code: "too-few", Title: "Fewer instances are healthy than there should be", Source: Cloud, Grave: true,
			Sign:   "the load balancer finds fewer healthy than the group wants, and nobody is at work; grave if it finds none",
			Cause:  "Instances start, end, or wait for something: a first start takes up to 25 minutes.",
			Remedy: "What else is found says why. If nothing is, see what each instance waits for.", Command: "difyup status --deep",
			find: func(c *Case) []sight {
				s := c.Status
				if s.Lock != nil || s.Healthy >= s.Target {
					return nil
				}
				return []sight{{fmt.Sprintf("%d of %d are healthy", s.Healthy, s.Target), s.Healthy > 0}}
			},
		},
		{
			Code: "late", Title: "An instance does not come to serve", Source: Report, Grave: true,
			Sign:   "it has been in a phase before serving for 25 minutes, whatever it waits for, and nobody is at work",
			Cause:  "What it waits for does not come: Docker or nft does not work, a service ends or does not answer, a store refuses it.",
			Remedy: "Read what its agent wrote: it has the error's own text.", Command: "difyup logs -c agent --since 24h",
			find: each(func(c *Case, i *ops.Instance) (string, bool) {
				d := c.fresh(i)
				if d == nil || c.early(d) || i.Health == "HEALTHY" || d.Phase == report.Serves || d.Phase == report.Drains || d.Phase == report.Migrates && d.Waiting == "" {
					return "", false
				}
				return i.Says(c.Now) + ", for " + ago(c.Now.Sub(d.Since)), false
			}),
		},
		{
			Code: "silent", Title: "An instance says nothing", Source: Report, Grave: true,
			Sign:   "it runs, the group does nothing with it, and its agent has not reported for ten minutes, or its report cannot be read",
			Cause:  "The agent does not run, the machine hangs, it cannot reach Google, or guest attributes are forbidden.",
			Remedy: "Read what the agent wrote last, and the boot log: `gcloud compute instances get-serial-port-output INSTANCE`.", Command: "difyup logs -c agent --since 24h",
			Local: "Read what the agent wrote last.",
			find: each(func(c *Case, i *ops.Instance) (string, bool) {
				switch {
				case i.Status != "RUNNING" || i.Action != "NONE":
				case i.Report != nil && c.Now.Sub(i.Report.At) > 10*time.Minute:
					return i.Says(c.Now), c.Status.Lock != nil
				case i.Unread():
					return i.Silent, i.Health == "HEALTHY"
				}
				return "", false // one that has just begun has said nothing yet
			}),
		},
		{
			Code: "secrets", Title: "Secrets cannot be read", Source: Report, Grave: true,
			Sign:   "an instance waits for a secret that may not be read, is not there, disabled or destroyed",
			Cause:  "A version was disabled or destroyed, or the service account lost the right to read it.",
			Remedy: "Enable the version again; apply gives back the right, and makes what is gone and can be made anew.", Command: "difyup plan",
			find: saying([]string{"the secret "}, "may not be read", "is not there", "is disabled", "is destroyed"),
		},
		{
			Code: "login", Title: "A store refuses the login", Source: Report, Grave: true,
			Sign:   "an instance finds that a database or Redis refuses its password",
			Cause:  "The user's password was changed in the database, or Redis's AUTH was switched: the secret has another.",
			Remedy: "Set the user's password to the secret's; see who changed it in the audit log.", Command: "difyup plan",
			find: saying(storeNames, "refuses the login"),
		},
		{
			Code: "unreachable", Title: "A store or a service of Google's does not answer", Source: Report, Grave: true,
			Sign:   "an instance finds that a store, the bucket or the Security Token Service refuses connections, does not answer in time, is not reached, or has a name that is not known",
			Cause:  "The store is restarting or in maintenance, or the peering, the NAT, private access to Google, a firewall rule or the private zone was changed.",
			Remedy: "See whether it runs. If it does, plan shows what was changed of the network.", Command: "difyup plan",
			find: saying(checked, "refuses connections", "does not answer in time", "name that is not known", "is starting or stopping", "is not reached"),
		},
		{
			Code: "fails", Title: "A store fails in a way that is not known", Source: Report, Grave: true,
			Sign:   "an instance finds that a store answers with another error, or has no connection left, or that something it depends on cannot be used",
			Cause:  "What the instance's log says of it.",
			Remedy: "Read the agent's log.", Command: "difyup logs -c agent --since 24h",
			find: func(c *Case) []sight {
				return append(saying(storeNames, "answers with an error", "has no connection left", "is not enabled", "may not be read", "is not there")(c), saying(checked, "cannot be used")(c)...)
			},
		},
		{
			Code: "rights", Title: "A store lacks what Dify needs in it", Source: Report, Grave: true,
			Sign:   "an instance finds that a database is not there, or that a right in it is missing",
			Cause:  "A database, an extension or a grant was removed, or the database was restored without them.",
			Remedy: "apply makes databases and users again. Extensions are made by the agent as soon as it may.", Command: "difyup plan",
			find: saying(storeNames, "has no such database", "does not give the rights", "lacks the", "does not let", "has no schema", "is read-only"),
		},
		{
			Code: "bucket", Title: "The bucket cannot be used", Source: Report, Grave: true,
			Sign:   "an instance finds that it may not read or write the bucket of files",
			Cause:  "The service account lost its role on the bucket, a retention policy was put on it, or the bucket is gone.",
			Remedy: "apply gives back the role.", Command: "difyup plan",
			find: saying([]string{"the bucket"}, "does not let", "may not be read", "is not enabled", "is not there", "answers with an error", "does not give back"),
		},
		{
			Code: "store-certificate", Title: "A store's certificate is not trusted", Source: Report, Grave: true, Known: "#29605",
			Sign:   "an instance finds a certificate that none of the store's own authorities signed",
			Cause:  "The store's authority was rotated and the old one removed before instances had the new one, or somebody stands in between.",
			Remedy: "Instances fetch authorities every few minutes. If it stays, compare the certificate with Google's console.", Command: "difyup logs -c agent --since 24h",
			Local: "Instances fetch authorities every few minutes. If it stays, somebody stands in between.",
			find:  saying(storeNames, "a certificate that none of"),
		},
		{
			Code: "tokens", Title: "Containers get no identity", Source: Report, Grave: true,
			Sign:   "an instance finds that the Security Token Service does not work",
			Cause:  "The API is not enabled in the project, or an organization's policy forbids it.",
			Remedy: "apply enables it. Without it neither API nor plugins reach the bucket.", Command: "difyup apply",
			find: saying([]string{"the Security Token Service"}, "is not enabled", "may not be read", "is not there", "answers with an error"),
		},
		{
			Code: "newer-schema", Title: "The databases are of a newer release", Source: Report, Grave: true,
			Sign:   "an instance refuses to run on databases that a newer release of Dify has migrated",
			Cause:  "`dify.version` was set back. Dify has no way back from a migration.",
			Remedy: "Set `dify.version` to the release of the databases, or restore them from a backup that is older than the migration.",
			find:   saying(nil, "the database was migrated to"),
		},
		{
			Code: "migration", Title: "A migration fails", Source: Report, Grave: true, Known: "#32297, #19910",
			Sign:   "an instance that migrates says that the migration failed",
			Cause:  "The database is not as the release expects it, ran out of space, or ended the connection.",
			Remedy: "Read what the migration wrote; it is tried again by itself, once at a time. Restore a backup before anything is repaired by hand.", Command: "difyup logs -c agent --since 24h",
			find: saying([]string{"the migration of "}, ""),
		},
		{
			Code: "migration-long", Title: "A migration takes long", Source: Report, Known: "#37706",
			Sign:   "an instance has been migrating for more than 30 minutes",
			Cause:  "Some migrations rewrite large tables, and lock them meanwhile.",
			Remedy: "Let it work: what is interrupted begins anew. See in Cloud SQL's insights whether it waits for a lock that somebody else holds.", Command: "difyup logs -c agent --since 24h",
			find: each(func(c *Case, i *ops.Instance) (string, bool) {
				if d := c.fresh(i); d != nil && d.Phase == report.Migrates && d.Waiting == "" && c.Now.Sub(d.Since) > 30*time.Minute {
					return "has been migrating for " + ago(c.Now.Sub(d.Since)), false
				}
				return "", false
			}),
		},
		{
			Code: "containers", Title: "A container ends again and again", Source: Report, Grave: true,
			Sign:   "a container of an instance that serves does not run or answer; or, to be known, one was started again five times since it was made",
			Cause:  "Its program ends with an error, or it was killed for its memory.",
			Remedy: "Read what it wrote before it ended; give the machine more memory if it was killed.", Command: "difyup logs --since 24h",
			find: each(func(c *Case, i *ops.Instance) (text string, mild bool) {
				d := c.fresh(i)
				if d == nil || d.Containers == nil || d.Phase == report.Drains {
					return "", false
				}
				var all []string
				mild = true
				for _, one := range d.Containers.All {
					down := !one.Well && d.Phase == report.Serves && d.Containers.At.After(d.Since)
					if mild = mild && !down; down || one.Restarts >= 5 {
						all = append(all, fmt.Sprintf("%s (restarts: %d)", one.Name, one.Restarts))
					}
				}
				return strings.Join(all, ", "), mild
			}),
		},
		{
			Code: "plugins", Title: "Plugins do not run everywhere", Source: Report, Known: "dify-plugin-daemon#390, #184; #22741",
			Sign:   "a plugin is installed, and does not run on an instance",
			Cause:  "It is being installed, which may take ten minutes; or what it needs could not be installed, it ends at once, or its package is missing in the bucket.",
			Remedy: "Read what the plugin daemon wrote of it; install it again if its package is gone.", Command: "difyup logs -c plugin_daemon --since 24h",
			find: each(func(c *Case, i *ops.Instance) (string, bool) {
				if d := c.fresh(i); d != nil {
					for _, w := range d.Warnings {
						if strings.HasPrefix(w, "the plugin") {
							return w, false
						}
					}
				}
				return "", false
			}),
		},
		{
			Code: "no-scheduler", Title: "Nobody schedules", Source: Report, Grave: true,
			Sign:   "instances have served for five minutes, and none says that the scheduler runs on it",
			Cause:  "The instance that had it has just ended, or Redis refuses the lease.",
			Remedy: "Another instance takes over within half a minute. If it stays, agents say why.", Command: "difyup logs -c agent --since 24h",
			find: func(c *Case) []sight {
				if on, asked := c.Status.Scheduler(c.Now); !asked || len(on) > 0 {
					return nil
				}
				long := false // enough for it to go from one to another
				for n := range c.Status.Instances {
					i := &c.Status.Instances[n]
					d := c.fresh(i)
					if d == nil {
						continue
					}
					if slices.ContainsFunc(c.Status.Instances, func(other ops.Instance) bool { return other.Name == d.Scheduler }) {
						return nil // that one does not report
					}
					long = long || d.Phase == report.Serves && c.Now.Sub(d.Since) > 5*time.Minute
				}
				if !long {
					return nil
				}
				return seen("no instance says that it has the scheduler, or who has")
			},
		},
		{
			Code: "two-schedulers", Title: "Scheduled tasks may run twice", Source: Report, Known: "celery#4808",
			Sign:   "two instances say that the scheduler runs on them",
			Cause:  "Reports are up to a minute older than what they tell. If it stays, a clock of an instance is wrong.",
			Remedy: "Ask again in a minute.", Command: "difyup status --deep",
			find: func(c *Case) []sight {
				if on, _ := c.Status.Scheduler(c.Now); len(on) > 1 {
					return seen(strings.Join(on, " and "))
				}
				return nil
			},
		},
		{
			Code: "not-reached", Title: "The load balancer does not reach an instance that serves", Source: Report, Grave: true,
			Sign:   "an instance has served for two minutes, and the load balancer calls it unhealthy",
			Cause:  "The firewall rule for Google's health checks, the named port or the health check was changed.",
			Remedy: "apply sets them right.", Command: "difyup plan",
			find: each(func(c *Case, i *ops.Instance) (string, bool) {
				if d := c.fresh(i); d != nil && d.Phase == report.Serves && c.Now.Sub(d.Since) > 2*time.Minute && i.Health == "UNHEALTHY" {
					return "has served for " + ago(c.Now.Sub(d.Since)) + ", and is unhealthy", false
				}
				return "", false
			}),
		},
		{
			Code: "image", Title: "An image cannot be fetched", Source: Logs, Grave: true,
			Sign:   "an agent waits, as the runtime cannot pull an image",
			Cause:  "The tag is wrong, the registry wants credentials, Docker Hub's limit is reached, or there is no way to the registry.",
			Remedy: "Check `dify.images` and `dify.registry`; credentials go into `dify.registry_credentials`.", Command: "difyup logs -c agent --since 24h",
			marks: []mark{{agent, []string{"the runtime: pull "}}},
		},
		{
			Code: "connections", Title: "Connections to a database are used up", Source: Logs, Grave: true, Known: "#35438, #26537, #5689, #21437, #22695",
			Sign:   "a container says that its pool's limit is reached, or a database of the stack that it has no connection left",
			Cause:  "More instances, or larger pools, than `database.max_connections` allows for; or requests that hold connections for long.",
			Remedy: "Raise `database.max_connections` (it restarts the database), or lower `compute.max`.", Command: "difyup plan",
			marks: []mark{
				{python, []string{"QueuePool limit of size"}}, {python, []string{"remaining connection slots are reserved", ofStore}},
				{python, []string{"sorry, too many clients already", ofStore}},
				// What plugins, in Python, say of databases of their own is among the daemon's lines.
				{coded, []string{"remaining connection slots are reserved", "SQLSTATE 53300"}}, {coded, []string{"sorry, too many clients already", "SQLSTATE 53300"}},
			},
		},
		{
			Code: "untrusted", Title: "A container does not trust a store's certificate", Source: Logs, Grave: true, Known: "#29605",
			Sign:   "a container cannot verify the certificate of one of the stack's stores",
			Cause:  "It was started before the store's authority was rotated: some read authorities once, when they start.",
			Remedy: "A new apply with another label, or a rolling restart in Google's console, replaces the instances.", Command: "difyup logs --since 24h",
			Local: "A new apply with another label replaces the instances.",
			marks: []mark{{python, []string{"certificate verify failed", ofStore}}, {daemon, []string{"x509: certificate signed by unknown authority"}}},
		},
		{
			Code: "private-key", Title: "A workspace's private key is gone", Source: Logs, Grave: true, Known: "#22362, #18225, #36099",
			Sign:  "the API or a worker says: Private key not found, tenant_id: …",
			Cause: "`privkeys/TENANT/private.pem` is not in the bucket: somebody deleted it, the database is of another bucket, or was moved without it.",
			Remedy: "Restore that object's older version, which the bucket keeps for 30 days unless the description says otherwise, or copy `privkeys/` from the old storage or a backup. " +
				"Nothing else brings back what was encrypted with it. `flask reset-encrypt-key-pair` is no remedy for one workspace: it gives every workspace a new key, and deletes the model credentials, tools and MCP servers of all; the last resort, after a backup of the database.",
			Command: "difyup logs -c api --since 24h",
			marks:   []mark{{python, []string{"Private key not found, tenant_id"}}},
		},
		{
			Code: "key-changed", Title: "Stored credentials cannot be decrypted", Source: Logs, Grave: true, Known: "#7307, #2548, #2567, #10210",
			Sign:   "the API or a worker says: Incorrect decryption",
			Cause:  "The workspace's private key is another one than that with which they were encrypted.",
			Remedy: "Bring back the key of the time (the bucket keeps old versions), or enter the credentials again.", Command: "difyup logs -c api --since 24h",
			marks: []mark{{python, []string{"Incorrect decryption."}}},
		},
		{
			Code: "lock-lost", Title: "A lock ended before its work", Source: Logs, Known: "#32297",
			Sign:   "a container says that a lock is no longer owned",
			Cause:  "What was done under a lock in Redis took longer than the lock lasts, or Redis failed over meanwhile.",
			Remedy: "Try again what failed. If it is often so, Redis or the database is too slow: see their load in Google's console.", Command: "difyup logs --since 24h",
			Local: "Try again what failed. If it is often so, this machine has too much to do.",
			marks: []mark{{python, []string{"lock that's no longer owned"}}, {python, []string{"LockNotOwnedError"}}},
		},
		{
			Code: "redis-full", Title: "Redis has no memory left", Source: Logs, Grave: true,
			Sign:   "a container says: OOM command not allowed",
			Cause:  "The queue grows faster than workers work, or caches fill it; nothing is thrown away, since that would be tasks.",
			Remedy: "Raise `redis.memory_gb`; see in the queue's metric whether workers keep up.", Command: "difyup plan",
			marks: []mark{{nil, []string{"OOM command not allowed"}}},
		},
		{
			Code: "redis-cluster", Title: "Redis is a cluster", Source: Logs, Grave: true, Known: "dify-plugin-daemon#269; #4472, #9154, #13525",
			Sign:   "a container says: CROSSSLOT Keys in request",
			Cause:  "Somebody had the stack's name for Redis lead to Memorystore for Redis Cluster, with which neither Celery nor the daemon works.",
			Remedy: "apply has the name lead to the stack's Redis.", Command: "difyup plan",
			marks: []mark{{nil, []string{"CROSSSLOT Keys in request"}}},
		},
		{
			Code: "broker", Title: "Workers have no broker", Source: Logs, Grave: true,
			Sign:   "a worker says: consumer: Cannot connect to redis",
			Cause:  "Redis restarts or fails over, or the way to it was closed.",
			Remedy: "Workers try again by themselves. If it stays, see whether Redis runs.", Command: "difyup status",
			marks: []mark{{[]string{"worker"}, []string{"consumer: Cannot connect to redis"}}},
		},
		{
			Code: "extension", Title: "pgvector is missing", Source: Logs, Grave: true,
			Sign:   "a container says that the type vector does not exist",
			Cause:  "The vector database was restored or made anew without the extension, and containers ran meanwhile.",
			Remedy: "The agent makes the extension when an instance starts: have the instances replaced.", Command: "difyup logs -c agent --since 24h",
			marks: []mark{{nil, []string{`type "vector" does not exist`}}},
		},
		{
			Code: "daemon-storage", Title: "The plugin daemon cannot use the bucket", Source: Logs, Grave: true, Known: "dify-cloud-kit#19",
			Sign:   "the plugin daemon says: failed to create storage",
			Cause:  "It gets no token for the bucket, or the bucket is not there.",
			Remedy: "apply gives back role and bucket; the agent says whether tokens can be had.", Command: "difyup logs -c agent --since 24h",
			marks: []mark{{daemon, []string{"failed to create storage"}}},
		},
		{
			Code: "daemon-database", Title: "The plugin daemon cannot use its database", Source: Logs, Grave: true,
			Sign:   "the plugin daemon says: failed to init dify plugin db",
			Cause:  "The plugins' database is gone, or refuses the login or the connection.",
			Remedy: "apply makes database and user again.", Command: "difyup plan",
			marks: []mark{{daemon, []string{"failed to init dify plugin db"}}},
		},
		{
			Code: "plugin-packages", Title: "What a plugin needs cannot be installed", Source: Logs, Grave: true, Known: "Dify on AWS #69; dify-plugin-daemon#527, #541",
			Sign:   "the plugin daemon says: failed to install dependencies",
			Cause:  "PyPI cannot be reached (Cloud NAT is missing, or the network is closed), a package is withdrawn, or installing takes longer than ten minutes.",
			Remedy: "See the output behind it. In a closed network name a mirror in `dify.pip_mirror`.", Command: "difyup logs -c plugin_daemon --since 24h",
			marks: []mark{{daemon, []string{"failed to install dependencies"}}},
		},
		{
			Code: "daemon", Title: "The API does not reach the plugin daemon", Source: Logs,
			Sign:   "the API or a worker says: Request to Plugin Daemon Service failed",
			Cause:  "The daemon was starting, had ended, or was too busy to answer.",
			Remedy: "See how often it was started again, and what it wrote.", Command: "difyup logs -c plugin_daemon --since 24h",
			marks: []mark{{python, []string{"Request to Plugin Daemon Service failed"}}, {python, []string{"Failed to request plugin daemon"}}},
		},
		{
			Code: "marketplace", Title: "Dify's marketplace cannot be reached", Source: Logs, Known: "Dify on AWS #69",
			Sign:   "a container cannot connect to marketplace.dify.ai",
			Cause:  "There is no way to the internet: Cloud NAT is missing, or a firewall rule denies it.",
			Remedy: "plan shows whether Cloud NAT is there. Plugins can be installed from files as well.", Command: "difyup plan",
			marks: []mark{
				{python, []string{"Request to URL https://marketplace.dify.ai"}}, {python, []string{"host='marketplace.dify.ai'"}}, {daemon, []string{`Get "https://marketplace.dify.ai`}},
			},
		},
		{
			Code: "private-address", Title: "A private address was asked for, and refused", Source: Logs, Known: "#38443, #25801, #39867",
			Sign:   "the API or a worker says that access was blocked by SSRF protection",
			Cause:  "An HTTP node, a tool or a URL of a document leads into a private network. The proxy, through which they go, leads to what the description names there, and to nothing else.",
			Remedy: "Name what is to be reached so in `dify.proxied_services`; any user can then. `dify.private_services` is for what the API, workers and plugins ask by themselves, such as a model server.", Command: "difyup logs -c api --since 24h",
			marks: []mark{{python, []string{"was blocked by SSRF protection"}}},
		},
		{
			Code: "sandbox", Title: "Code cannot be run", Source: Logs, Grave: true,
			Sign:   "the API or a worker says: Code execution service is unavailable, or: Failed to execute code, which is likely a network issue",
			Cause:  "The sandbox is too busy, does not run, does not answer in time, or has another key than the API and the worker: that is status code 401.",
			Remedy: "Read what it wrote. If it is the key, which is read when an instance starts, have the instance replaced.", Command: "difyup logs -c sandbox --since 24h",
			marks: []mark{{python, []string{"Code execution service is unavailable"}}, {python, []string{"Failed to execute code, which is likely a network issue"}}},
		},
		{
			Code: "killed", Title: "A worker process was killed", Source: Logs,
			Sign:   "a container says that a worker of its was sent SIGKILL, or exited prematurely by it",
			Cause:  "The machine's memory was used up, most often by large documents; or Gunicorn ended a worker that did not answer or end in time.",
			Remedy: "If it is often so, choose a `compute.machine_type` with more memory.", Command: "difyup status --deep",
			marks: []mark{{python, []string{"was sent SIGKILL"}}, {python, []string{"Worker exited prematurely: signal 9"}}},
		},
		{
			Code: "disk-full", Title: "A disk is full", Source: Logs, Grave: true,
			Sign:   "a container or an agent says: no space left on device",
			Cause:  "Images of several releases, plugins' environments or a database have filled it.",
			Remedy: "Raise `compute.disk_gb`, which replaces the instances; for a database `database.disk_gb`.", Command: "difyup plan",
			marks: []mark{{nil, []string{"no space left on device"}}},
		},
		{
			Code: "dies-young", Title: "Instances end before they are ready", Source: Logs, needs: []Source{Cloud, Report}, Grave: true, Known: "IMOKURI's stack, a48f44d and d265e52",
			Sign:   "three times or more an instance began, and ended without having been ready for traffic; those that a smaller group gave up do not count",
			Cause:  "Autohealing replaces them before they are ready, or their machines end.",
			Remedy: "See what the last of them waited for.", Command: "difyup logs -c agent --since 24h",
			find: diedYoung,
			// All are to be asked for.
			marks: []mark{{[]string{}, []string{began}}, {[]string{}, []string{ready}}, {[]string{}, []string{told}}},
		},
		{
			Code: "lines-lost", Title: "Lines of logs were left out", Source: Logs,
			Sign:   "an agent says that lines were left out, lost or refused",
			Cause:  "A container writes more than Cloud Logging is sent, or Cloud Logging refused them for long.",
			Remedy: "See which container writes so much, and what.", Command: "difyup logs -c agent --since 24h",
			marks: []mark{{agent, []string{" were left out: it writes more than"}}, {agent, []string{" were lost before they were sent"}}, {agent, []string{" were refused by Cloud Logging"}}},
		},
		{
			Code: "rules-changed", Title: "Somebody changed the rules for what containers may reach", Source: Logs, Grave: true,
			Sign:   "an agent put its nftables rules back, or says that what containers may reach is not guarded",
			Cause:  "Another program on the instance manages nftables, or somebody has taken it over.",
			Remedy: "Find out who: nothing but the agent may change the table `inet difyup`. If in doubt, have the instance replaced.", Command: "difyup logs -c agent --since 24h",
			marks: []mark{{agent, []string{"what containers may reach is not guarded"}}, {agent, []string{"somebody keeps changing them"}}, {agent, []string{"the rules for what containers may reach; they are put back"}}},
		},
		{
			Code: "stranger", Title: "A container asked for another's identity", Source: Logs, Grave: true,
			Sign:   "an agent refused a container that asked for the token of another one",
			Cause:  "No part of Dify does that: what runs there, a plugin most likely, tries to get at more than it may.",
			Remedy: "See which plugins were installed lately, and remove what nobody knows. Nothing was given.", Command: "difyup logs -c agent --since 24h",
			marks: []mark{{agent, []string{"somebody asked for the identity of another container", "it comes by"}}, {agent, []string{"somebody asked for the identity of another container", "it is of user"}}, {agent, []string{"somebody who is not beat asked"}}},
		},
	}
}

// What instances check, as agents call it: the stores, and all.
var (
	storeNames = []string{"the database", "the plugins' database", "the vector database", "Redis"}
	checked    = append(slices.Clone(storeNames), "the bucket", "the Security Token Service")
)

// What an agent writes when it has found out who it is, when it may get traffic, and when it is told to end.
const (
	began = "the metadata are read"
	ready = "ready for traffic"
	told  = "ending: no new requests are wanted"
)

// diedYoung gives the lives of instances that began and ended without having been ready. One that is healed has its name again, and was told
// to end as its machine was stopped; one that is gone may have been told to by a group that shrank.
func diedYoung(c *Case) (all []sight) {
	type life struct {
		name        string
		at          time.Time
		ready, told bool
	}
	there := map[string]bool{}
	for _, i := range c.Status.Instances {
		there[i.Name] = true
	}
	var lives []*life
	last := map[string]*life{}
	for _, l := range c.Lines {
		now := last[l.Instance]
		switch {
		case l.Container != report.AgentLog:
		case strings.Contains(l.Text, began):
			now = &life{name: l.Instance, at: l.At}
			lives, last[l.Instance] = append(lives, now), now
		case now == nil:
		case strings.Contains(l.Text, ready):
			now.ready = true
		case strings.Contains(l.Text, told):
			now.told = true
		}
	}
	for _, l := range slices.Backward(lives) {
		if lasts := last[l.name] == l; l.ready || lasts && (there[l.name] || l.told) {
			continue
		}
		all = append(all, sight{fmt.Sprintf("%s began %s ago", l.name, ago(c.Now.Sub(l.at))), c.Now.Sub(l.at) > 2*time.Hour})
	}
	if len(all) < 3 {
		return nil
	}
	return all
}
