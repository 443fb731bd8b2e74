// Package schema holds what Google's discovery documents say of the methods the local cloud serves: paths, parameters,
// and the fields, types and enum values of messages. The data is generated (go run ./internal/localcloud/schema/generate)
// from the documents that ship with google.golang.org/api and embedded, so that what is refused is Google's rule and
// not ours. Start with Load and Set.Check.
package schema
