// Package apply carries out a plan: bounded, cancellable, each step as soon as what it waits for is done. It does not
// know Google; it asks a Doer. What it did is told by events and by the ledger it returns.
package apply
