// Command generate trims Google's discovery documents to what the local cloud serves, into internal/localcloud/schema/data.
// Run it from the module's root. Its output depends on nothing but the documents and the lists below.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// source is a document and the prefixes of the method IDs to keep.
type source struct {
	api, file string
	prefix    string // put before method IDs, where two versions would clash
	keep      []string
}

var sources = []source{
	{"compute", "compute/v1/compute-api.json", "", []string{
		"compute.networks.", "compute.subnetworks.", "compute.routers.", "compute.globalAddresses.", "compute.addresses.", "compute.firewalls.",
		"compute.healthChecks.", "compute.instanceTemplates.", "compute.regionInstanceGroupManagers.", "compute.instanceGroupManagers.",
		"compute.regionInstanceGroups.", "compute.instanceGroups.", "compute.regionAutoscalers.", "compute.autoscalers.", "compute.backendServices.",
		"compute.urlMaps.", "compute.targetHttpsProxies.", "compute.targetHttpProxies.", "compute.sslCertificates.", "compute.sslPolicies.",
		"compute.globalForwardingRules.", "compute.forwardingRules.", "compute.instances.", "compute.zones.", "compute.regions.", "compute.projects.get",
		"compute.images.get", "compute.machineTypes.", "compute.globalOperations.", "compute.regionOperations.", "compute.zoneOperations.",
		"compute.securityPolicies.", "compute.disks.list", "compute.disks.aggregatedList",
	}},
	{"sqladmin", "sqladmin/v1/sqladmin-api.json", "", sqlMethods},
	{"sqladmin-v1beta4", "sqladmin/v1beta4/sqladmin-api.json", "", sqlMethods},
	{"redis", "redis/v1/redis-api.json", "", []string{"redis.projects.locations.get", "redis.projects.locations.list", "redis.projects.locations.instances.", "redis.projects.locations.operations."}},
	{"storage", "storage/v1/storage-api.json", "", []string{"storage.buckets.", "storage.objects.", "storage.projects.serviceAccount."}},
	{"iam", "iam/v1/iam-api.json", "", []string{"iam.projects.serviceAccounts."}},
	{"cloudresourcemanager", "cloudresourcemanager/v1/cloudresourcemanager-api.json", "", []string{"cloudresourcemanager.projects."}},
	{"cloudresourcemanager-v3", "cloudresourcemanager/v3/cloudresourcemanager-api.json", "v3", []string{"cloudresourcemanager.projects."}},
	{"secretmanager", "secretmanager/v1/secretmanager-api.json", "", []string{"secretmanager.projects.secrets."}},
	{"dns", "dns/v1/dns-api.json", "", []string{"dns.managedZones.", "dns.resourceRecordSets.", "dns.changes.", "dns.managedZoneOperations.", "dns.projects."}},
	{"servicenetworking", "servicenetworking/v1/servicenetworking-api.json", "", []string{"servicenetworking.services.connections.", "servicenetworking.operations.get"}},
	{"serviceusage", "serviceusage/v1/serviceusage-api.json", "", []string{"serviceusage.services.", "serviceusage.operations."}},
	{"sts", "sts/v1/sts-api.json", "", []string{"sts.token"}},
	{"logging", "logging/v2/logging-api.json", "", []string{"logging.entries."}},
	{"monitoring", "monitoring/v3/monitoring-api.json", "", []string{"monitoring.projects.timeSeries.create", "monitoring.projects.timeSeries.list"}},
	{"cloudbilling", "cloudbilling/v1/cloudbilling-api.json", "", []string{"cloudbilling.projects.getBillingInfo"}},
}

var sqlMethods = []string{"sql.instances.", "sql.users.", "sql.databases.", "sql.operations.", "sql.tiers.", "sql.flags.", "sql.backupRuns.", "sql.connect.", "sql.projects.instances.getLatestRecoveryTime"}

// The discovery format, as far as it is used.
type document struct {
	RootURL     string
	ServicePath string
	Resources   map[string]resource
	Schemas     map[string]property
	Parameters  map[string]parameter
}

type resource struct {
	Methods   map[string]method
	Resources map[string]resource
}

type method struct {
	ID, Path, FlatPath, HTTPMethod string
	Parameters                     map[string]parameter
	Request, Response              struct {
		Ref string `json:"$ref"`
	}
	SupportsMediaUpload bool
}

type parameter struct {
	Location, Type string
	Enum           []string
	Repeated       bool
}

type property struct {
	Ref                  string              `json:"$ref,omitempty"`
	Type                 string              `json:"type,omitempty"`
	Format               string              `json:"format,omitempty"`
	Enum                 []string            `json:"enum,omitempty"`
	Items                *property           `json:"items,omitempty"`
	AdditionalProperties *property           `json:"additionalProperties,omitempty"`
	Properties           map[string]property `json:"properties,omitempty"`
}

