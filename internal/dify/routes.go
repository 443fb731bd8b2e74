package dify

import "strings"

// Service is one of Dify's servers, as the front door needs to know it.
type Service string

// The services that requests are sent to, and the ports they have in Dify's own containers.
const (
	API          Service = "api"
	Web          Service = "web"
	PluginDaemon Service = "plugin_daemon"
)

// Port gives a service's port.
func (s Service) Port() int {
	switch s {
	case Web:
		return 3000
	case PluginDaemon:
		return 5002
	}
	return 5001
}

// Services gives the services of Routes.
func Services() []Service { return []Service{API, PluginDaemon, Web} }

// InstanceHeader is in every answer that comes through a front door: the name of the instance that gave it.
const InstanceHeader = "Difyup-Instance"

// Route sends a path and everything below it to a service.
type Route struct {
	Prefix  string
	Service Service // "" = refused: for the containers among themselves
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
