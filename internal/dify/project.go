package dify

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// The repositories of the images. The squid is the one that Dify's own compose file takes, with a tag that stays.
const (
	apiImage    = "langgenius/dify-api"
	webImage    = "langgenius/dify-web"
	daemonImage = "langgenius/dify-plugin-daemon"
	boxImage    = "langgenius/dify-sandbox"
	squidImage  = "ubuntu/squid:6.6-24.04_beta"
)

// Project gives the services of an instance that runs a release, each with its own environment, from the instance's settings
// and the values of its secrets by purpose. What a release has besides (the WebSocket's API of 1.14, the agent services of
// 1.15) is left out as a whole, and the settings say so to those that would use it.
//
// A purpose without a value is an error, and so is a machine that is too small.
func Project(r Release, s Settings, secrets map[string]string) ([]Service, error) {
	for _, p := range Purposes() {
		if secrets[p.Key] == "" {
			return nil, fmt.Errorf("the secret %s has no value", p.Key)
		}
	}
	budget, err := Divide(s.Machine, s.Tuning)
	if err != nil {
		return nil, err
	}
	// The worker is told to end first, and has all that its tasks use until it has.
	tools := []Name{PluginDaemon, Sandbox, SSRFProxy}
	both := []Network{Outward, Inward}
	services := []Service{
		{
			Name: API, Image: apiImage + ":" + r.Version, Needs: tools, Networks: both, Grace: ServerGrace,
			Health: &Health{Path: "/health", Probe: "curl", Start: 3 * time.Minute},
		},
		// Asking Celery costs a Python of its own each time; stock compose has that switched off.
		{Name: Worker, Image: apiImage + ":" + r.Version, Needs: slices.Concat([]Name{API}, tools), Networks: both, Grace: DrainTime},
		{Name: WorkerBeat, Image: apiImage + ":" + r.Version, Networks: []Network{Outward}, Grace: ToolGrace},
		{
			Name: Web, Image: webImage + ":" + r.Version, Networks: []Network{Outward}, Grace: ServerGrace,
			Health: &Health{Path: "/", Probe: "node", Start: 2 * time.Minute},
		},
		{
			Name: PluginDaemon, Image: daemonImage + ":" + r.PluginDaemon + "-local", Networks: []Network{Outward}, Grace: ToolGrace, Data: "/app/storage",
			Health: &Health{Path: "/health/check", Probe: "python3", Start: 2 * time.Minute},
		},
		{
			// It changes its user and its root for each piece of code, which no-new-privileges breaks.
			Name: Sandbox, Image: boxImage + ":" + r.Sandbox, Networks: []Network{Inward}, Grace: ToolGrace, Privileges: true,
			Health: &Health{Path: "/health", Probe: "curl", Start: 2 * time.Minute},
		},
		{
			Name: SSRFProxy, Image: squidImage, Networks: both, Grace: ToolGrace,
			Health: &Health{Probe: "bash", Start: time.Minute},
		},
	}
	environments := map[Name]map[string]string{}
	for _, n := range Names() {
		environments[n] = map[string]string{}
	}
	for _, v := range variables(r, s, secrets, budget) {
		for _, n := range v.of {
			environments[n][v.name] = v.value
		}
	}
	for i := range services {
		svc := &services[i]
		share := budget.Shares[svc.Name]
		svc.Environment, svc.Port = environments[svc.Name], svc.Name.Port()
		svc.MemoryMiB, svc.CPUs, svc.Shares = share.MemoryMiB, share.CPUs, share.Weight
		if s.Registry != "" {
			svc.Image = strings.TrimSuffix(s.Registry, "/") + "/" + svc.Image
		}
		for name, value := range s.Environment[svc.Name] {
			if _, ours := svc.Environment[name]; ours {
				return nil, fmt.Errorf("%s of %s is set by difyup", name, svc.Name)
			}
			svc.Environment[name] = value
		}
	}
	return services, nil
}

// Variables gives the names of what difyup sets itself in a service's environment, for a release, sorted.
func Variables(r Release, n Name) []string {
	names := map[string]bool{}
	for _, v := range variables(r, Settings{Domain: "x", PipMirror: "x"}, nil, Budget{}) {
		if slices.Contains(v.of, n) {
			names[v.name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}
