// Package state keeps what a stack owns, as IDs and never as bodies, and the lock that keeps two runs apart. Both are
// objects in a bucket of the stack's own, written with generation preconditions, so that of two writers one is told.
// Nothing in them is secret, and if they are lost the stack can be found again by its marks.
package state
