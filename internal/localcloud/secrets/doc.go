// Package secrets is the local cloud's Secret Manager. Payloads are kept in the process's memory and nowhere else: never
// in the store, in a log or on a disk; they leave only as the answer to an access that the policies permit. Start reading
// at Register.
package secrets
