// Package topology is the architecture: it turns a stack's description into the graph of resources that make it up, in
// the words of Google's API reference. It decides names, bodies and edges, and reads nothing: the same description
// always gives the same graph. What a resource sends, it always sends, empty or not, so that a change back to a default
// is noticed. Start reading at Build; each layer has a file.
package topology
