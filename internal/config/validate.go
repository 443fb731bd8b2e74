package config

import (
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/fault"
)

// validate checks what no tag can say. Each rule passes over values that already have a fault, so that one mistake is
// reported once.
func validate(r *reader, s *Spec) {
	names(r, s)
	region(r, s)
	release(r, s)
	environment(r, s)
	registries(r, s)
	network(r, s)
	balancer(r, s)
	compute(r, s)
	database(r, "database", s.Database.SQL)
	database(r, "vector", s.Vector.SQL)
	connections(r, s)
	storage(r, s)
}

// --- names and labels ---

func names(r *reader, s *Spec) {
	if r.ok("stack") && strings.Contains(s.Stack, "google") {
		r.at("stack", "Reserved name", "`stack` cannot contain `google`: buckets are named after it, and Google keeps the word for its own.", "Choose another name.")
	}
	if r.ok("storage.bucket") && r.ok("stack", "project") {
		b := s.Storage.Bucket
		switch {
		case strings.HasPrefix(b, "goog") || strings.Contains(b, "google") || strings.Contains(b, "g00gle"):
			r.at("storage.bucket", "Reserved name", quote(b)+" cannot be a bucket: Google keeps names for itself that begin with `goog` or contain `google`.",
				"Choose another name, or remove the line to get PROJECT-STACK-files.")
		case b == s.Project+"-"+s.Stack+"-difyup":
			r.at("storage.bucket", "Reserved name", quote(b)+" is the bucket in which difyup keeps the state of the stack.",
				"Remove the line to get "+quote(s.Project+"-"+s.Stack+"-files")+".")
		case b == s.AgentBucket():
			r.at("storage.bucket", "Reserved name", quote(b)+" is the bucket that instances get their program from, which they must not be able to write.",
				"Remove the line to get "+quote(s.Project+"-"+s.Stack+"-files")+".")
		}
	}
	if n := len(s.Domain); r.ok("domain") && n > 253 {
		r.at("domain", "Malformed value", fmt.Sprintf("`domain` has %d characters; a host name has 253 at most.", n), "Choose a shorter name.")
	}
	if most := 62; len(s.Labels) > most {
		r.at("labels", "Too many labels", fmt.Sprintf("There are %d labels. Google allows 64, of which difyup needs two.", len(s.Labels)), fmt.Sprintf("Keep %d or fewer.", most))
	}
	for _, k := range sorted(s.Labels) {
		label(r, k, s.Labels[k])
	}
}

var (
	labelKey   = regexp.MustCompile(`^[a-z][-_a-z0-9]{0,62}$`)
	labelValue = regexp.MustCompile(`^[-_a-z0-9]{0,63}$`)
	notInLabel = regexp.MustCompile(`[^-_a-z0-9]+`)
)

func label(r *reader, key, value string) {
	path := "labels." + key
	fix := func(text string) string {
		return strings.Trim(notInLabel.ReplaceAllString(strings.ToLower(text), "-"), "-_")
	}
	switch {
	case key == "managed-by" || key == "difyup-stack":
		r.at(path, "Reserved name", quote(key)+" is one of the two labels by which difyup recognises what is its own.", "Choose another key.")
	case strings.HasPrefix(key, "goog"):
		r.at(path, "Reserved name", quote(key)+" begins with `goog`, which Google keeps for its own labels.", "Choose another key.")
	case !labelKey.MatchString(key):
		r.at(path, "Malformed label", quote(key)+" cannot be the key of a label: 1 to 63 lower-case letters, digits, hyphens and underscores, beginning with a letter.",
			meant(labelKey, fix(key), "Choose another key."))
	case !labelValue.MatchString(value):
		r.at(path, "Malformed label", quote(value)+" cannot be the value of a label: up to 63 lower-case letters, digits, hyphens and underscores.",
			meant(labelValue, fix(value), "Shorten the value."))
	}
}

func meant(fits *regexp.Regexp, word, otherwise string) string {
	if word == "" || !fits.MatchString(word) {
		return otherwise
	}
	return "Did you mean " + quote(word) + "?"
}

