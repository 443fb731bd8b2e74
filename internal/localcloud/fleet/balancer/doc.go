// Package balancer is the external Application Load Balancer of the local cloud: a listener for every global forwarding
// rule, which follows target proxy → URL map → backend service → healthy instances of its groups.
//
// It reads resources and forwards requests; it never changes a resource and starts no instance. What it forwards by is
// a snapshot (table.go), rebuilt by Refresh after every change, so that a request costs no look-ups. Start at Balancer.
package balancer
