// Package fleet is the part of the local cloud that Google runs behind Compute Engine's API: instances and their
// metadata servers, managed groups, autoscalers, the load balancer, and the name server that instances are given.
//
// The compute service keeps the resources and tells the fleet of every change (Changed, Deleting); the fleet makes it
// so, and answers what only it knows (Status, Managed, Health, Serial). It implements no API and keeps no resource but
// "instances". Its parts do not know each other: balancer, group, metadata, nameserver and probe are joined here.
// Start at Fleet.
package fleet
