// Package body reads and changes decoded JSON objects by dotted paths, for the services of the local cloud, which keep
// what clients send as JSON. It knows no API. Start reading at Merge, which is what PATCH means.
package body
