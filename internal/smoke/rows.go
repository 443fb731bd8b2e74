package smoke

import "time"

// rows gives what is proven from outside, in this order: a row comes before those whose failures its own would explain.
func rows() []Row {
	return []Row{
		{
			ID: "reach", Title: "Reach the API", Proves: "name, certificate, load balancer, front door and API work", do: reach,
			means: "Dify's API does not answer", remedy: "See whether the instances are healthy, and what they wait for:\n    difyup status",
		},
		{
			ID: "instances", Title: "Meet every instance", Proves: "the load balancer uses all of them, and they run one release", needs: []string{"reach"}, do: meet,
			means: "An instance does not answer well", remedy: "See whether the instances are healthy:\n    difyup status",
		},
		{
			ID: "web", Title: "Open the pages", Proves: "the web interface is up on every instance", needs: []string{"instances"}, do: pages,
			means: "The web interface does not answer", remedy: "The API answers and the container `web` does not: read its log on the instance that is named.",
		},
		{
			ID: "database", Title: "Ask the database", Proves: "every instance reads PostgreSQL, whose tables are there", needs: []string{"instances"}, do: database,
			means: "The API cannot use its database", remedy: "See whether the database runs; the instances have DB_HOST and DB_PASSWORD from the stack:\n    difyup status",
		},
		{
			ID: "setup", Title: "Set up the first account", Proves: "PostgreSQL takes rows, and the bucket the workspace's key", needs: []string{"database"}, do: setup,
			means:  "Dify cannot be set up",
			remedy: "Setting up writes to PostgreSQL and to the bucket. The service account of the instances needs the rights of roles/storage.objectAdmin and storage.buckets.get on the bucket; this puts them right:\n    difyup apply",
		},
		{
			ID: "login", Title: "Log in", Proves: "Redis keeps sessions", needs: []string{"setup"}, do: login,
			means: "Nobody can log in", remedy: "Logging in needs PostgreSQL and Redis. See whether both run:\n    difyup status",
		},
		{
			ID: "profile", Title: "Be known everywhere", Proves: "all instances have the same SECRET_KEY", needs: []string{"login"}, do: profile,
			means: "An instance does not know who is logged in", remedy: oneSecretKey,
		},
		{
			ID: "session", Title: "Renew the session", Proves: "all instances share one Redis", needs: []string{"profile"}, do: renew,
			means: "A session cannot be renewed", remedy: oneRedis,
		},
		{
			ID: "upload", Title: "Upload a file", Proves: "the API may write to the bucket", needs: []string{"profile"}, do: upload,
			means: "The API cannot write to the bucket", remedy: bucketRights,
		},
		{
			ID: "preview", Title: "Read it everywhere", Proves: "every instance reads from the same bucket", needs: []string{"upload"}, do: preview,
			means: "An instance cannot read from the bucket what another one wrote", remedy: bucketRights,
		},
		{
			ID: "hook", Title: "Call a plugin's address", Proves: "/e/ goes to the plugin daemon, which reads its database", needs: []string{"instances"}, do: hook,
			means: "The plugin daemon does not answer", remedy: daemonStores,
		},
		{
			ID: "plugins", Title: "List the plugins", Proves: "API and plugin daemon have the same key", needs: []string{"profile"}, do: listPlugins,
			means: "The API cannot use the plugin daemon", remedy: daemonKeys,
		},
		{
			// To export an app, the API asks the plugin daemon what the app needs.
			ID: "secret", Title: "Keep a secret", Proves: "the workspace's private key is in the bucket", needs: []string{"profile", "plugins"}, do: secret,
			means: "A secret cannot be kept", remedy: "The API says why, above; see whether the database is well:\n    difyup status",
		},
		{
			ID: "dataset", Title: "Create a data set", Proves: "rows are written", needs: []string{"profile"}, do: createDataset,
			means: "A data set cannot be created", remedy: "The API says why, above; see whether the database is well:\n    difyup status",
		},
		{
			ID: "index", Title: "Index a document", Proves: "the queue is one, a worker takes from it and reads the bucket", needs: []string{"upload", "dataset"}, timeout: 10 * time.Minute, do: index,
			means: "A document cannot be indexed", remedy: "Read the log of the container `worker`.",
		},
		{
			ID: "retrieve", Title: "Find it again", Proves: "keywords were extracted and are searched", needs: []string{"index"}, do: retrieve,
			means: "What was indexed is not found", remedy: "Read the logs of the containers `worker` and `api`.",
		},
		{
			ID: "callback", Title: "Have a plugin call back", Proves: "plugin daemon and API have the same inner key", needs: []string{"plugins", "hook", "secret"}, do: callback,
			means: "The plugin daemon cannot call the API back", remedy: innerKeys,
		},
		{
			ID: "vectors", Title: "Search by meaning", Proves: "model, worker and pgvector make and search vectors", needs: []string{"profile", "plugins", "index"}, timeout: 10 * time.Minute, do: vectors,
			means: "Vectors cannot be made or searched", remedy: "Read the log of the container `worker`, and see whether the vector database runs:\n    difyup status",
		},
		{
			ID: "closed", Title: "Be refused at /inner/api", Proves: "what containers ask each other is closed to the world", needs: []string{"reach"}, do: closed,
			means: "The containers' inner API can be reached from outside", remedy: "Only difyup's front door may be behind the load balancer. See what answers on port 1080 of the instances.",
		},
	}
}

// inside gives what has to be asked on an instance.
func inside() []Row {
	return []Row{
		{ID: "sandbox", Title: "Run code", Proves: "API and sandbox have the same key, with which code is run"},
		{ID: "ssrf", Title: "Be refused at the metadata server", Proves: "what users run does not reach the metadata server"},
		{ID: "vector-database", Title: "Make an index of vectors", Proves: "the vector database makes an index, also without a model"},
	}
}

const (
	oneSecretKey = "All instances must have the same SECRET_KEY, which they read from Secret Manager when they start. Replace the instance that differs; the group makes a new one:\n    gcloud compute instance-groups managed recreate-instances GROUP --instances NAME --region REGION"
	oneRedis     = "All instances must use the stack's Redis. See which one they have, REDIS_HOST, and whether it runs:\n    difyup status"
	bucketRights = "The service account of the instances needs storage.buckets.get on the bucket and the rights of roles/storage.objectAdmin in it. This puts both right:\n    difyup apply"
	daemonStores = "The plugin daemon needs a database of its own, on the server of the main one. See whether it is there, and read the log of the container `plugin_daemon`; this makes it:\n    difyup apply"
	daemonKeys   = "PLUGIN_DAEMON_KEY of the containers `api` and `worker` must be SERVER_KEY of `plugin_daemon`. Both come from one secret, read when an instance starts: replace the instance that is named. If it is not the key, the daemon says what it is:\n    difyup logs --container plugin_daemon"
	innerKeys    = "INNER_API_KEY_FOR_PLUGIN of the containers `api` and `worker` must be DIFY_INNER_API_KEY of `plugin_daemon`, and DIFY_INNER_API_URL must reach the API. Replace the instance that is named."
)
