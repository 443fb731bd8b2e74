// Package agent is the program on every instance. It learns from the metadata server what it is to run, takes secrets from
// Secret Manager, waits for the stores and says what it waits for, makes and tries there what Dify needs, has the databases
// migrated, starts Dify (in a rehearsal, the stand-in), and serves it on port 1080 through its front door, where it also
// answers for its health.
//
// It knows Google's metadata server, Secret Manager, Cloud Storage and nothing else of Google, and uses none of Google's
// libraries: the program is small and the same in production and in a rehearsal. No secret is ever logged. Start reading at Run.
package agent
