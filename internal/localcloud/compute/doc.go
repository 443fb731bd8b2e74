// Package compute is the control plane of Compute Engine on the local cloud: a table of collections (table.go) served by
// the same handlers (service.go), and functions for the verbs that differ by steps. It checks, fills in, numbers and refuses
// as Google does, and tells an Observer of every change; making instances and listeners is the fleet's affair. Start with
// Register and the table.
package compute
