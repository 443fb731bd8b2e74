package dify

// The pools that an instance opens on the main database. The agent gives Dify exactly these settings.
const (
	PoolSize       = 10 // SQLALCHEMY_POOL_SIZE
	PoolOverflow   = 10 // SQLALCHEMY_MAX_OVERFLOW
	APIWorkers     = 2  // SERVER_WORKER_AMOUNT
	WorkerPools    = 1  // celery's gevent worker is one process
	DaemonConns    = 15 // DB_MAX_OPEN_CONNS of the plugin daemon
	BeatConns      = 2
	reservedConns  = 12 // migrations (2), the administrator and Cloud SQL itself (10)
	vectorPerProc  = 10 // concurrent retrievals and indexings of an instance, one connection each
	vectorReserved = 10
)

// Connections gives the most connections that n instances can open on the main database's server, and on the vector
// database's, what the servers themselves need included.
func Connections(n int) (main, vector int) {
	perInstance := (PoolSize+PoolOverflow)*(APIWorkers+WorkerPools) + BeatConns + DaemonConns
	return n*perInstance + reservedConns, n*vectorPerProc + vectorReserved
}
