package dify

import (
	"slices"
	"strings"
	"time"
)

// Name is the name of one of Dify's services, which is also the host name by which the others of its instance reach it.
type Name string

// The services of an instance.
const (
	API          Name = "api"
	Worker       Name = "worker"
	WorkerBeat   Name = "worker_beat"
	Web          Name = "web"
	PluginDaemon Name = "plugin_daemon"
	Sandbox      Name = "sandbox"
	SSRFProxy    Name = "ssrf_proxy"
)

// Names gives all services, in the order in which Project gives them.
func Names() []Name {
	return []Name{API, Worker, WorkerBeat, Web, PluginDaemon, Sandbox, SSRFProxy}
}

// Port gives the port that a service serves in its container; 0 for those that serve nobody.
func (n Name) Port() int {
	switch n {
	case API:
		return 5001
	case Web:
		return 3000
	case PluginDaemon:
		return 5002
	case Sandbox:
		return 8194
	case SSRFProxy:
		return 3128
	}
	return 0
}

// url gives the address at which the other services of the instance reach a service.
func (n Name) url() string { return "http://" + string(n) + ":" + itoa(n.Port()) }

// Service is one container of an instance.
type Service struct {
	Name        Name
	Image       string            // REPOSITORY:TAG
	Command     []string          // nil = the image's own
	Environment map[string]string // all that it is given, and nothing that is another's
	Secrets     []string          // names of variables whose values are secret, whatever the names say
	Port        int               // 0 = it serves nobody
	Health      *Health           // nil = that it runs is all that is known of it
	Needs       []Name            // are started before it, and stopped after it
	Grace       time.Duration     // how long it may take to end when told to
	// Quiet is a command for the container, with a number of seconds as one more argument: it has the program take nothing more, and ends
	// when it has nothing in hand, or fails when that is not so in time. nil = the signal to end does that by itself.
	Quiet     []string
	MemoryMiB int     // what it may use at most
	CPUs      float64 // what it may use at most
	Shares    int     // of the CPU when there is not enough; 1024 is usual
	Files     int     // that it may have open, connections among them
	Data      string  // a directory that outlives the container; "" for none
	Networks  []Network
	Identity  *Identity // whom Google knows it as; nil = it asks Google for nothing
	Near      []string  // HOST:PORT of what it connects to itself and may be in a private network: stores, a mirror of PyPI, what the user names
	// Privileges says that the program gains rights when it starts others, which is forbidden to all that need not.
	Privileges bool
}

// Health is how to ask a service whether it serves: an HTTP GET that must be answered with a status below 400, or, without
// a path, a connection that must be taken.
type Health struct {
	Path string // "/health"
	// Probe is a program that the image surely has, which can ask from inside: curl, node, python3 or bash.
	Probe string
	// Start is how long the program may take until it serves, on a small machine under load.
	Start time.Duration
}

// Identity is whom Google knows a service as: the instance's service account, for less than that may.
type Identity struct {
	// Objects are the beginnings of the names of objects in the bucket of Dify's files that it may use; "" = all, and see the bucket.
	// Without any it gets no token: it only learns who it is, without which Google's clients do not even come to be.
	Objects []string
}

// Network is one that containers are in.
type Network string

// The networks of an instance's containers.
const (
	// Outward leads to the instance's own network, and from there to the stores and the internet.
	Outward Network = "outward"
	// Inward leads nowhere: who is in it alone reaches the outside through the SSRF proxy or not at all.
	Inward Network = "inward"
	// NamesOnly leads to the name server alone, for who is in no other network that leads to it. What it leads to is the machine's to
	// say: for Docker it is a network like Outward, since in one that leads nowhere Docker looks up no names of the outside.
	NamesOnly Network = "names"
)

// Ask gives the network in which a service alone asks the agent who it is, and "" for one that has no identity. By it the agent
// knows who asks: what runs in another container cannot send into it.
func (n Name) Ask() Network {
	switch n {
	case API:
		return "ask-api"
	case Worker:
		return "ask-work"
	case WorkerBeat:
		return "ask-beat"
	case PluginDaemon:
		return "ask-plug"
	}
	return ""
}

// Subnets gives the addresses of the networks of containers, and those that Docker takes for itself. They are fixed, so that
// no instance chooses ones that hide a store. Ours are of the range for benchmarks (RFC 2544), which no private network of a
// stack can overlap; Docker's own is what its default bridge has.
func Subnets() map[Network]string {
	return map[Network]string{
		Outward: "198.18.240.0/24", Inward: "198.18.241.0/24", "docker0": "172.17.0.0/16",
		API.Ask(): "198.18.242.0/28", Worker.Ask(): "198.18.242.16/28", WorkerBeat.Ask(): "198.18.242.32/28", PluginDaemon.Ask(): "198.18.242.48/28",
		NamesOnly: "198.18.242.64/28",
	}
}

// worker_beat reaches Redis through a relay of the agent's alone, under this name and port. The relay tells beat by its address.
const (
	RelayHost = "redis-relay"
	RelayPort = 16379
)

// BrokerDatabase is the number of Redis's database that is Celery's.
const BrokerDatabase = 1

// Secret says whether the value of one of the service's variables is secret.
func (s Service) Secret(name string) bool { return slices.Contains(s.Secrets, name) || Secret(name) }

// Secret says by a variable's name whether its value is secret, for what shows environments.
func Secret(name string) bool {
	for _, word := range []string{"PASSWORD", "SECRET", "KEY", "BROKER_URL", "EVENT_BUS_REDIS_URL", "CREDENTIALS", "BASE64"} {
		if strings.Contains(name, word) && name != "REDIS_KEY_PREFIX" {
			return true
		}
	}
	return false
}
