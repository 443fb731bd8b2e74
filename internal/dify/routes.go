package dify

import (
	"slices"
	"strings"
)

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
