// Package logging serves Cloud Logging's entries: they are written, and listed by a part of Google's query language. They are kept in
// memory, the newest 64 MiB of each project, and outlive the instances that wrote them.
package logging