func sorted(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// --- release ---

func release(r *reader, s *Spec) {
	images(r, s)
	if !r.ok("dify.version", "dify.images") {
		return
	}
	_, err := dify.Choose(s.Dify.Version, s.Images())
	if err == nil {
		return
	}
	f := fault.All(err)[0] // Choose's errors are faults
	remedy := f.Remedy
	trimmed := strings.TrimPrefix(s.Dify.Version, "v")
	if _, err := dify.Choose(trimmed, s.Images()); err == nil {
		remedy = "Did you mean " + quote(trimmed) + "?"
	}
	r.at("dify.version", f.Summary, f.Detail, remedy)
}

func images(r *reader, s *Spec) {
	for _, n := range dify.Imaged() {
		path, image := "dify.images."+string(n), s.Images()[n]
		if image == "" || !r.ok(path) {
			continue
		}
		repository, tag, digest := dify.SplitImage(image)
		switch {
		case repository == "sha256", digest != "" && !strings.Contains(repository, "/"): // what stands before it is rather a tag
			r.at(path, "Malformed value", quote(path)+" is a digest that does not say of which repository.", "Write it with the repository: "+dify.Repository(n)+"@sha256:…")
		case n == dify.PluginDaemon && (repository == "" || repository == dify.Repository(n)) && dify.Older(tag, dify.Keyless):
			r.at(path, "Plugin daemon is too old", fmt.Sprintf("The plugin daemon %s reaches Cloud Storage with a service account's key only; difyup hands out no keys.", quote(tag)),
				"Use "+dify.Keyless+" or later.")
		}
	}
}

// Images gives the images that the description names, by service; nil for none.
func (s *Spec) Images() map[dify.Name]string {
	var all map[dify.Name]string
	i := s.Dify.Images
	for n, image := range map[dify.Name]string{dify.API: i.API, dify.Web: i.Web, dify.PluginDaemon: i.PluginDaemon, dify.Sandbox: i.Sandbox, dify.SSRFProxy: i.SSRFProxy} {
		if image != "" {
			if all == nil {
				all = map[dify.Name]string{}
			}
			all[n] = image
		}
	}
	return all
}

// --- network ---

func network(r *reader, s *Spec) {
	subnet := prefix(r, "network.cidr", s.Network.CIDR)
	services := prefix(r, "network.services_cidr", s.Network.ServicesCIDR)
	private(r, "network.cidr", subnet)
	private(r, "network.services_cidr", services)
	if r.ok("network.cidr", "compute.max", "compute.max_surge", "compute.zones") {
		need := s.Compute.Max + s.Compute.MaxSurge
		room := 1<<(32-subnet.Bits()) - 4 // Google keeps four addresses of every subnet
		if room < need {
			r.at("network.cidr", "Network is too small",
				fmt.Sprintf("%s has room for %d instances. An update of %d instances may need %d at a time.", quote(s.Network.CIDR), max(0, room), s.Compute.Max, need),
				fmt.Sprintf("Use a larger range, for instance %s.", quote(netip.PrefixFrom(subnet.Addr(), 30-bits.Len(uint(need+4))).Masked().String())))
		}
	}
	if r.ok("network.services_cidr") && services.Bits() > 23 {
		r.at("network.services_cidr", "Network is too small",
			fmt.Sprintf("%s is too small: Google gives the databases of a region a /24, and Redis a part of another one.", quote(s.Network.ServicesCIDR)),
			"Use /23 or larger; /16 is usual.")
	}
	if r.ok("network.cidr", "network.services_cidr") && subnet.Overlaps(services) {
		path, other := "network.services_cidr", "network.cidr"
		if !s.Has(path) {
			path, other = other, path
		}
		r.at(path, "Networks overlap",
			fmt.Sprintf("`network.cidr` is %s and `network.services_cidr` is %s: some addresses would belong to both.", s.Network.CIDR, s.Network.ServicesCIDR),
			fmt.Sprintf("Move one of them, for instance:\n    %s: %s", path[len("network."):], apart(other, subnet, services)))
	}
	sshRanges(r, s)
	privateServices(r, "dify.private_services", s.Dify.PrivateServices)
	privateServices(r, "dify.proxied_services", s.Dify.ProxiedServices)
}

// apart finds a usual range that overlaps the one at the path other does not.
func apart(other string, subnet, services netip.Prefix) string {
	stays, choices := services, []string{"10.10.0.0/20", "10.128.0.0/20", "172.20.0.0/20", "192.168.0.0/20"}
	if other == "network.cidr" {
		stays, choices = subnet, []string{"10.64.0.0/16", "10.200.0.0/16", "172.24.0.0/16", "192.168.0.0/16"}
	}
	for _, c := range choices {
		if !netip.MustParsePrefix(c).Overlaps(stays) {
			return c
		}
	}
	return choices[0]
}

// prefix reads an IPv4 range whose shape has been checked.
func prefix(r *reader, path, text string) netip.Prefix {
	if !r.ok(path) {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		detail := quote(path) + " cannot be " + quote(text) + ". It must be " + shapes()["cidr"].Says + ": four numbers up to 255, a slash, and the length of the prefix up to 32."
		r.at(path, "Malformed value", detail, "Write it like this: "+shapes()["cidr"].Example)
		return netip.Prefix{}
	}
	if p != p.Masked() {
		r.at(path, "Not the beginning of a network",
			fmt.Sprintf("%s names an address in a range of /%d, not the range itself.", quote(text), p.Bits()),
			fmt.Sprintf("Did you mean %s?", quote(p.Masked().String())))
		return netip.Prefix{}
	}
	return p
}

func private(r *reader, path string, p netip.Prefix) {
	if !r.ok(path) {
		return
	}
	ranges := []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"}
	if !slices.ContainsFunc(ranges, func(c string) bool {
		outer := netip.MustParsePrefix(c)
		return outer.Contains(p.Addr()) && outer.Bits() <= p.Bits()
	}) {
		r.at(path, "Network is not private", fmt.Sprintf("%s cannot be %s: these addresses belong to others on the internet, or are kept for another use.", quote(path), p),
			"Choose a part of "+list(ranges, "or")+".")
		return
	}
	docker := netip.MustParsePrefix(dify.Subnets()["docker0"])
	if overlapsContainers(p) { // of which only Docker's own is private
		r.at(path, "Reserved network", fmt.Sprintf("%s overlaps %s, which Docker on the instances and Cloud SQL use themselves: such addresses could not be reached.", p, docker),
			"Choose another range, for instance "+quote(map[string]string{"network.cidr": "10.10.0.0/20", "network.services_cidr": "10.64.0.0/16"}[path])+".")
	}
}

func sshRanges(r *reader, s *Spec) {
	iap := netip.MustParsePrefix("35.235.240.0/20")
	seen := map[netip.Prefix]bool{}
	for i, text := range s.Network.SSHRanges {
		path := fmt.Sprintf("network.ssh_ranges[%d]", i)
		p := prefix(r, path, text)
		switch {
		case !r.ok(path):
		case p.Bits() < 8:
			r.at(path, "SSH is open to the internet",
				fmt.Sprintf("%s lets %d million addresses try their keys on the instances.", quote(text), 1<<(32-p.Bits())/1_000_000),
				"Name your own ranges only. Without any, administrators come through Identity-Aware Proxy:\n    gcloud compute ssh --tunnel-through-iap")
		case p.Overlaps(iap):
			r.at(path, "Range of Identity-Aware Proxy", fmt.Sprintf("%s overlaps %s, from which Identity-Aware Proxy connects. There is an option for it.", quote(text), iap),
				"Remove the range, and write:\n    iap_ssh: true")
		case overlapsContainers(p):
			r.at(path, "Reserved network", fmt.Sprintf("%s overlaps the addresses of the containers on every instance: what comes from there could not be answered.", quote(text)),
				"Name a range outside 198.18.240.0/23.")
		case seen[p]:
			r.at(path, "Duplicate value", quote(text)+" stands in the list twice.", "Remove one of the two.")
		}
		seen[p] = true
	}
}

// privateServices refuses what would lead containers to the machine they are on, or to its metadata server.
func privateServices(r *reader, option string, services []string) {
	seen := map[string]bool{}
	for i, text := range services {
		path := fmt.Sprintf("%s[%d]", option, i)
		host, _, err := net.SplitHostPort(text)
		if err != nil || !r.ok(path) {
			continue
		}
		name := strings.ToLower(host)
		a, err := netip.ParseAddr(name)
		switch {
		case name == "metadata" || name == "metadata.google.internal" || err == nil && a.IsLinkLocalUnicast():
			r.at(path, "Metadata server", quote(text)+" leads to what an instance is told, and to its rights: containers are kept from it.", "Remove it.")
		case name == "localhost" || err == nil && (a.IsLoopback() || a.IsUnspecified() || overlapsContainers(netip.PrefixFrom(a, a.BitLen()))):
			r.at(path, "No private service", quote(text)+" is the container itself, or another one of its instance.", "Name a host of your network.")
		case seen[text]:
			r.at(path, "Duplicate value", quote(text)+" stands in the list twice.", "Remove one of the two.")
		}
		seen[text] = true
	}
}

// overlapsContainers says whether a range overlaps a network that instances have inside.
func overlapsContainers(p netip.Prefix) bool {
	for _, subnet := range dify.Subnets() {
		if netip.MustParsePrefix(subnet).Overlaps(p) {
			return true
		}
	}
	return false
}

// --- load balancer ---

func balancer(r *reader, s *Spec) {
	b := s.LoadBalancer
	if r.ok("load_balancer.certificate", "domain") && b.Certificate == "managed" {
		if s.Domain == "" {
			r.at("load_balancer.certificate", "Certificate without a domain", "Google issues certificates for host names, and `domain` is not set.",
				"Set `domain` at the top level, or let difyup make a certificate:\n    certificate: self-signed")
		} else if tld := s.Domain[strings.LastIndexByte(s.Domain, '.')+1:]; slices.Contains([]string{"internal", "local", "localhost", "test", "invalid", "lan", "home", "corp"}, tld) {
			r.at("domain", "Certificate cannot be issued", fmt.Sprintf("Google cannot issue a certificate for %s: names below .%s do not exist on the internet.", quote(s.Domain), tld),
				"Use a public name, or let difyup make a certificate:\n    load_balancer:\n      certificate: self-signed")
		} else if n := len(s.Domain); n > 64 {
			r.at("domain", "Certificate cannot be issued", fmt.Sprintf("Google issues certificates for names of up to 64 characters; `domain` has %d.", n),
				"Use a shorter name, or let difyup make a certificate:\n    load_balancer:\n      certificate: self-signed")
		}
	}
	if r.ok("load_balancer.min_tls", "load_balancer.tls_profile") && b.MinTLS == "1.3" && b.TLSProfile != "restricted" {
		r.at("load_balancer.min_tls", "TLS options contradict each other", fmt.Sprintf("TLS 1.3 as the oldest version goes with the profile `restricted` only. Here the profile is %s.", quote(b.TLSProfile)),
			"Write both:\n    tls_profile: restricted\n    min_tls: 1.3")
	}
}

// --- compute ---

func compute(r *reader, s *Spec) {
	c := s.Compute
	machineAndDisk(r, c)
	if need, have := dify.Smallest(max(s.Dify.APIWorkers, 1)), s.Machine().MemoryMiB; r.ok("compute.machine_type", "dify.api_workers") && have < need {
		r.at("dify.api_workers", "Machine type is too small",
			fmt.Sprintf("With %s of the API, Dify's containers and the system need %d MiB; %s has %d.", count(s.Dify.APIWorkers, "process"), need, quote(c.MachineType), have),
			"Choose a machine type with more memory, or remove the line.")
	}
	zones(r, s)
	if r.ok("compute.min", "compute.max") && c.Min > c.Max {
		path := "compute.min"
		if !s.Has(path) {
			path = "compute.max"
		}
		r.at(path, "Limits contradict each other", fmt.Sprintf("`compute.min` is %d and `compute.max` is %d: the fewest instances are more than the most.", c.Min, c.Max),
			fmt.Sprintf("Raise `max` to %d or more, or lower `min` to %d or less.", c.Min, c.Max))
	}
	if r.ok("compute.cpu_target") && c.CPUTarget <= 0 {
		r.at("compute.cpu_target", "Value out of range", "`compute.cpu_target` cannot be 0: no number of instances is ever that idle.", "Write a share above 0 and up to 1, for instance 0.6.")
	}
	if !r.ok("compute.zones", "compute.max_surge", "compute.max_unavailable") {
		return
	}
	n := len(c.Zones)
	if c.MaxSurge == 0 && c.MaxUnavailable == 0 {
		path := "compute.max_surge"
		if !s.Has(path) {
			path = "compute.max_unavailable"
		}
		r.at(path, "Update cannot proceed", "`compute.max_surge` and `compute.max_unavailable` are both 0: an update may neither add an instance nor take one away.",
			fmt.Sprintf("Let it add one for each zone:\n    max_surge: %d", n))
		return
	}
	for _, o := range []struct {
		key   string
		value int
	}{{"max_surge", c.MaxSurge}, {"max_unavailable", c.MaxUnavailable}} {
		if o.value != 0 && o.value < n {
			r.at("compute."+o.key, "Value does not fit the zones", fmt.Sprintf("`compute.%s` is %d, and there are %d zones. Google takes 0, or as many as there are zones, or more.", o.key, o.value, n),
				fmt.Sprintf("Write:\n    %s: %d", o.key, n))
		}
	}
}

func machineAndDisk(r *reader, c Compute) {
	if !r.ok("compute.machine_type") {
		return
	}
	const path = "compute.machine_type"
	m, problem, instead := machineNamed(c.MachineType)
	did := func(word string) string {
		if word == "" || word == c.MachineType {
			return "Choose another one, for instance `e2-standard-4`."
		}
		return "Did you mean " + quote(word) + "?"
	}
	switch {
	case strings.Contains(problem, "Arm"):
		r.at(path, "Arm machine type", problem, "Choose an x86 type, for instance "+quote(instead)+".")
		return
	case problem != "":
		r.at(path, "Unknown machine type", quote(path)+" cannot be "+quote(c.MachineType)+". "+problem, did(instead))
		return
	case m.cpus < 2 || int(m.memory*1024) < dify.Smallest(1):
		r.at(path, "Machine type is too small", fmt.Sprintf("%s has %s and %s GB of memory. Dify's containers need 2 vCPUs and %d MiB: 1.3 times the most that each was seen to use, and 700 MiB for the system.",
			quote(c.MachineType), count(m.cpus, "vCPU"), strconv.FormatFloat(m.memory, 'f', -1, 64), dify.Smallest(1)), "Choose a larger one: `e2-medium` for trials, `e2-standard-4` for work.")
		return
	}
	if !r.ok("compute.disk_type") {
		return
	}
	fits := []string{}
	switch m.family.persistent {
	case "all":
		fits = append(fits, "pd-balanced", "pd-ssd", "pd-standard")
	case "ssd":
		fits = append(fits, "pd-balanced", "pd-ssd")
	}
	if m.family.hyperdisk {
		fits = append(fits, "hyperdisk-balanced")
	}
	if !slices.Contains(fits, c.DiskType) {
		at := "compute.disk_type"
		if r.places[at].Line == 0 {
			at = path
		}
		r.at(at, "Disk type does not fit the machine type", fmt.Sprintf("Machines of the series %s cannot use %s. They use %s.", quote(m.family.name), quote(c.DiskType), list(fits, "or")),
			"Write:\n    disk_type: "+fits[0])
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if strings.HasSuffix(what, "s") {
		what += "e"
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func zones(r *reader, s *Spec) {
	if s.Has("compute.zones") && len(s.Compute.Zones) == 0 && r.ok("compute.zones") {
		r.at("compute.zones", "Missing value", "`compute.zones` is an empty list: instances would have no place.", "Name zones, or remove the line to use three of the region.")
		return
	}
	if !s.Has("compute.zones") && !r.ok("region") {
		r.spoil("compute.zones") // they are derived from it
	}
	seen := map[string]bool{}
	for i, z := range s.Compute.Zones {
		path := fmt.Sprintf("compute.zones[%d]", i)
		switch {
		case !s.Has(path) || !r.ok(path):
		case seen[z]:
			r.at(path, "Duplicate value", quote(z)+" stands in the list twice.", "Remove one of the two.")
		case r.ok("region") && !strings.HasPrefix(z, s.Region+"-"):
			r.at(path, "Zone of another region", fmt.Sprintf("%s is not in the region %s, where the stack is.", quote(z), quote(s.Region)),
				"Did you mean "+quote(s.Region+z[strings.LastIndexByte(z, '-'):])+"?")
		}
		seen[z] = true
	}
}

// --- databases ---

func database(r *reader, section string, d SQL) {
	at := func(key string) string { return section + "." + key }
	tier(r, section, d)
	b := d.Backups
	if r.ok(at("backups.enabled"), at("backups.point_in_time_recovery")) && b.PointInTimeRecovery && !b.Enabled {
		path := at("backups.point_in_time_recovery")
		if r.places[path].Line == 0 {
			path = at("backups.enabled")
		}
		r.at(path, "Point-in-time recovery without backups", "The write-ahead log alone restores nothing: it is replayed onto a backup, and daily backups are off.",
			"Turn both on, or both off:\n    backups:\n      enabled: false\n      point_in_time_recovery: false")
	}
	if r.ok(at("edition"), at("backups.log_days"), at("backups.retained")) {
		path := at("backups.log_days")
		switch {
		case d.Edition == "enterprise" && b.LogDays > 7: // Cloud SQL looks at the number also where no log is kept
			r.at(path, "Value out of range", fmt.Sprintf("The edition `enterprise` keeps the log for up to 7 days; %s is %d.", quote(path), b.LogDays),
				"Write 7 or less. The edition `enterprise-plus` keeps up to 35 days.")
		case b.PointInTimeRecovery && b.Enabled && b.LogDays > b.Retained:
			if r.places[path].Line == 0 {
				path = at("backups.retained")
			}
			r.at(path, "Log outlives the backups", fmt.Sprintf("The log is kept for %s, and only %s. Without an older backup, the beginning of the log is of no use, and Google refuses it.",
				count(b.LogDays, "day"), count(b.Retained, "backup")), fmt.Sprintf("Keep as many backups:\n    retained: %d", b.LogDays))
		}
	}
	if d.HighAvailability && !(b.Enabled && b.PointInTimeRecovery) && r.ok(at("high_availability"), at("backups.enabled"), at("backups.point_in_time_recovery")) {
		r.at(at("high_availability"), "High availability without recovery", "Google asks for daily backups and point-in-time recovery where a standby is wanted.",
			"Leave both on, or the standby out:\n    backups:\n      enabled: true\n      point_in_time_recovery: true")
	}
	for _, name := range sorted(d.Flags) {
		flag(r, at("flags."+name), name, d.Flags[name])
	}
}

var flagName = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?$`)

func flag(r *reader, path, name, value string) {
	switch {
	case !r.ok(path):
	case name == "max_connections":
		r.at(path, "Flag has an option of its own", "difyup sets the flag `max_connections` itself, and checks it against the number of instances.",
			"Remove it here, and set `max_connections` one level up.")
	case !flagName.MatchString(name):
		r.at(path, "Malformed flag", quote(name)+" cannot be the name of a PostgreSQL flag: lower-case letters, digits and underscores.",
			meant(flagName, strings.ToLower(strings.ReplaceAll(name, "-", "_")), "Choose a flag that Cloud SQL has."))
	case value == "true" || value == "false":
		r.at(path, "Malformed flag", fmt.Sprintf("Cloud SQL writes switches as `on` and `off`; %s is %s.", quote(name), quote(value)),
			fmt.Sprintf("Write:\n    %s: %s", name, map[string]string{"true": "on", "false": "off"}[value]))
	}
}

var (
	customTier = regexp.MustCompile(`^db-custom-([0-9]{1,6})-([0-9]{1,9})$`)
	plusTier   = regexp.MustCompile(`^db-perf-optimized-N-([0-9]{1,6})$`)
)

func tier(r *reader, section string, d SQL) {
	path := section + ".tier"
	if !r.ok(path, section+".edition") {
		return
	}
	where := path
	if r.places[path].Line == 0 {
		where = section + ".edition"
	}
	plus := plusTier.FindStringSubmatch(d.Tier)
	switch {
	case d.Edition == "enterprise-plus" && plus == nil:
		r.at(where, "Tier is not in the edition", fmt.Sprintf("The edition `enterprise-plus` has no tier %s.", quote(d.Tier)), fmt.Sprintf("Write:\n    tier: db-perf-optimized-N-%d\nOr choose the edition `enterprise`.", plusCPUs(tierCPUs(d.Tier))))
		return
	case d.Edition == "enterprise" && plus != nil:
		n := plusCPUs(atoi(plus[1]))
		r.at(where, "Tier is not in the edition", fmt.Sprintf("The edition `enterprise` has no tier %s.", quote(d.Tier)), fmt.Sprintf("Write:\n    edition: enterprise-plus\nOr choose a tier of this edition, for instance `db-custom-%d-%d`.", min(n, 96), min(n, 96)*4096))
		return
	case plus != nil:
		if n := atoi(plus[1]); plusCPUs(n) != n {
			r.at(where, "Unknown tier", quote(path)+" cannot be "+quote(d.Tier)+": there is none with this number of vCPUs.", fmt.Sprintf("Did you mean `db-perf-optimized-N-%d`?", plusCPUs(n)))
		}
		return
	}
	m := customTier.FindStringSubmatch(d.Tier)
	if m == nil {
		return
	}
	cpus, memory := atoi(m[1]), atoi(m[2])
	good := min(96, max(1, cpus))
	if good > 1 {
		good += good % 2
	}
	low, high := max(3840, (good*922+255)/256*256), good*6656 // 0.9 and 6.5 GB for each vCPU
	instead := fmt.Sprintf("Did you mean %s?", quote(fmt.Sprintf("db-custom-%d-%d", good, clampMemory(memory, low, high))))
	var problem string
	switch {
	case cpus != good:
		problem = "It has 1 vCPU, or an even number of them up to 96."
	case memory%256 != 0:
		problem = fmt.Sprintf("Its memory is a multiple of 256 MB; %d is not.", memory)
	case memory < low || memory > high:
		problem = fmt.Sprintf("With %s it has %d to %d MB of memory.", count(cpus, "vCPU"), low, high)
	default:
		return
	}
	r.at(where, "Unknown tier", quote(path)+" cannot be "+quote(d.Tier)+". "+problem, instead)
}

func atoi(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil { // the patterns let nothing else through
		return 0
	}
	return n
}

func tierCPUs(tier string) int {
	if m := customTier.FindStringSubmatch(tier); m != nil {
		return atoi(m[1])
	}
	return 2
}

// plusCPUs gives the number of vCPUs of the smallest tier of the edition enterprise-plus that has n or more.
func plusCPUs(n int) int {
	sizes := []int{2, 4, 8, 16, 32, 48, 64, 80, 96, 128}
	for _, s := range sizes {
		if s >= n {
			return s
		}
	}
	return sizes[len(sizes)-1]
}

// connections holds the pools of all instances against what the databases allow. Dify would not fail at once, but
// under load, or in the middle of an update.
func connections(r *reader, s *Spec) {
	if !r.ok("compute.max", "compute.max_surge", "compute.zones", "compute.machine_type", "dify.api_workers", "dify.api_database_connections", "dify.worker_concurrency") {
		return
	}
	budget, err := dify.Divide(s.Machine(), s.Tuning())
	if err != nil {
		return // the machine type, or the number of processes, has its own fault
	}
	if few := s.Dify.APIDatabaseConnections; few < budget.APIWorkers {
		r.at("dify.api_database_connections", "Too few database connections",
			fmt.Sprintf("`dify.api_database_connections` is %d, and an instance's API has %d processes, each of which needs one at least.", few, budget.APIWorkers),
			fmt.Sprintf("Write %d or more, or fewer `dify.api_workers`.", budget.APIWorkers))
		return
	}
	n := s.Compute.Max + s.Compute.MaxSurge
	main, vector := budget.Connections(n)
	for _, d := range []struct {
		section    string
		need, have int
	}{{"database", main, s.Database.MaxConnections}, {"vector", vector, s.Vector.MaxConnections}} {
		path := d.section + ".max_connections"
		if !r.ok(path) || d.need <= d.have {
			continue
		}
		up := (d.need + 99) / 100 * 100
		remedy := fmt.Sprintf("Allow them, which restarts the database:\n    %s:\n      max_connections: %d\nOr lower `compute.max`.", d.section, up)
		if up > 10000 {
			remedy = "Lower `compute.max`: PostgreSQL does not work well with so many."
		}
		where := path
		for _, other := range []string{"compute.max", "compute.max_surge", "compute.zones", "dify.api_database_connections", "dify.worker_concurrency", "compute.machine_type"} {
			if s.Has(where) {
				break
			}
			where = other
		}
		r.at(where, "Too few database connections",
			fmt.Sprintf("%d instances, and %d more during an update, may open %d connections. %s is %d.", s.Compute.Max, s.Compute.MaxSurge, d.need, quote(path), d.have), remedy)
	}
}

// --- storage ---

func storage(r *reader, s *Spec) {
	if d := s.Storage.SoftDeleteDays; r.ok("storage.soft_delete_days") && d > 0 && d < 7 {
		r.at("storage.soft_delete_days", "Value out of range", fmt.Sprintf("`storage.soft_delete_days` cannot be %d. Google takes 0, which turns it off, or 7 to 90.", d), "Write:\n    soft_delete_days: 7")
	}
	for i, c := range s.Storage.CORS {
		at := fmt.Sprintf("storage.cors[%d]", i)
		for _, l := range []struct {
			key    string
			values []string
		}{{"origins", c.Origins}, {"methods", c.Methods}} {
			if r.ok(at+"."+l.key) && s.Has(at+"."+l.key) && len(l.values) == 0 {
				r.at(at+"."+l.key, "Missing value", quote(at+"."+l.key)+" is an empty list: the rule would allow nothing.", "Name some, or remove the rule.")
			}
		}
	}
	for i, rule := range s.Storage.Lifecycle {
		at := fmt.Sprintf("storage.lifecycle[%d]", i)
		if s.Has(at) && r.ok(at) {
			lifecycle(r, at, rule)
		}
	}
}

// vital begins the names of the objects that hold the keys of Dify's workspaces.
const vital = "privkeys/"

func lifecycle(r *reader, at string, rule LifecycleRule) {
	older := rule.NoncurrentDays > 0 || rule.NewerVersions > 0
	for i, p := range rule.Prefixes {
		if p == "" {
			r.at(fmt.Sprintf("%s.prefixes[%d]", at, i), "Missing value", "An empty prefix begins every name: the rule would hold for all objects.", "Write the beginning of a name, or remove the list.")
			return
		}
	}
	vitals := len(rule.Prefixes) == 0 || slices.ContainsFunc(rule.Prefixes, func(p string) bool {
		return strings.HasPrefix(vital, p) || strings.HasPrefix(p, vital)
	})
	switch {
	case rule.AgeDays == 0 && !older:
		r.at(at, "Rule without a condition", "The rule does not say when: it would hold for every object at once.", "Add a condition: `age_days`, `noncurrent_days` or `newer_versions`.")
	case rule.Action == "abort-uploads" && older:
		key := "noncurrent_days"
		if rule.NoncurrentDays == 0 {
			key = "newer_versions"
		}
		r.at(at+"."+key, "Condition does not fit the action", fmt.Sprintf("Unfinished uploads have no versions: %s does not go with `abort-uploads`.", quote(key)), "Use `age_days` alone:\n    action: abort-uploads\n    age_days: 7")
	case rule.Action == "delete" && !older && vitals:
		r.at(at, "Rule deletes files in use", fmt.Sprintf("The rule deletes current files by their age, those below %s too: they hold the keys without which Dify cannot read the credentials it stores.", quote(vital)),
			"Delete older versions only:\n    action: delete\n    noncurrent_days: 30\nOr name prefixes that do not hold keys.")
	}
}
