// Package resource is the engine's vocabulary: Kind, Resource, ID, Path and Graph. It is a leaf without I/O: it knows
// how a resource is named and what refers to what, and nothing of how Google is called.
//
// References between resources are plain strings in bodies. A link ("projects/p/global/networks/n") is known before
// the resource exists; a value Google decides is a placeholder, "${ID:path}", resolved when a step runs. Edges are
// found by scanning bodies for both, never written down twice; order that no field shows is added with After.
package resource
