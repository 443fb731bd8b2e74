package compose

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// Files are the files of a project, by name. The first holds secrets.
type Files struct {
	Compose []byte // compose.yaml
	Squid   []byte // squid.conf
}

// The file's shape, as far as it is used.
type (
	project struct {
		Name     string                   `yaml:"name"`
		Services map[dify.Name]service    `yaml:"services"`
		Networks map[dify.Network]network `yaml:"networks"`
		Volumes  map[string]struct{}      `yaml:"volumes,omitempty"`
	}
	service struct {
		Image       string                       `yaml:"image"`
		PullPolicy  string                       `yaml:"pull_policy"`
		Command     []string                     `yaml:"command,omitempty,flow"`
		Environment map[string]string            `yaml:"environment"`
		DependsOn   map[dify.Name]condition      `yaml:"depends_on,omitempty"`
		Networks    map[dify.Network]*attachment `yaml:"networks"`
		ExtraHosts  []string                     `yaml:"extra_hosts,omitempty"`
		Volumes     []volume                     `yaml:"volumes,omitempty"`
		Healthcheck *healthcheck                 `yaml:"healthcheck,omitempty"`
		Restart     string                       `yaml:"restart"`
		StopGrace   string                       `yaml:"stop_grace_period"`
		MemoryLimit string                       `yaml:"mem_limit"`
		SwapLimit   string                       `yaml:"memswap_limit"`
		CPUs        float64                      `yaml:"cpus"`
		Shares      int                          `yaml:"cpu_shares"`
		PIDs        int                          `yaml:"pids_limit"`
		Ulimits     map[string]int               `yaml:"ulimits"`
		CapDrop     []string                     `yaml:"cap_drop,flow"`
		SecurityOpt []string                     `yaml:"security_opt,omitempty,flow"`
		Logging     logging                      `yaml:"logging"`
	}
	condition  struct{ Condition string }
	attachment struct {
		Priority int    `yaml:"priority,omitempty"`
		Address  string `yaml:"ipv4_address,omitempty"`
	}
	volume struct {
		Type     string `yaml:"type"`
		Source   string `yaml:"source"`
		Target   string `yaml:"target"`
		ReadOnly bool   `yaml:"read_only,omitempty"`
	}
	healthcheck struct {
		Test        []string `yaml:"test,flow"`
		Interval    string   `yaml:"interval"`
		Timeout     string   `yaml:"timeout"`
		Retries     int      `yaml:"retries"`
		StartPeriod string   `yaml:"start_period"`
	}
	logging struct {
		Driver  string            `yaml:"driver"`
		Options map[string]string `yaml:"options"`
	}
	network struct {
		Driver     string            `yaml:"driver"`
		Internal   bool              `yaml:"internal,omitempty"`
		DriverOpts map[string]string `yaml:"driver_opts"`
		IPAM       struct {
			Config []map[string]string `yaml:"config"`
		} `yaml:"ipam"`
	}
)

// mtu is that of Google's networks; Docker's own would be 1500, and large packets would be lost.
const mtu = "1460"

// served are the services that the front door sends requests to, at their containers' addresses. No port is published: Docker's
// docker-proxy would take every byte in its hands, and has to share the engine's small weight of the processor.
func served(n dify.Name) bool {
	switch n {
	case dify.API, dify.Web, dify.PluginDaemon:
		return true
	}
	return false
}

// Who is served, and who connects to stores, to what the user names, or to the agent's relay, which is at the machine's own address in the outward
// network, is told there by its own, which no other container gets: the engine takes those of the range for them. So it is inward for those who are
// asked there.
const (
	machineAt    = "198.18.240.1"
	othersWithin = "198.18.240.0/25"
	othersInward = "198.18.241.0/25"
)

// outwardAt gives the address of a service's container in the outward network, or of its job's, which may run beside it; not valid
// for a service that has any of the others.
func outwardAt(n dify.Name, job bool) netip.Addr {
	host := map[dify.Name]byte{dify.WorkerBeat: 129, dify.API: 130, dify.Worker: 131, dify.PluginDaemon: 132, dify.SSRFProxy: 133, dify.Web: 134}[n]
	if host == 0 {
		return netip.Addr{}
	}
	if job {
		host += 64
	}
	return hostOf(dify.Outward, host)
}

