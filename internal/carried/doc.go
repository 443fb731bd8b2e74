// Package carried is the agent inside difyup: the Linux program that every instance runs, compressed, with its checksum, so
// that one difyup, on a Mac too, is all that deploying takes. `make build` builds the agent first (internal/carried/generate)
// and then difyup with it inside. A plain `go build` finds an empty place, and makes a difyup that carries none.
//
// The same sources give the same bytes, wherever and of whatever commit they are built: the checksum is in the instances'
// metadata, and a new one replaces every instance. See ADR 18. Start reading at Find.
package carried
