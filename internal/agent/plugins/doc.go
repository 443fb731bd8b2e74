// Package plugins says which of the plugins that are installed in a stack run on an instance: the daemon says that it is well
// while it has none of them. See ADR 28. Start reading at Look, and at Wait for how long an instance waits for them.
package plugins
