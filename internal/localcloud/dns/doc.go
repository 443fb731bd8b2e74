// Package dns is the local cloud's Cloud DNS API: private zones, their records, and what a name server is to answer
// (Lookup, Zones). It serves no DNS itself. Start reading at Register.
package dns
