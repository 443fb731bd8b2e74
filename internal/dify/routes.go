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
}

// routes are Dify's, longest prefix first. Source: docker/nginx/conf.d/default.conf.template of the releases that are known, the
// WebSocket of 1.14 included.
var routes = []Route{
	{"/console/api", API}, {"/socket.io", API}, {"/inner/api", ""}, {"/triggers", API}, {"/openapi", API}, {"/explore", Web}, {"/files", API}, {"/api", API},
	{"/mcp", API}, {"/v1", API}, {"/e", PluginDaemon}, {"/", Web},
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
