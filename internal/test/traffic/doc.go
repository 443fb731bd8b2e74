// Package traffic tests what passes through the load balancer and the front door, one behind the other: large, long, many, slow
// and hostile requests. Before them is the local cloud's load balancer, behind them a service that writes down, byte for byte,
// what reaches it.
package traffic
