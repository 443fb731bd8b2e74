// Package nameserver answers DNS questions, over UDP and TCP, for the names of the local cloud's private zones.
//
// It is authoritative and never recursive: what its Lookup has no zone for is refused. It does not keep records: it
// asks for them on every question, so that a changed record is seen at once. Start at Serve.
package nameserver