// What is written; package schema reads it.
type output struct {
	Methods []outMethod         `json:"methods"`
	Types   map[string]property `json:"types"`
}

type outMethod struct {
	ID       string              `json:"id"`
	HTTP     string              `json:"http"`
	Path     string              `json:"path"`
	Named    map[string]string   `json:"named,omitempty"`
	Query    map[string]outParam `json:"query,omitempty"`
	Request  string              `json:"request,omitempty"`
	Response string              `json:"response,omitempty"`
	Upload   bool                `json:"upload,omitempty"`
}

type outParam struct {
	Type string   `json:"type"`
	Enum []string `json:"enum,omitempty"`
}

func main() {
	log.SetFlags(0)
	out := flag.String("out", "internal/localcloud/schema/data", "where to write")
	flag.Parse()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "google.golang.org/api").Output()
	if err != nil {
		log.Fatalf("find the module google.golang.org/api: %v", err)
	}
	for _, s := range sources {
		raw, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), s.file))
		if err != nil {
			log.Fatal(err)
		}
		var doc document
		if err := json.Unmarshal(raw, &doc); err != nil {
			log.Fatalf("%s: %v", s.file, err)
		}
		packed, err := pack(trim(s, doc))
		if err != nil {
			log.Fatalf("%s: %v", s.api, err)
		}
		if err := os.WriteFile(filepath.Join(*out, s.api+".json.gz"), packed, 0o644); err != nil {
			log.Fatal(err)
		}
	}
}

var (
	plural  = regexp.MustCompile(`\{([a-zA-Z]+?)(ies|s)Id\}`)
	names   = regexp.MustCompile(`\{\+(\w+)\}`)
	unnamed = strings.NewReplacer("{v1Id}/{v1Id1}", "projects/{project}")
)

func trim(s source, doc document) output {
	o := output{Types: map[string]property{}}
	var walk func(r resource)
	walk = func(r resource) {
		for _, m := range r.Methods {
			if !slices.ContainsFunc(s.keep, func(p string) bool { return strings.HasPrefix(m.ID, p) }) {
				continue
			}
			path := m.FlatPath
			if path == "" {
				path = m.Path
			}
			path = plural.ReplaceAllStringFunc(unnamed.Replace(path), func(name string) string {
				parts := plural.FindStringSubmatch(name)
				if parts[2] == "ies" {
					return "{" + parts[1] + "y}"
				}
				return "{" + parts[1] + "}"
			})
			om := outMethod{ID: m.ID, HTTP: m.HTTPMethod, Path: "/" + doc.ServicePath + path, Request: m.Request.Ref, Response: m.Response.Ref, Upload: m.SupportsMediaUpload, Query: map[string]outParam{}}
			if at := names.FindStringSubmatchIndex(m.Path); at != nil && m.Request.Ref != "" {
				name := strings.TrimSuffix(strings.TrimPrefix(path, m.Path[:at[0]]), m.Path[at[1]:])
				om.Named = map[string]string{m.Path[at[2]:at[3]]: name}
			}
			if s.prefix != "" {
				om.ID = strings.Replace(om.ID, ".", "."+s.prefix+".", 1)
			}
			for _, params := range []map[string]parameter{doc.Parameters, m.Parameters} {
				for name, p := range params {
					if p.Location == "query" {
						om.Query[name] = outParam{Type: p.Type, Enum: p.Enum}
					}
				}
			}
			o.Methods = append(o.Methods, om)
		}
		for _, sub := range r.Resources {
			walk(sub)
		}
	}
	walk(resource{Resources: doc.Resources})
	slices.SortFunc(o.Methods, func(a, b outMethod) int { return strings.Compare(a.ID+a.Path, b.ID+b.Path) })

	var reach func(name string)
	var visit func(p property)
	visit = func(p property) {
		if p.Ref != "" {
			reach(p.Ref)
		}
		for _, sub := range p.Properties {
			visit(sub)
		}
		if p.Items != nil {
			visit(*p.Items)
		}
		if p.AdditionalProperties != nil {
			visit(*p.AdditionalProperties)
		}
	}
	reach = func(name string) {
		if _, seen := o.Types[name]; seen || name == "" {
			return
		}
		o.Types[name] = doc.Schemas[name]
		visit(doc.Schemas[name])
	}
	for _, m := range o.Methods {
		reach(m.Request) // answers are ours to shape: only what clients send is checked
	}
	return o
}

func pack(o output) ([]byte, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(raw); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}
