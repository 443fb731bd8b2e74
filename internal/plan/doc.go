// Package plan decides what would make the cloud match a graph. A Plan is a value: it can be printed, saved and
// tested; package apply carries it out. Planning reads the cloud, through a Reader, and never writes it.
package plan
