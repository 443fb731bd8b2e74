// Package standin is the small program that plays Dify where no container engine is at hand. It gets the very settings that
// Dify's containers would get, by the same names and from nowhere else, and really uses every store: GET
// /standin/check writes and reads a row, searches vectors, sets and gets a key, and uploads and downloads an object. It is
// no Dify: it runs no app. Start reading at Run.
package standin
