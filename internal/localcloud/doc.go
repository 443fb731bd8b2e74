// Package localcloud is Google Cloud on one machine, as far as a stack needs it: the APIs on a loopback address, and
// behind them real databases, a real cache, an object store, a TLS load balancer, a name server and instances that run
// the agent.
//
// A local cloud is a process (Serve) with a directory of its own. Other processes start it (Up), find it (Find), ask it
// (Info) and end it (Down); it takes along everything it started. Its APIs answer whoever bears a token: the owner's,
// which stands in the directory, in a file that the owner alone can read, or one that an instance was given by its
// metadata server. Serve wires the parts together and is the place to start reading: front answers requests, the packages
// named after Google's services are what it answers, plane and fleet are what then happens.
package localcloud
