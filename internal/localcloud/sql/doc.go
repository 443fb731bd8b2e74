// Package sql is the local cloud's Cloud SQL Admin API, in both its versions: instances, databases and users of
// PostgreSQL, with operations one at a time on an instance, defaults, and refusals. What runs behind an instance is an
// Engine's business; this package must not know processes or files. Start reading at Register.
package sql
