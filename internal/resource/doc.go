// Package resource is the engine's vocabulary: Kind, Resource, ID, Path and Graph. It is a leaf without I/O: it knows
// how a resource is named and what refers to what, and nothing of how Google is called.
//
// References stand beside a body, at paths: Refer for a link ("projects/p/global/networks/n"), which is known before the
// resource exists, Take for a value that Google decides, which is put in when a step runs. They make the edges; order
// that no field shows is added with After. No string of a body is ever searched, for some are a user's.
package resource
