// Package nameserver answers DNS questions, over UDP and TCP, for the names of the local cloud's private zones.
//
// It does not keep records: it asks for them on every question, so that a changed record is seen at once. What its Lookup
// has no zone for is asked of other servers, if it is given some, as the name server of a VPC does. Start at Serve.
package nameserver
