package dify

import "strings"

// Services gives the services of Routes.
func Services() []Name { return []Name{API, PluginDaemon, Web} }

// InstanceHeader is in every answer that comes through a front door: the name of the instance that gave it.
const InstanceHeader = "Difyup-Instance"

// Route sends a path and everything below it to a service.
type Route struct {
	Prefix  string
	Service Name // "" = refused: for the containers among themselves
}

// Routes gives Dify's routes. Source: docker/nginx/conf.d/default.conf.template of the releases that are known, the
// WebSocket of 1.14 included.
func Routes() []Route {
	return []Route{
		{"/console/api", API}, {"/api", API}, {"/v1", API}, {"/openapi", API}, {"/files", API}, {"/mcp", API}, {"/triggers", API}, {"/socket.io", API},
		{"/e", PluginDaemon}, {"/inner/api", ""}, {"/explore", Web}, {"/", Web},
	}
}

// RouteFor gives the route of a path: the longest prefix that is the path or ends before a slash in it.
func RouteFor(path string) Route {
	var best Route
	for _, r := range Routes() {
		if (r.Prefix == "/" || path == r.Prefix || strings.HasPrefix(path, r.Prefix+"/")) && len(r.Prefix) > len(best.Prefix) {
			best = r
		}
	}
	if best.Prefix == "" {
		return Route{"/", Web}
	}
	return best
}
