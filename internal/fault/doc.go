// Package fault holds errors a person can act on: what went wrong, where, why it matters and what to do.
//
// A Fault is made where the facts are known, travels as an ordinary error (errors.As finds it) and is printed in one
// place, cli/view. Its Summary never holds user data, so that readers learn to recognise it.
package fault
