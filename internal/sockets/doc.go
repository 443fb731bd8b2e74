// Package sockets says of TCP connections what their addresses do not: whose they are on this machine, and by which device of it
// they came.
package sockets
