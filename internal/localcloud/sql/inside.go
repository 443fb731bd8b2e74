package sql

import (
	"context"
	"regexp"

	"github.com/difyup/difyup/internal/localcloud/body"
	"github.com/difyup/difyup/internal/localcloud/front"
	"github.com/difyup/difyup/internal/localcloud/store"
)

// What is inside an instance: databases and users.

var identifier = regexp.MustCompile(`^[A-Za-z_][-A-Za-z0-9_$@.]{0,62}$`)

// hidden is how Cloud SQL answers a question about the inside of an instance that is not there: it does not say so.
func hidden() error {
	return &front.Error{Code: 403, Reason: "notAuthorized", Message: "The client is not authorized to make this request."}
}

// running gives the key of the instance of a request about its inside.
func (v *Service) running(r *front.Request) (string, error) {
	k := key(r)
	b, ok := v.instances.Get(k)
	switch {
	case !ok:
		return "", hidden()
	case body.String(b, "state") != "RUNNABLE", body.String(b, "settings.activationPolicy") == "NEVER":
		return "", invalid("Invalid request since instance is not running.")
	}
	return k, nil
}

func database(k string, given map[string]any) map[string]any {
	b := store.Clone(given)
	body.Default(b, "charset", "UTF8")
	body.Default(b, "collation", "en_US.UTF8")
	b["kind"], b["project"], b["instance"] = "sql#database", engineProject(k), engineInstance(k)
	b["selfLink"] = "https://sqladmin.googleapis.com/sql/v1beta4/" + k + "/databases/" + body.String(b, "name")
	delete(b, "etag")
	b["etag"] = store.Fingerprint(b, 0)
	return b
}

func (v *Service) insertDatabase(_ context.Context, r *front.Request) (any, error) {
	k, err := v.running(r)
	if err != nil {
		return nil, err
	}
	name := body.String(r.Body, "name")
	if !identifier.MatchString(name) {
		return nil, invalid("database name (%s).", name)
	}
	if c := body.String(r.Body, "charset"); c != "" && c != "UTF8" {
		return nil, invalid("The local cloud's databases have the charset UTF8, not %s.", c)
	}
	if _, ok := v.databases.Get(k + "/databases/" + name); ok {
		return nil, invalid("failed to create database %s. Detail: pq: database %q already exists.", name, name)
	}
	return v.run(r, "CREATE_DATABASE", userTime, func(ctx context.Context, k string) error {
		if err := v.engine.CreateDatabase(ctx, engineName(k), name); err != nil {
			return err
		}
		v.databases.Put(k+"/databases/"+name, database(k, r.Body))
		return nil
	})
}

func (v *Service) getDatabase(_ context.Context, r *front.Request) (any, error) {
	k, err := v.running(r)
	if err != nil {
		return nil, err
	}
	b, ok := v.databases.Get(k + "/databases/" + r.Path["database"])
	if !ok {
		return nil, front.NotFound("Not Found: database %q does not exist.", r.Path["database"])
	}
	return b, nil
}

func (v *Service) listDatabases(_ context.Context, r *front.Request) (any, error) {
	return v.listBelow(r, v.databases, "/databases/", "sql#databasesList")
}

func (v *Service) listBelow(r *front.Request, c *store.Collection, part, kind string) (any, error) {
	k, err := v.running(r)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"kind": kind}
	if items := c.List(k + part); len(items) > 0 {
		answer["items"] = items
	}
	return answer, nil
}

func (v *Service) deleteDatabase(_ context.Context, r *front.Request) (any, error) {
	k, err := v.running(r)
	if err != nil {
		return nil, err
	}
	below := k + "/databases/" + r.Path["database"]
	if _, ok := v.databases.Get(below); !ok {
		return nil, front.NotFound("Not Found: database %q does not exist.", r.Path["database"])
	}
	return v.run(r, "DELETE_DATABASE", userTime, func(ctx context.Context, k string) error {
		if err := v.engine.DropDatabase(ctx, engineName(k), r.Path["database"]); err != nil {
			return err
		}
		v.databases.Delete(below)
		return nil
	})
}

func engineProject(k string) string  { p, _ := split(k); return p }
func engineInstance(k string) string { _, i := split(k); return i }

func split(k string) (project, instance string) {
	m := keyParts.FindStringSubmatch(k)
	return m[1], m[2]
}

var keyParts = regexp.MustCompile(`^projects/([^/]+)/instances/([^/]+)`)

// userBody is a user as it is shown: never with a password.
func userBody(k, name string, given map[string]any) map[string]any {
	b := map[string]any{"kind": "sql#user", "name": name, "host": "", "project": engineProject(k), "instance": engineInstance(k)}
	if t := body.String(given, "type"); t != "" && t != "BUILT_IN" {
		b["type"] = t
	}
	b["etag"] = store.Fingerprint(b, 0)
	return b
}

// setUser makes a user or changes its password.
func (v *Service) setUser(r *front.Request, opType, name string) (any, error) {
	if t := body.String(r.Body, "type"); t != "" && t != "BUILT_IN" {
		return nil, front.Unserved("The local cloud's users are of the type BUILT_IN.")
	}
	password := body.String(r.Body, "password")
	switch {
	case !identifier.MatchString(name):
		return nil, invalid("user name (%s).", name)
	case password == "":
		return nil, invalid("The password of a user cannot be empty.")
	}
	return v.run(r, opType, userTime, func(ctx context.Context, k string) error {
		if err := v.engine.SetUser(ctx, engineName(k), name, password); err != nil {
			return err
		}
		v.users.Put(k+"/users/"+name, userBody(k, name, r.Body))
		return nil
	})
}

// insertUser also sets the password of a user that exists, as Cloud SQL does.
func (v *Service) insertUser(_ context.Context, r *front.Request) (any, error) {
	if _, err := v.running(r); err != nil {
		return nil, err
	}
	return v.setUser(r, "CREATE_USER", body.String(r.Body, "name"))
}

func (v *Service) findUser(r *front.Request, name string) (string, map[string]any, error) {
	k, err := v.running(r)
	if err != nil {
		return "", nil, err
	}
	b, ok := v.users.Get(k + "/users/" + name)
	if !ok {
		return "", nil, front.NotFound("The user %q does not exist.", name)
	}
	return k + "/users/" + name, b, nil
}

func (v *Service) getUser(_ context.Context, r *front.Request) (any, error) {
	_, b, err := v.findUser(r, r.Path["name"])
	if err != nil {
		return nil, err
	}
	return b, nil
}

func (v *Service) listUsers(_ context.Context, r *front.Request) (any, error) {
	return v.listBelow(r, v.users, "/users/", "sql#usersList")
}

func (v *Service) updateUser(_ context.Context, r *front.Request) (any, error) {
	name := r.Query.Get("name")
	if _, _, err := v.findUser(r, name); err != nil {
		return nil, err
	}
	return v.setUser(r, "UPDATE_USER", name)
}

func (v *Service) deleteUser(_ context.Context, r *front.Request) (any, error) {
	name := r.Query.Get("name")
	below, _, err := v.findUser(r, name)
	if err != nil {
		return nil, err
	}
	return v.run(r, "DELETE_USER", userTime, func(ctx context.Context, k string) error {
		if err := v.engine.DropUser(ctx, engineName(k), name); err != nil {
			return front.Invalid("%s", err.Error())
		}
		v.users.Delete(below)
		return nil
	})
}
