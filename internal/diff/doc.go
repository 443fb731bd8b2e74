// Package diff compares what is wanted of a resource with what Google has. It is pure. Only declared fields count:
// what Google fills in is noise, and what should be empty is declared empty.
package diff
