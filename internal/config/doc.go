// Package config is difyup.yaml: its options, their defaults and limits, and a strict load that reports every mistake
// at once, each with its place, the nearest known word and a remedy.
//
// It knows what a value may be, and nothing of what becomes of it: that is internal/topology. It reads no cloud.
// Start reading in spec.go, which is also the source of docs/config.md and docs/difyup.schema.json.
package config

//go:generate go run ./generate
