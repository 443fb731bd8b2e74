// Package stores connects to a stack's stores, PostgreSQL and Redis, on its private network. The agent, which waits for them,
// and the stand-in, which uses them, connect in the same way.
package stores
