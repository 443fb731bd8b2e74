// Package stores connects to a stack's stores, PostgreSQL and Redis, on its private network. The agent, which waits for them,
// and the stand-in, which uses them, connect in the same way. Provide has a database hold what Dify needs, and tries its rights.
package stores
