package dify

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// Project gives the services of an instance that runs a release, each with its own environment, from the instance's settings
// and the values of its secrets: by purpose, and for those of the user's by NAME@VERSION. What a release has besides (the WebSocket's API of 1.14, the agent services of
// 1.15) is left out as a whole, and the settings say so to those that would use it.
//
// A purpose without a value is an error, and so is a machine that is too small. Without a domain, and as long as the stack's address
// is not known, links have no host.
func Project(r Release, s Settings, secrets map[string]string) ([]Service, error) {
	for _, p := range s.Purposes() {
		if secrets[p.Key] == "" {
			return nil, fmt.Errorf("the secret %s has no value", p.Key)
		}
	}
	budget, err := Divide(s.Machine, s.Tuning)
	if err != nil {
		return nil, err
	}
	// The worker is told to end first, and has all that its tasks use until it has.
	tools := []Name{PluginDaemon, Sandbox, SSRFProxy}
	both := []Network{Outward, Inward}
	services := []Service{
		{
			Name: API, Needs: tools, Networks: both, Grace: ServerGrace, Identity: &Identity{[]string{""}},
			Health: &Health{Path: "/health", Probe: "curl", Start: 3 * time.Minute},
		},
		// Asking Celery costs a Python of its own each time; stock compose has that switched off.
		{Name: Worker, Needs: slices.Concat([]Name{API}, tools), Networks: both, Grace: DrainTime, Quiet: quiet(s.DifyVersion), Identity: &Identity{[]string{""}}},
		// It is the API's program, which makes its client of the bucket at its start, and only sends tasks.
		{Name: WorkerBeat, Networks: []Network{Outward}, Grace: ToolGrace, Identity: &Identity{}},
		{
			Name: Web, Networks: []Network{Outward}, Grace: ServerGrace,
			// A file, which asks nobody: since 1.15, a page asks the API who is there, and logs that nobody is.
			Health: &Health{Path: "/favicon.ico", Probe: "node", Start: 2 * time.Minute},
		},
		{
			Name: PluginDaemon, Networks: []Network{Outward}, Grace: ToolGrace, Data: "/app/storage", Identity: &Identity{pluginObjects()},
			Health: &Health{Path: "/health/check", Probe: "python3", Start: 2 * time.Minute},
		},
		{
			// It changes its user and its root for each piece of code, which no-new-privileges breaks.
			Name: Sandbox, Networks: []Network{Inward, NamesOnly}, Grace: ToolGrace, Privileges: true,
			Health: &Health{Path: "/health", Probe: "curl", Start: 2 * time.Minute},
		},
		{
			Name: SSRFProxy, Networks: both, Grace: ToolGrace,
			Health: &Health{Probe: "bash", Start: time.Minute},
		},
	}
	environments := map[Name]map[string]string{}
	for _, n := range Names() {
		environments[n] = map[string]string{}
	}
	for _, v := range variables(r, s, secrets, budget) {
		for _, n := range v.of {
			environments[n][v.name] = v.value
		}
	}
	images := Images(r, s)
	for i := range services {
		svc := &services[i]
		share := budget.Shares[svc.Name]
		svc.Environment, svc.Port = environments[svc.Name], svc.Name.Port()
		svc.MemoryMiB, svc.CPUs, svc.Shares = share.MemoryMiB, share.CPUs, share.Weight
		if svc.Files = 16384; svc.Name == API { // a stream takes three or four
			svc.Files = max(svc.Files, 4*(budget.APIConnections+apiSpare)+1024)
		}
		svc.Image = pinned(images[svc.Name], s.Pins)
		svc.Near = near(s, svc.Name)
		if svc.Identity != nil {
			svc.Networks = append(slices.Clone(svc.Networks), svc.Name.Ask())
		}
		extra := maps.Clone(s.Environment[svc.Name])
		for name, version := range s.SecretEnvironment[svc.Name] {
			value := secrets[version.String()]
			if value == "" {
				return nil, fmt.Errorf("the secret %s has no value", version)
			}
			if extra == nil {
				extra = map[string]string{}
			}
			extra[name] = value
			svc.Secrets = append(svc.Secrets, name)
		}
		slices.Sort(svc.Secrets)
		ours := Variables(r, svc.Name)
		for name, value := range extra {
			if slices.Contains(ours, name) && !suggested(name) {
				return nil, fmt.Errorf("%s of %s cannot be set: %s", name, svc.Name, agreed)
			}
			svc.Environment[name] = value
		}
	}
	return services, nil
}

