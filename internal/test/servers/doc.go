// Package servers gives tests the local cloud's data plane by itself: real PostgreSQL and Redis servers at addresses of
// their own. It holds no tests.
package servers
