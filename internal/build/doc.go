// Package build says which difyup this is, from what the Go toolchain records in every binary.
package build
