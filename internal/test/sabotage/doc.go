// Package sabotage breaks stacks, one way at a time, and wants smoke to fail at the row that names what is broken: real
// PostgreSQL and Redis, several stand-ins behind front doors, and a load balancer before them, in one process. It holds
// tests only.
package sabotage
