// Package probe asks an instance whether it is well, as a Google health check would, and remembers how often it said so.
//
// The load balancer and the group controller probe separately, each with its own health check. It does not decide what
// follows from an answer. Start at Run.
package probe
