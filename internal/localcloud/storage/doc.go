// Package storage is the local cloud's Cloud Storage: the JSON API's buckets, their IAM policies, and objects with
// generations, preconditions, versions and the three kinds of upload; and the XML API's reading of objects. Contents are
// files below a directory; all else is in memory. It must not know who uses it. Start reading at Register. Objects are in
// objects.go and list.go; upload.go, session.go and content.go are how contents come in, download.go how they go out,
// copy.go how objects are made of others; params.go says what each method acts on.
package storage
