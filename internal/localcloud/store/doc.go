// Package store keeps the bodies of the local cloud's resources: collections of JSON objects by key, copied on their
// way in and out, so that nobody holds another's. It knows nothing of Google's rules; the service packages do.
package store
