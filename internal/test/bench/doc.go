// Package bench prints the figures that difyup is held to: requests, round trips, time and memory of a plan, and the time
// of raising and destroying the example stack on the local cloud. `make bench` runs it. Nothing fails on a slow machine.
package bench