// inwardAt gives the address of a service's container in the inward network; not valid for a service that has any of the others.
func inwardAt(n dify.Name) netip.Addr {
	host := map[dify.Name]byte{dify.SSRFProxy: 133, dify.Sandbox: 135}[n]
	if host == 0 {
		return netip.Addr{}
	}
	return hostOf(dify.Inward, host)
}

func hostOf(n dify.Network, host byte) netip.Addr {
	at := netip.MustParsePrefix(dify.Subnets()[n]).Addr().As4()
	at[3] = host
	return netip.AddrFrom4(at)
}

// addressAt gives the address of a service's container in a network, or of its job's; not valid where it has any of the others.
func addressAt(n dify.Network, s dify.Name, job bool) netip.Addr {
	switch {
	case n == dify.Outward:
		return outwardAt(s, job)
	case n == dify.Inward && !job:
		return inwardAt(s)
	}
	return netip.Addr{}
}

// others gives where a service finds those whose names are in its URLs, as NAME:ADDRESS, if they have an address of their own in a network that
// it shares with them. Else it would ask the engine for each connection, which in a storm of logs has no time, and is not there while it is
// started again.
func others(s dify.Service, all []dify.Service) (hosts []string) {
	for _, o := range all {
		told := slices.ContainsFunc(slices.Collect(maps.Values(s.Environment)), func(v string) bool { return strings.Contains(v, "//"+string(o.Name)+":") })
		if !told || o.Name == s.Name {
			continue
		}
		for _, n := range s.Networks {
			if at := addressAt(n, o.Name, false); at.IsValid() && slices.Contains(o.Networks, n) {
				hosts = append(hosts, string(o.Name)+":"+at.String())
				break
			}
		}
	}
	return hosts
}

// bridge gives the name of a network's device on the machine, of at most 15 characters.
func bridge(n dify.Network) string { return "difyup-" + string(n) }

// identityAt gives where in a service's own network the agent answers: the machine's address, the first of the subnet, and the port
// that metadata servers have.
func identityAt(n dify.Network) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParsePrefix(dify.Subnets()[n]).Addr().Next(), 80)
}

// literal has compose take a text as it is: it replaces $NAME in what it reads.
func literal(text string) string { return strings.ReplaceAll(text, "$", "$$") }

// Render writes the project of services. pull is "missing" or "never"; authorities is the directory of Options.
func Render(name string, services []dify.Service, pull, authorities string) (Files, error) {
	return render(name, services, pull, authorities, false)
}

