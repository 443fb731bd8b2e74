// Package dify holds what the project knows of Dify: which image tags belong to which release, the settings its parts
// are given, which request goes to which part, how many database connections it may open. It knows nothing of Google
// and does no I/O.
package dify
