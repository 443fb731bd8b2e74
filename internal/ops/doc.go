// Package ops is what can be done with a stack: plan, apply, destroy, read its outputs and its status. It joins
// configuration, topology, plan, executor, state and lock, and knows the order in which a run must happen so that it may
// be cut off anywhere. It prints nothing and asks nobody: events and results go to its caller. Start reading at Open.
package ops
