package dify

import (
	"slices"
	"strings"
)

// Services gives the services of Routes.
func Services() []Name { return []Name{API, PluginDaemon, Web} }

// InstanceHeader is in every answer that comes through a front door: the name of the instance that gave it.
const InstanceHeader = "Difyup-Instance"

// Route sends a path and everything below it to a service.
type Route struct {
	Prefix  string
	Service Name // "" = refused: for the containers among themselves
	// Open says that who knows a path below it is let in, so that the path is a secret.
	Open bool
}

// routes are Dify's, longest prefix first. Source: docker/nginx/conf.d/default.conf.template of the releases that are known, the
// WebSocket of 1.14 included.
var routes = []Route{
	{"/console/api", API, false}, {"/socket.io", API, false}, {"/inner/api", "", false}, {"/triggers", API, true}, {"/openapi", API, false},
	{"/explore", Web, false}, {"/files", API, true}, {"/api", API, false}, {"/mcp", API, true}, {"/v1", API, false}, {"/e", PluginDaemon, true}, {"/", Web, false},
}

// Routes gives Dify's routes, longest prefix first.
func Routes() []Route { return slices.Clone(routes) }

// RouteFor gives the route of a path: the longest prefix that is the path or ends before a slash in it.
func RouteFor(path string) Route {
	for _, r := range routes {
		if rest, ok := strings.CutPrefix(path, r.Prefix); ok && (rest == "" || rest[0] == '/') {
			return r
		}
	}
	return routes[len(routes)-1]
}
