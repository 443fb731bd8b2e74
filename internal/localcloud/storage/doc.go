// Package storage is the local cloud's Cloud Storage: the JSON API's buckets, their IAM policies, and objects with
// generations, preconditions, versions and the three kinds of upload. Contents are files below a directory; all else is
// in memory. It must not know who uses it. Start reading at Register; objects are in objects.go, their transfer in
// transfer.go.
package storage
