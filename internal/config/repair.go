package config

import (
	"net/netip"
	"regexp"
	"strings"

	"github.com/difyup/difyup/internal/spelling"
)

var digitsAfterHyphen = regexp.MustCompile(`-([0-9]+)$`)

// repair gives what the user most likely meant by a text that does not fit, or "".
func (s Shape) repair(text string) string {
	fixed := strings.TrimSpace(text)
	switch s.Name {
	case "stack", "project":
		fixed = strings.Trim(strings.NewReplacer("_", "-", ".", "-", " ", "-").Replace(strings.ToLower(fixed)), "-")
	case "region":
		fixed = digitsAfterHyphen.ReplaceAllString(strings.ToLower(fixed), "$1")
		if zone := shapes()["zone"]; zone.Fits(fixed) {
			fixed = fixed[:len(fixed)-2]
		}
	case "zone", "machine_type", "location", "tier":
		fixed = strings.ToLower(strings.ReplaceAll(fixed, "_", "-"))
		if s.Name == "tier" {
			fixed = strings.Replace(fixed, "-n-", "-N-", 1)
			if words := strings.TrimRight(fixed, "-0123456789"); !s.Fits(fixed) {
				fixed = spelling.Nearest(words, []string{"db-custom", "db-f1-micro", "db-g1-small", "db-perf-optimized-N"}) + fixed[len(words):]
			}
		}
		if s.Name == "machine_type" && !s.Fits(fixed) {
			fixed = spelling.Nearest(fixed, machineNames())
		}
	case "domain":
		fixed = strings.ToLower(fixed)
		if _, rest, ok := strings.Cut(fixed, "://"); ok {
			fixed = rest
		}
		if i := strings.IndexAny(fixed, "/:?#"); i >= 0 {
			fixed = fixed[:i]
		}
		fixed = strings.Trim(fixed, ".")
	case "cidr":
		if addr, err := netip.ParseAddr(fixed); err == nil && addr.Is4() {
			fixed += "/32"
		}
	case "time":
		if fixed == "24:00" {
			fixed = "00:00"
		}
		if len(fixed) == len("9:00") {
			fixed = "0" + fixed
		}
	case "bucket":
		fixed = strings.Trim(strings.ToLower(strings.TrimPrefix(fixed, "gs://")), "/")
	case "origin":
		if !strings.Contains(fixed, "://") {
			fixed = "https://" + fixed
		}
		if scheme, rest, ok := strings.Cut(fixed, "://"); ok {
			host, _, _ := strings.Cut(rest, "/")
			fixed = scheme + "://" + host
		}
	case "image":
		if _, rest, ok := strings.Cut(fixed, "://"); ok {
			fixed = rest
		}
	case "method":
		fixed = strings.ToUpper(fixed)
	case "variable":
		fixed = strings.NewReplacer("-", "_", ".", "_", " ", "_").Replace(strings.ToUpper(fixed))
	case "secret_version":
		// projects/P/secrets/NAME/versions/N, as Google writes it.
		fixed = strings.Replace(fixed, "/versions/", "@", 1)
		fixed = fixed[strings.LastIndexByte(fixed, '/')+1:]
		if !strings.ContainsAny(fixed, "@:") {
			fixed += "@1"
		}
		fixed = strings.Replace(fixed, ":", "@", 1)
	}
	if fixed == text || !s.Fits(fixed) {
		return ""
	}
	return fixed
}
