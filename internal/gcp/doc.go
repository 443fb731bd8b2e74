// Package gcp is the only package that talks to Google's APIs, or to the local cloud, which is the same but for the
// endpoint. It authenticates, retries, waits for operations in their three dialects, and reads and writes resources
// through drivers: the REST driver, which follows the table of kinds, and those of gcp/driver for what differs by
// steps. It decides nothing about what should exist. Start with Client.ReadAll and REST.Create.
package gcp
