// Package conformance holds the local cloud against clients nobody here wrote: Google's own libraries, those by which Dify
// reaches its stores, and recorded exchanges. It is tests only, so that the local cloud itself never imports Google's generated code.
package conformance
