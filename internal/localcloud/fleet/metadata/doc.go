// Package metadata is the metadata server of one instance: the only place an instance learns anything from.
//
// It answers as Google's does (paths, headers, listings, recursion, waiting for changes) from a Document that its owner
// describes afresh for every question, and it answers nobody but the instance, which it knows by its user: peer.go. It knows
// nothing of groups and processes. Start at Serve.
package metadata
