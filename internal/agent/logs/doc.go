// Package logs keeps the lines of an instance's containers and of the agent on disk until Cloud Logging has taken them. Book takes lines
// and never waits; what is too much, or too old, is left out and counted. It knows nothing of Google but the form of an entry.
package logs
