// Package driver holds the few kinds that differ from the others by steps rather than by values. Each driver embeds
// gcp.REST and overrides what differs. All gives them by the name that a row of the table uses.
package driver