// near gives what a service connects to in private networks, each once. Beat's way to Redis is the agent's relay, and the sandbox
// has none but the proxy, also to a mirror of PyPI.
func near(settings Settings, n Name) (all []string) {
	s := settings.Stores
	add := func(host string, port int) {
		if at := net.JoinHostPort(host, itoa(port)); !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	switch n {
	case API, Worker:
		add(s.Database.Host, s.Database.Port)
		add(s.Vector.Host, s.Vector.Port)
		add(s.Redis.Host, s.Redis.Port)
	case WorkerBeat:
		add(s.Database.Host, s.Database.Port)
	case PluginDaemon:
		add(s.Database.Host, s.Database.Port)
		add(s.Redis.Host, s.Redis.Port)
	}
	if n == PluginDaemon || n == SSRFProxy {
		if mirror, err := url.Parse(settings.PipMirror); err == nil && mirror.Hostname() != "" {
			port := map[string]int{"http": 80, "https": 443}[mirror.Scheme]
			if p, err := strconv.Atoi(mirror.Port()); err == nil {
				port = p
			}
			add(mirror.Hostname(), port)
		}
	}
	var named []string
	switch n {
	case API, Worker, PluginDaemon:
		named = settings.PrivateServices
	case SSRFProxy:
		named = settings.ProxiedServices
	}
	for _, at := range named {
		if !slices.Contains(all, at) {
			all = append(all, at)
		}
	}
	return all
}

// Variables gives the names of what difyup sets itself in a service's environment, for a release, sorted.
func Variables(r Release, n Name) []string {
	names := map[string]bool{}
	for _, v := range variables(r, Settings{
		Domain: "x", PipMirror: "x", Stores: Stores{Database: Database{TLS: Verified}, Vector: Database{TLS: Verified}, Redis: Address{TLS: Verified}},
	}, nil, Budget{}) {
		if slices.Contains(v.of, n) {
			names[v.name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// suggested says whether nothing but the service itself depends on what difyup sets: a user may set another value.
func suggested(name string) bool {
	return slices.Contains(Suggested(), name)
}

// Suggested gives the names of what difyup sets for a service that no other one, and no store, has to agree with: users may set other
// values.
func Suggested() []string {
	return []string{
		"CHECK_UPDATE_URL", "ENABLE_OAUTH_BEARER", "FORCE_VERIFYING_SIGNATURE", "LOG_LEVEL", "PYTHON_ENV_INIT_TIMEOUT", "SQLALCHEMY_POOL_TIMEOUT",
		"WEB_API_CORS_ALLOW_ORIGINS", "WORKER_TIMEOUT",
	}
}

// LargestUpload gives the largest file, in bytes, that Dify lets users upload: 100 MiB, a video or a package, or more if its environment
// says so.
func (s Settings) LargestUpload() int64 {
	largest := int64(100)
	for name, value := range s.Environment[API] {
		if n, err := strconv.ParseInt(value, 10, 32); err == nil && strings.HasPrefix(name, "UPLOAD_") && strings.HasSuffix(name, "_SIZE_LIMIT") {
			largest = max(largest, n)
		}
	}
	return largest << 20
}

const agreed = "difyup sets it, and it has to agree with what the other containers and the stores are told"

// Reserved says why a user cannot set a variable of a service's, or "". Project refuses what difyup sets; the others are
// refused where the user writes them.
func Reserved(r Release, n Name, name string) string {
	switch {
	case suggested(name):
		return ""
	case slices.Contains(Variables(r, n), name):
		return agreed
	case n == SSRFProxy && strings.HasPrefix(name, "SSRF_"):
		return "difyup writes the proxy's configuration, which reads no variables"
	case strings.HasPrefix(name, "DIFYUP_"), strings.HasPrefix(name, "STANDIN_"):
		return "difyup keeps names that begin so for itself"
	case strings.HasPrefix(name, "GCE_METADATA_"), name == "STORAGE_EMULATOR_HOST":
		return "Google's libraries find by it who the instance is and where the files are, which difyup decides"
	}
	return ""
}
