// Package kind is the table of the Google resources a stack is made of, one file for each family. A row is data; what
// differs by steps rather than by values is a Driver in internal/gcp/driver, named by the row. TestKinds holds every row against Google's
// discovery documents. To add a kind, see CONTRIBUTING.md.
package kind
