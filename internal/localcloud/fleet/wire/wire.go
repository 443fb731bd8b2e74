package wire

import (
	"encoding/json"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Reader gives resource bodies by key. Bodies are the caller's own copies.
type Reader interface {
	Get(key string) (map[string]any, bool)
	// List gives the bodies of one kind ("backendServices"), of all projects, ordered by key.
	List(kind string) []map[string]any
}

// Get reads the message at a key or link. It is false when there is none, or when its body does not have T's shape.
func Get[T any](r Reader, link string) (T, bool) {
	var zero T
	body, ok := r.Get(Key(link))
	if !ok {
		return zero, false
	}
	t, err := Decode[T](body)
	return t, err == nil
}

// List reads all messages of a kind, ordered by key; those that do not have T's shape are left out.
func List[T any](r Reader, kind string) []T {
	var all []T
	for _, body := range r.List(kind) {
		if t, err := Decode[T](body); err == nil {
			all = append(all, t)
		}
	}
	return all
}

// Decode gives a body the shape of T.
func Decode[T any](body map[string]any) (T, error) {
	var t T
	data, err := json.Marshal(body)
	if err != nil {
		return t, fmt.Errorf("encode body: %w", err)
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return t, fmt.Errorf("decode %T: %w", t, err)
	}
	return t, nil
}

// Base is the prefix of every self link.
const Base = "https://www.googleapis.com/compute/v1/"

// Link gives the self link of a key.
func Link(key string) string { return Base + key }

// Key gives the key of a link: what comes after the host and the API's version. A key stays as it is.
func Key(link string) string {
	if i := strings.Index(link, "projects/"); i >= 0 {
		return link[i:]
	}
	return link
}

// Name gives a key's or link's last part.
func Name(link string) string { return link[strings.LastIndexByte(link, '/')+1:] }

// Kind gives the last part but one of a key, which names the collection: "backendServices".
func Kind(key string) string {
	parts := strings.Split(key, "/")
	if len(parts) < 2 {
		return ""
	}
	return parts[len(parts)-2]
}

// Part gives the part of a key after the part named: Part(key, "zones") is the zone.
func Part(key, after string) string {
	parts := strings.Split(Key(key), "/")
	for i := 0; i+1 < len(parts); i++ {
		if parts[i] == after {
			return parts[i+1]
		}
	}
	return ""
}

// FixedOrPercent is a number of instances, or a share of a group.
type FixedOrPercent struct {
	Fixed   *int `json:"fixed"`
	Percent *int `json:"percent"`
}

// Of gives the number for a group of size n, a share rounded up; fallback when nothing is said.
func (f *FixedOrPercent) Of(n, fallback int) int {
	switch {
	case f == nil || f.Fixed == nil && f.Percent == nil:
		return fallback
	case f.Fixed != nil:
		return *f.Fixed
	}
	return int(math.Ceil(float64(n) * float64(*f.Percent) / 100))
}

// Version is one of the templates a group runs.
type Version struct {
	Name       string          `json:"name"`
	Template   string          `json:"instanceTemplate"`
	TargetSize *FixedOrPercent `json:"targetSize"`
}

// GroupManager is a regionInstanceGroupManager.
type GroupManager struct {
	Name             string    `json:"name"`
	Region           string    `json:"region"`
	SelfLink         string    `json:"selfLink"`
	BaseInstanceName string    `json:"baseInstanceName"`
	Template         string    `json:"instanceTemplate"`
	Versions         []Version `json:"versions"`
	TargetSize       int       `json:"targetSize"`
	NamedPorts       []struct {
		Name string `json:"name"`
		Port int    `json:"port"`
	} `json:"namedPorts"`
	Distribution struct {
		Zones []struct {
			Zone string `json:"zone"`
		} `json:"zones"`
	} `json:"distributionPolicy"`
	AutoHealing []struct {
		HealthCheck  string `json:"healthCheck"`
		InitialDelay int    `json:"initialDelaySec"` // seconds
	} `json:"autoHealingPolicies"`
	Update struct {
		Type           string          `json:"type"`          // PROACTIVE or OPPORTUNISTIC
		MinimalAction  string          `json:"minimalAction"` // NONE, REFRESH, RESTART or REPLACE
		Replacement    string          `json:"replacementMethod"`
		MaxSurge       *FixedOrPercent `json:"maxSurge"`
		MaxUnavailable *FixedOrPercent `json:"maxUnavailable"`
	} `json:"updatePolicy"`
	Lifecycle struct {
		OnFailure           string `json:"defaultActionOnFailure"` // REPAIR or DO_NOTHING
		ForceUpdateOnRepair string `json:"forceUpdateOnRepair"`    // YES or NO
	} `json:"instanceLifecyclePolicy"`
}

// MetadataItem is one pair of an instance's metadata.
type MetadataItem struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// InstanceTemplate is a template's properties, as far as an instance made from it shows them.
type InstanceTemplate struct {
	Properties struct {
		Description string            `json:"description"`
		MachineType string            `json:"machineType"` // bare name
		Labels      map[string]string `json:"labels"`
		Metadata    struct {
			Items []MetadataItem `json:"items"`
		} `json:"metadata"`
		Tags struct {
			Items []string `json:"items"`
		} `json:"tags"`
		ServiceAccounts []struct {
			Email  string   `json:"email"`
			Scopes []string `json:"scopes"`
		} `json:"serviceAccounts"`
		NetworkInterfaces []struct {
			Network    string `json:"network"`
			Subnetwork string `json:"subnetwork"`
		} `json:"networkInterfaces"`
		Disks []struct {
			Boot       bool   `json:"boot"`
			AutoDelete bool   `json:"autoDelete"`
			DeviceName string `json:"deviceName"`
			Initialize struct {
				SizeGB json.Number `json:"diskSizeGb"`
				Type   string      `json:"diskType"`
				Image  string      `json:"sourceImage"`
			} `json:"initializeParams"`
		} `json:"disks"`
	} `json:"properties"`
}

// Item gives a metadata value of the template, "" if it has none.
func (t *InstanceTemplate) Item(key string) string {
	for _, item := range t.Properties.Metadata.Items {
		if item.Key == key {
			return item.Value
		}
	}
	return ""
}

// HealthCheck is a health check of any type.
type HealthCheck struct {
	Name      string     `json:"name"`
	SelfLink  string     `json:"selfLink"`
	Type      string     `json:"type"`             // HTTP, HTTPS or TCP
	Interval  int        `json:"checkIntervalSec"` // seconds; 5 when absent
	Timeout   int        `json:"timeoutSec"`       // seconds; 5 when absent
	Healthy   int        `json:"healthyThreshold"`
	Unhealthy int        `json:"unhealthyThreshold"`
	HTTP      CheckProbe `json:"httpHealthCheck"`
	HTTPS     CheckProbe `json:"httpsHealthCheck"`
	TCP       CheckProbe `json:"tcpHealthCheck"`
}

// CheckProbe is what a health check asks.
type CheckProbe struct {
	Port          int    `json:"port"`
	PortName      string `json:"portName"`
	Specification string `json:"portSpecification"` // USE_FIXED_PORT, USE_NAMED_PORT or USE_SERVING_PORT
	Host          string `json:"host"`
	Path          string `json:"requestPath"`
	Response      string `json:"response"` // what the answer must begin with; "" for anything
}

// BackendService is a backend service.
type BackendService struct {
	Name         string   `json:"name"`
	SelfLink     string   `json:"selfLink"`
	Scheme       string   `json:"loadBalancingScheme"`
	PortName     string   `json:"portName"`
	Timeout      int      `json:"timeoutSec"` // seconds; 30 when absent
	HealthChecks []string `json:"healthChecks"`
	Affinity     string   `json:"sessionAffinity"`      // NONE, CLIENT_IP, GENERATED_COOKIE
	AffinityTTL  int      `json:"affinityCookieTtlSec"` // seconds; 0 for a session cookie
	Backends     []struct {
		Group    string   `json:"group"`
		Capacity *float64 `json:"capacityScaler"` // 1 when absent; 0 takes the group out
	} `json:"backends"`
	Draining struct {
		Timeout int `json:"drainingTimeoutSec"` // seconds
	} `json:"connectionDraining"`
}

// Redirect is a URL map's answer without a backend.
type Redirect struct {
	Host   string `json:"hostRedirect"`
	Path   string `json:"pathRedirect"`
	Prefix string `json:"prefixRedirect"`
	Code   string `json:"redirectResponseCode"`
	HTTPS  bool   `json:"httpsRedirect"`
	Strip  bool   `json:"stripQuery"`
}

// URLMap decides which backend service answers.
type URLMap struct {
	SelfLink        string    `json:"selfLink"`
	DefaultService  string    `json:"defaultService"`
	DefaultRedirect *Redirect `json:"defaultUrlRedirect"`
	HostRules       []struct {
		Hosts       []string `json:"hosts"`
		PathMatcher string   `json:"pathMatcher"`
	} `json:"hostRules"`
	PathMatchers []PathMatcher `json:"pathMatchers"`
}

// PathMatcher is the part of a URL map for some hosts.
type PathMatcher struct {
	Name            string    `json:"name"`
	DefaultService  string    `json:"defaultService"`
	DefaultRedirect *Redirect `json:"defaultUrlRedirect"`
	PathRules       []struct {
		Paths    []string  `json:"paths"`
		Service  string    `json:"service"`
		Redirect *Redirect `json:"urlRedirect"`
	} `json:"pathRules"`
}

// TargetProxy is a targetHttpsProxy or a targetHttpProxy, which has no certificates.
type TargetProxy struct {
	URLMap       string   `json:"urlMap"`
	Certificates []string `json:"sslCertificates"`
	Policy       string   `json:"sslPolicy"`
	KeepAlive    int      `json:"httpKeepAliveTimeoutSec"` // seconds; 610 when absent
}

// SSLPolicy limits what a TLS client may offer.
type SSLPolicy struct {
	Profile string   `json:"profile"`
	Min     string   `json:"minTlsVersion"`
	Custom  []string `json:"customFeatures"`
}

// SSLCertificate is a certificate without its key.
type SSLCertificate struct {
	Type    string `json:"type"`
	Managed struct {
		Domains []string `json:"domains"`
	} `json:"managed"`
}

// ForwardingRule binds an address and a port to a target proxy.
type ForwardingRule struct {
	Name      string `json:"name"`
	SelfLink  string `json:"selfLink"`
	Address   string `json:"IPAddress"`
	PortRange string `json:"portRange"` // "443-443"
	Target    string `json:"target"`
}

// Port gives the first port of the range, 0 if there is none.
func (f *ForwardingRule) Port() int {
	first, _, _ := strings.Cut(f.PortRange, "-")
	port, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	return port
}

// Autoscaler is an autoscaler of a group.
type Autoscaler struct {
	Name   string `json:"name"`
	Target string `json:"target"`
	Policy struct {
		Min  int    `json:"minNumReplicas"`
		Max  int    `json:"maxNumReplicas"`
		Cool *int   `json:"coolDownPeriodSec"` // seconds; 60 when absent
		Mode string `json:"mode"`              // ON, OFF, ONLY_SCALE_OUT (old: ONLY_UP)
		CPU  *struct {
			Target float64 `json:"utilizationTarget"` // 0.6 when absent
		} `json:"cpuUtilization"`
		Metrics       []Metric `json:"customMetricUtilizations"`
		Stabilization *int     `json:"stabilizationPeriodSec"` // seconds; 600 when absent
		ScaleIn       *struct {
			Max    *FixedOrPercent `json:"maxScaledInReplicas"`
			Window int             `json:"timeWindowSec"` // seconds
		} `json:"scaleInControl"`
	} `json:"autoscalingPolicy"`
}

// Metric is one that says of a whole group how many instances it should have.
type Metric struct {
	Metric     string  `json:"metric"`
	Filter     string  `json:"filter"`
	Assignment float64 `json:"singleInstanceAssignment"` // what one instance is there for
}

var machineVCPUs = regexp.MustCompile(`^(?:custom|[a-z0-9]+-(?:standard|highmem|highcpu|megamem|ultramem|custom))-([0-9]+)`)

// VCPUs gives the number of virtual CPUs of a machine type's name: 4 for e2-standard-4 or e2-custom-4-8192, 2 for the
// shared-core sizes of e2, 1 for what it does not know.
func VCPUs(machineType string) int {
	name := Name(machineType)
	if m := machineVCPUs.FindStringSubmatch(name); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil && n > 0 {
			return n
		}
	}
	switch name {
	case "e2-micro", "e2-small", "e2-medium":
		return 2
	}
	return 1
}

// Scaled shortens a real duration to the local cloud's time, but never below floor (or below d, if d is shorter than
// the floor and time is not scaled).
func Scaled(d time.Duration, scale float64, floor time.Duration) time.Duration {
	if scale >= 1 {
		return time.Duration(float64(d) * scale)
	}
	return max(time.Duration(float64(d)*scale), min(floor, d))
}
