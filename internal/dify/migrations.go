package dify

import "slices"

// The extensions of PostgreSQL that the databases must have, in every release that there is. The first migration of the main
// one takes identifiers from its extension; vectors are of the other's type. The database of plugins needs none.
const (
	MainExtension   = "uuid-ossp"
	VectorExtension = "vector"
)

// Migration is a command that brings the schema of a database up to a release's, in a container of its own.
type Migration struct {
	Service     Service           // whose image and environment it has
	Command     []string          // nil = the image's own
	Environment map[string]string // instead of, or besides, the service's
}

// Migrations gives the migrations of a release's services, in their order. MODE=migration alone starts a server when
// MIGRATION_ENABLED is false, as it is for the services themselves. The plugin daemon's image runs its migration at every start
// too, without a lock; after this one there is nothing for it to do.
func Migrations(services []Service) []Migration {
	var all []Migration
	for _, m := range []struct {
		of Name
		Migration
	}{
		{API, Migration{Environment: map[string]string{"MODE": "migration", "MIGRATION_ENABLED": "true"}}},
		{PluginDaemon, Migration{Command: []string{"/app/commandline", "migrate"}}},
	} {
		if i := slices.IndexFunc(services, func(s Service) bool { return s.Name == m.of }); i >= 0 {
			m.Service = services[i]
			all = append(all, m.Migration)
		}
	}
	return all
}