// render is Render; that of a job needs nobody, is asked by nobody, and ends once.
func render(name string, services []dify.Service, pull, authorities string, job bool) (Files, error) {
	p := project{Name: name, Services: map[dify.Name]service{}, Networks: map[dify.Network]network{}, Volumes: map[string]struct{}{}}
	for _, s := range services {
		out := service{
			Image: literal(s.Image), PullPolicy: pull, Environment: map[string]string{}, Networks: map[dify.Network]*attachment{},
			// Not always: after a reboot it is the agent that starts them, when the stores answer.
			Restart: "on-failure", StopGrace: s.Grace.String(),
			MemoryLimit: fmt.Sprintf("%dm", s.MemoryMiB), SwapLimit: fmt.Sprintf("%dm", s.MemoryMiB), CPUs: s.CPUs, Shares: s.Shares, PIDs: 4096,
			Ulimits: map[string]int{"nofile": s.Files}, // newer engines give 1024
			CapDrop: []string{"NET_RAW"},
			// Without blocking: a disk that is slow must not stop Dify.
			Logging: logging{"local", map[string]string{"max-size": "20m", "max-file": "3", "mode": "non-blocking", "max-buffer-size": "4m"}},
		}
		for _, word := range s.Command {
			out.Command = append(out.Command, literal(word))
		}
		for k, v := range s.Environment {
			if strings.ContainsAny(v, "\x00") {
				return Files{}, fmt.Errorf("the value of %s of %s has a zero byte", k, s.Name)
			}
			out.Environment[k] = literal(v)
		}
		if !s.Privileges {
			out.SecurityOpt = []string{"no-new-privileges:true"}
		}
		for _, n := range s.Needs {
			if out.DependsOn == nil {
				out.DependsOn = map[dify.Name]condition{}
			}
			out.DependsOn[n] = condition{"service_started"}
		}
		for i, n := range s.Networks {
			out.Networks[n] = &attachment{Priority: 100 * (len(s.Networks) - 1 - i)}
			net := network{Driver: "bridge", Internal: n != dify.Outward && n != dify.NamesOnly, DriverOpts: map[string]string{
				"com.docker.network.bridge.name": bridge(n), "com.docker.network.driver.mtu": mtu,
			}}
			net.IPAM.Config = []map[string]string{{"subnet": dify.Subnets()[n]}}
			if n == dify.Outward {
				net.IPAM.Config[0]["gateway"], net.IPAM.Config[0]["ip_range"] = machineAt, othersWithin
			}
			if n == s.Name.Ask() {
				at := identityAt(n)
				net.IPAM.Config[0]["gateway"] = at.Addr().String()
				maps.Copy(out.Environment, runtime.IdentityVariables(at))
			}
			if n == dify.Inward {
				net.IPAM.Config[0]["ip_range"] = othersInward
			}
			if at := addressAt(n, s.Name, job); at.IsValid() {
				out.Networks[n].Address = at.String()
			}
			if n == dify.Outward && s.Name == dify.WorkerBeat {
				out.ExtraHosts = append(out.ExtraHosts, dify.RelayHost+":"+machineAt)
			}
			p.Networks[n] = net
		}
		out.ExtraHosts = append(out.ExtraHosts, others(s, services)...)
		if job {
			out.Restart, out.DependsOn = "no", nil
		}
		if s.Data != "" {
			p.Volumes[string(s.Name)] = struct{}{}
			out.Volumes = append(out.Volumes, volume{Type: "volume", Source: string(s.Name), Target: s.Data})
		}
		if s.Name == dify.SSRFProxy {
			out.Volumes = append(out.Volumes, volume{Type: "bind", Source: "./squid.conf", Target: "/etc/squid/squid.conf", ReadOnly: true})
		}
		if s.Authorities() {
			if authorities == "" {
				return Files{}, fmt.Errorf("%s is to verify stores, and there is no directory with their authorities", s.Name)
			}
			out.Volumes = append(out.Volumes, volume{Type: "bind", Source: authorities, Target: dify.AuthorityDir, ReadOnly: true})
		}
		if s.Health != nil && !job {
			out.Healthcheck = check(s)
		}
		p.Services[s.Name] = out
	}
	var b bytes.Buffer
	b.WriteString("# Written by difyup's agent, which writes it anew. It holds secrets.\n")
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(p); err != nil {
		return Files{}, fmt.Errorf("write compose.yaml: %w", err)
	}
	var near []string
	for _, s := range services {
		if s.Name == dify.SSRFProxy {
			near = s.Near
		}
	}
	return Files{Compose: b.Bytes(), Squid: []byte(squid(near))}, nil
}

// check asks from inside, with a program that the image has.
func check(s dify.Service) *healthcheck {
	url := fmt.Sprintf("http://127.0.0.1:%d%s", s.Port, s.Health.Path)
	var test []string
	switch s.Health.Probe {
	case "curl":
		test = []string{"curl", "-fsS", "--noproxy", "*", "--max-time", "4", "-o", "/dev/null", url}
	case "node":
		test = []string{"node", "-e", "fetch('" + url + "',{redirect:'manual'}).then(r=>process.exit(r.status<400?0:1),()=>process.exit(1))"}
	case "python3":
		test = []string{"python3", "-c", "import urllib.request;urllib.request.urlopen('" + url + "',timeout=4)"}
	case "bash":
		test = []string{"bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", s.Port)}
	}
	for i := range test {
		test[i] = literal(test[i])
	}
	return &healthcheck{append([]string{"CMD"}, test...), "5s", "6s", 3, s.Health.Start.Truncate(time.Second).String()}
}
