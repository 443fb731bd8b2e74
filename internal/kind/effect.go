package kind

import (
	"slices"
	"strings"

	"github.com/difyup/difyup/internal/resource"
)

// Effect is what an update does to those who use the stack.
type Effect string

// The effects.
const (
	InPlace Effect = "in place" // nobody notices
	Rolling Effect = "rolling"  // instances are replaced, a few at a time
	Restart Effect = "restart"  // the store is away for a while
)

// restarting are the fields whose change makes Google restart what they belong to. Source: Cloud SQL's and
// Memorystore's documentation of their update operations.
func restarting() map[string][]resource.Path {
	return map[string][]resource.Path{
		SQLInstances.Name: {
			"databaseVersion", "settings.tier", "settings.availabilityType", "settings.edition", "settings.databaseFlags",
			"settings.backupConfiguration.pointInTimeRecoveryEnabled",
		},
		RedisInstances.Name: {"memorySizeGb", "redisVersion"},
	}
}

// EffectOf gives the effect of changing the paths of a resource of this kind in place.
func EffectOf(k *resource.Kind, changed []resource.Path) Effect {
	under := func(prefix resource.Path) bool {
		return slices.ContainsFunc(changed, func(p resource.Path) bool {
			rest, ok := strings.CutPrefix(string(p), string(prefix))
			return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
		})
	}
	if k.Name == RegionInstanceGroupManagers.Name && under("versions") {
		return Rolling
	}
	if slices.ContainsFunc(restarting()[k.Name], under) {
		return Restart
	}
	return InPlace
}
