package stores

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Needs are what a database must have, and let its user do.
type Needs struct {
	Extension string // "" = none
	Schema    string // that the user may make if it is not there; "" = none
}

// Lack is that a store, which can be reached, does not let Dify do what it must.
type Lack struct {
	Says string // what, and what to do, in our own words, after the store's name: "is read-only"
	Err  error
}

func (l *Lack) Error() string { return l.Says + ": " + l.Err.Error() }
func (l *Lack) Unwrap() error { return l.Err }

// Provide makes the extension in a database, if it is not there, and tries whether the user may make tables. Nothing else
// is left in the database. Any number of instances may do so at once. What the database does not allow is a *Lack.
func Provide(ctx context.Context, config *pgx.ConnConfig, n Needs) error {
	c, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	err = try(ctx, c, n.Schema)
	if err == nil && n.Extension != "" {
		err = extend(ctx, c, n.Extension)
	}
	return errors.Join(err, c.Close(ctx))
}

// try makes what Dify will make, in a transaction that is undone.
func try(ctx context.Context, c *pgx.Conn, schema string) error {
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	// A name of its own, so that nobody waits for the transaction of somebody who is frozen.
	probe := pgx.Identifier{"difyup_probe_" + strings.ToLower(rand.Text())}.Sanitize()
	_, err = tx.Exec(ctx, `CREATE TABLE public.`+probe+` (id int)`)
	switch code(err) {
	case insufficientPrivilege:
		err = &Lack{"does not let its user make tables; the owner of its schema public can: GRANT CREATE ON SCHEMA public", err}
	case invalidSchemaName:
		err = &Lack{"has no schema public, and its owner must make it: CREATE SCHEMA public", err}
	case readOnlyTransaction:
		err = &Lack{"is read-only; it must take writes", err}
	}
	if err == nil && schema != "" {
		var there bool
		if err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)`, schema).Scan(&there); err == nil && !there {
			_, err = tx.Exec(ctx, `CREATE SCHEMA `+probe)
			if code(err) == insufficientPrivilege {
				err = &Lack{"does not let its user make schemas; its owner can: GRANT CREATE ON DATABASE", err}
			}
		}
	}
	return errors.Join(err, tx.Rollback(ctx))
}

// extend makes an extension. One that is there is not touched, of whatever version it is.
func extend(ctx context.Context, c *pgx.Conn, name string) error {
	there := func() (is bool, err error) {
		err = c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_extension WHERE extname = $1)`, name).Scan(&is)
		return is, err
	}
	if is, err := there(); is || err != nil {
		return err
	}
	quoted := pgx.Identifier{name}.Sanitize()
	_, err := c.Exec(ctx, `CREATE EXTENSION IF NOT EXISTS `+quoted)
	switch code(err) {
	case uniqueViolation, duplicateObject:
		// IF NOT EXISTS looks first and makes then, and so did somebody else.
		if is, look := there(); is || look != nil {
			return look
		}
	case insufficientPrivilege:
		return &Lack{fmt.Sprintf("lacks the extension %s, which its user may not make; somebody who may can: CREATE EXTENSION %s", name, quoted), err}
	case featureNotSupported, undefinedFile:
		return &Lack{fmt.Sprintf("lacks the extension %s, and its server does not have it either; it must be installed there", name), err}
	}
	return err
}

// What PostgreSQL says, in its codes.
const (
	uniqueViolation       = "23505"
	duplicateObject       = "42710"
	insufficientPrivilege = "42501"
	invalidSchemaName     = "3F000"
	readOnlyTransaction   = "25006"
	featureNotSupported   = "0A000" // of an extension that is not installed, since version 15
	undefinedFile         = "58P01" // before
)

func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
