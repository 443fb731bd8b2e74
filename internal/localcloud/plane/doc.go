// Package plane is what stands behind the local cloud's APIs: a block of loopback addresses, and the servers that run on
// them, PostgreSQL for Cloud SQL and Redis for Memorystore. It knows processes and addresses, and nothing of any API: the
// packages sql and redis tell it what to run. Everything it starts ends with the local cloud, however that ends.
//
// It is for Linux, which is where a process can be made to die with its parent and where all of 127.0.0.0/8 is usable.
// Start reading at Net, Supervisor, SQL and Cache.
package plane
