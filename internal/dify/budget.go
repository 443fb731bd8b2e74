package dify

import (
	"fmt"

	"github.com/difyup/difyup/internal/fault"
)

// Machine is what an instance has.
type Machine struct {
	CPUs      int `json:"cpus"`
	MemoryMiB int `json:"memoryMiB"`
}

// Tuning is how much an instance does at once. The zero value of each is what Divide derives from the machine.
type Tuning struct {
	APIWorkers     int `json:"apiWorkers,omitempty"`     // processes of the API
	APIConnections int `json:"apiConnections,omitempty"` // requests that each of them has in hand at most
	WorkerTasks    int `json:"workerTasks,omitempty"`    // tasks that the worker does at the same time
	APIDatabase    int `json:"apiDatabase,omitempty"`    // connections of all processes of the API to the main database
}

// Pool is a pool of SQLAlchemy's, in connections: Size are kept, Overflow more are opened when needed.
type Pool struct{ Size, Overflow int }

// Budget is what an instance does at once, and who has how much of the machine.
type Budget struct {
	Machine
	Tuning              // without zeros
	APIPool        Pool // of each process of the API
	WorkerPool     Pool
	Shares         map[Name]Share
	SmallestMemory int // MiB, of a machine that all this fits into
}

// Share is what a service may use of the machine.
type Share struct {
	MemoryMiB int
	CPUs      float64
	Weight    int // of the CPU when there is not enough for all
}

// Connections of an instance to the main database's server besides the API's and the worker's.
const (
	daemonConns    = 15 // DB_MAX_OPEN_CONNS of the plugin daemon
	beatConns      = 2
	reservedConns  = 12 // migrations (2), the administrator and Cloud SQL itself (10)
	vectorReserved = 10
)

// What a task of the worker that indexes a document opens: Dify runs up to ten threads for it, each of which holds a connection to the
// main database until it is done, has one of its own to the vector database, and asks for a second to the main one meanwhile, for as
// long as a model embeds (indexing_runner.py, cached_embedding.py and the driver for pgvector, 1.14.2 to 1.16.0). So a pool of as many as
// tasks can hold, with some to spare, gets all of them to their end, if they wait long enough for those: see SQLALCHEMY_POOL_TIMEOUT.
const (
	indexing     = 10
	indexingHeld = indexing + 1
	poolSpare    = 10
)

// reserve is what the system, Docker and the agent have of a machine's memory, in MiB.
const reserve = 700

// peaks gives the most memory that each service was seen to use, in MiB, with one process of the API: of 1.17.1, and of 1.14.2 the
// worker after smoke and the web interface after hundreds of pages (docs/real-dify.md). The proxy was measured by itself, as squid 5.7 with the configuration it gets.
func peaks() map[Name]int {
	return map[Name]int{API: 575, Worker: 490, WorkerBeat: 408, PluginDaemon: 245, Web: 249, Sandbox: 147, SSRFProxy: 48}
}

// further is the memory of each further process of the API, in MiB: as it was seen once it
// had searched (docs/real-dify.md).
const further = 478

// room gives a limit for a peak: 1.3 times as much.
func room(peak int) int { return (peak*13 + 9) / 10 }

// apiSpare is how many connections a process of the API takes besides the requests of users: those that the front door keeps for a second
// (64 at most of each of its two ways), what asks for its health, and plugins that call it back. gunicorn accepts none when it has as many as it takes, and would
// seem to hang.
const apiSpare = 200

// Most gives how many requests of users a service of an instance has in hand at most; 0 for any number.
func (s Settings) Most(n Name) int {
	b, err := Divide(s.Machine, s.Tuning)
	if n != API || err != nil { // Project tells the error
		return 0
	}
	return b.APIWorkers * b.APIConnections
}

// Smallest gives the memory, in MiB, of the smallest machine that so many processes of the API fit into.
func Smallest(apiWorkers int) int {
	sum := reserve
	for _, p := range peaks() {
		sum += room(p)
	}
	return sum + room(further*(apiWorkers-1))
}

// Divide gives each service its share of a machine: 1.3 times the most that it was seen to use, and of what is left after
// the reserve the most to the daemon, in whose container the plugins run. What Tuning leaves open follows from the machine. A
// machine that this does not fit into is a fault.
//
// The connections of the API to the database do not grow with the machine, or a larger one would need a larger database: one process
// has 40, as with Dify's own settings, and more than one share 80. Who wants more says so.
func Divide(m Machine, t Tuning) (Budget, error) {
	if t.APIWorkers == 0 {
		t.APIWorkers = min(max(m.CPUs/2, 1), 4)
		for t.APIWorkers > 1 && Smallest(t.APIWorkers) > m.MemoryMiB {
			t.APIWorkers--
		}
	}
	if t.APIConnections == 0 {
		t.APIConnections = min(max(100*m.CPUs/2/t.APIWorkers, 100), 400)
	}
	if t.WorkerTasks == 0 {
		t.WorkerTasks = min(max(2*m.CPUs, 4), 16)
	}
	if t.APIDatabase == 0 {
		t.APIDatabase = max(min(40*t.APIWorkers, 80), 2*t.APIWorkers)
	}
	b := Budget{Machine: m, Tuning: t, Shares: map[Name]Share{}, SmallestMemory: Smallest(t.APIWorkers)}
	if m.MemoryMiB < b.SmallestMemory {
		return Budget{}, &fault.Fault{
			Summary: "Machine too small",
			Detail: fmt.Sprintf("Dify's containers need %d MiB with %s of the API, the system included; the machine has %d MiB.",
				b.SmallestMemory, count(t.APIWorkers, "process", "processes"), m.MemoryMiB),
			Remedy: "Choose a machine type with more memory.",
		}
	}
	each := max(1, t.APIDatabase/t.APIWorkers) // to SQLAlchemy, a pool of 0 is one without a limit
	b.APIPool = Pool{each - each/2, each / 2}
	worker := indexingHeld*t.WorkerTasks + poolSpare
	b.WorkerPool = Pool{worker - worker/2, worker / 2}

	spare := m.MemoryMiB - b.SmallestMemory
	cpus := float64(m.CPUs)
	for _, s := range []struct {
		name   Name
		spare  int     // percent
		cpus   float64 // at most
		weight int
	}{
		{API, 20, cpus, 2048}, {Worker, 20, cpus, 1024}, {WorkerBeat, 0, min(1, cpus), 512}, {Web, 5, min(2, cpus), 1024},
		{PluginDaemon, 45, cpus, 1024}, {Sandbox, 8, max(1, cpus/2), 512}, {SSRFProxy, 2, min(1, cpus), 512},
	} {
		least := room(peaks()[s.name])
		if s.name == API {
			least += room(further * (t.APIWorkers - 1))
		}
		b.Shares[s.name] = Share{MemoryMiB: least + spare*s.spare/100, CPUs: s.cpus, Weight: s.weight}
	}
	return b, nil
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// Connections gives the most connections that n instances can open on the main database's server, and on the vector
// database's, what the servers themselves need included. The pools bound the first. In the vector database each retrieval and
// each thread that indexes has a connection of its own; of the API's requests, as many retrieve at once as half of its connections to
// the main database let through.
func (b Budget) Connections(n int) (main, vector int) {
	api := (b.APIPool.Size + b.APIPool.Overflow) * b.APIWorkers
	perInstance := api + b.WorkerPool.Size + b.WorkerPool.Overflow + beatConns + daemonConns
	return n*perInstance + reservedConns, n*(b.APIDatabase/2+indexing*b.WorkerTasks) + vectorReserved
}
