//go:build linux

package conformance_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/oauth2"
	"google.golang.org/api/cloudresourcemanager/v1"
	"google.golang.org/api/compute/v1"
	"google.golang.org/api/dns/v1"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iam/v1"
	"google.golang.org/api/logging/v2"
	"google.golang.org/api/monitoring/v3"
	"google.golang.org/api/option"
	"google.golang.org/api/redis/v1"
	"google.golang.org/api/secretmanager/v1"
	"google.golang.org/api/servicenetworking/v1"
	"google.golang.org/api/serviceusage/v1"
	"google.golang.org/api/sqladmin/v1"
	"google.golang.org/api/storage/v1"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/test/cloud"
)

const project = "conformance"

// clients are Google's own.
type clients struct {
	t        *testing.T
	token    string
	compute  *compute.Service
	sql      *sqladmin.Service
	redis    *redis.Service
	storage  *storage.Service
	secrets  *secretmanager.Service
	dns      *dns.Service
	iam      *iam.Service
	crm      *cloudresourcemanager.Service
	peering  *servicenetworking.APIService
	services *serviceusage.Service
	logging  *logging.Service
	metrics  *monitoring.Service
}

func connect(t *testing.T, info localcloud.Info) *clients {
	t.Helper()
	c := &clients{t: t, token: info.Token}
	make := func(path string) []option.ClientOption {
		return []option.ClientOption{option.WithEndpoint(info.URL + path), option.WithTokenSource(oauth2.StaticTokenSource(&oauth2.Token{AccessToken: info.Token}))}
	}
	ctx := t.Context()
	var errs [12]error
	c.compute, errs[0] = compute.NewService(ctx, make("compute/v1/")...)
	c.sql, errs[1] = sqladmin.NewService(ctx, make("")...)
	c.redis, errs[2] = redis.NewService(ctx, make("")...)
	c.storage, errs[3] = storage.NewService(ctx, make("storage/v1/")...)
	c.secrets, errs[4] = secretmanager.NewService(ctx, make("")...)
	c.dns, errs[5] = dns.NewService(ctx, make("")...)
	c.iam, errs[6] = iam.NewService(ctx, make("")...)
	c.crm, errs[7] = cloudresourcemanager.NewService(ctx, make("")...)
	c.peering, errs[8] = servicenetworking.NewService(ctx, make("")...)
	c.services, errs[9] = serviceusage.NewService(ctx, make("")...)
	c.logging, errs[10] = logging.NewService(ctx, make("")...)
	c.metrics, errs[11] = monitoring.NewService(ctx, make("")...)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return c
}

// refused checks that a call was refused with a code and, somewhere in reason or sentence, a text.
func (c *clients) refused(what string, err error, code int, text string) {
	c.t.Helper()
	var e *googleapi.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Error()+e.Body, text) {
		c.t.Errorf("%s: got %v; want %d with %q", what, err, code, text)
	}
}

// done waits for a Compute operation, which must not be done at once, and gives its error.
func (c *clients) done(op *compute.Operation, err error) error {
	c.t.Helper()
	if err != nil {
		return err
	}
	if op.Status == "DONE" {
		c.t.Errorf("operation %s on %s was done at once", op.OperationType, op.TargetLink)
	}
	for op.Status != "DONE" {
		if op.Region != "" {
			op, err = c.compute.RegionOperations.Wait(project, op.Region[strings.LastIndexByte(op.Region, '/')+1:], op.Name).Do()
		} else {
			op, err = c.compute.GlobalOperations.Wait(project, op.Name).Do()
		}
		if err != nil {
			return err
		}
	}
	if op.Error != nil {
		return errors.New(op.Error.Errors[0].Code + ": " + op.Error.Errors[0].Message)
	}
	return nil
}

func (c *clients) must(what string, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

func (c *clients) sqlDone(op *sqladmin.Operation, err error) error {
	c.t.Helper()
	for err == nil && op.Status != "DONE" {
		time.Sleep(5 * time.Millisecond)
		op, err = c.sql.Operations.Get(project, op.Name).Do()
	}
	if err == nil && op.Error != nil {
		return errors.New(op.Error.Errors[0].Message)
	}
	return err
}

// TestGoogleClients has Google's Go clients use the local cloud, and checks above all that it says no where Google does.
func TestGoogleClients(t *testing.T) {
	info := cloud.Start(t)
	c := connect(t, info)

	// Nothing works before its API is enabled, and all that is needed to enable it does.
	_, err := c.compute.Networks.List(project).Do()
	c.refused("compute before it is enabled", err, 403, "SERVICE_DISABLED")
	_, err = c.logging.Entries.List(&logging.ListLogEntriesRequest{ResourceNames: []string{"projects/" + project}}).Do()
	c.refused("logging before it is enabled", err, 403, "SERVICE_DISABLED")
	names := []string{"compute", "sqladmin", "redis", "servicenetworking", "dns", "secretmanager", "iam", "storage", "cloudresourcemanager", "logging", "monitoring"}
	for i := range names {
		names[i] += ".googleapis.com"
	}
	c.enable(names...)
	for _, step := range []struct {
		name string
		test func(*clients)
	}{
		{"compute", (*clients).testCompute}, {"sql", (*clients).testSQL}, {"redis", (*clients).testRedis}, {"storage", (*clients).testStorage},
		{"secrets", (*clients).testSecrets}, {"iam", (*clients).testIAM}, {"dns", (*clients).testDNS}, {"logging", (*clients).testLogging}, {"monitoring", (*clients).testMonitoring},
	} {
		t.Run(step.name, func(t *testing.T) {
			of := *c
			of.t = t
			step.test(&of)
		})
	}
}

// enable enables APIs and waits until they are.
func (c *clients) enable(names ...string) {
	c.t.Helper()
	op, err := c.services.Services.BatchEnable("projects/"+project, &serviceusage.BatchEnableServicesRequest{ServiceIds: names}).Do()
	for c.must("enable", err); !op.Done; {
		time.Sleep(5 * time.Millisecond)
		op, err = c.services.Operations.Get(op.Name).Do()
		c.must("enable", err)
	}
}

func (c *clients) testLogging() {
	const log = "projects/" + project + "/logs/things"
	at := func(second int, id, text, container string) *logging.LogEntry {
		return &logging.LogEntry{Timestamp: fmt.Sprintf("2026-11-28T10:00:%02d.5Z", second), InsertId: id, TextPayload: text, Labels: map[string]string{"container": container}}
	}
	write := &logging.WriteLogEntriesRequest{
		LogName: log, Resource: &logging.MonitoredResource{Type: "gce_instance", Labels: map[string]string{"zone": "z"}}, Labels: map[string]string{"stack": "demo", "container": "none"},
		Entries: []*logging.LogEntry{at(2, "b", "two", "api"), at(1, "a", "one", "web"), at(3, "c", "three", "api")},
	}
	for range 2 { // what is known by its time and ID is there once
		_, err := c.logging.Entries.Write(write).Do()
		c.must("write", err)
	}
	list := func(filter, order string, size int64) (texts []string) {
		c.t.Helper()
		req := &logging.ListLogEntriesRequest{ResourceNames: []string{"projects/" + project}, Filter: filter, OrderBy: order, PageSize: size}
		c.must("list", c.logging.Entries.List(req).Pages(c.t.Context(), func(page *logging.ListLogEntriesResponse) error {
			for _, e := range page.Entries {
				if e.LogName != log || e.Resource.Type != "gce_instance" || e.Labels["stack"] != "demo" || e.ReceiveTimestamp == "" {
					c.t.Errorf("an entry is %+v", e)
				}
				texts = append(texts, e.TextPayload)
			}
			return nil
		}))
		return texts
	}
	for _, q := range []struct {
		filter, order string
		size          int64
		want          string
	}{
		{"", "", 0, "one two three"}, {"", "timestamp desc", 1, "three two one"}, {`labels.container="api"`, "", 1, "two three"},
		{`timestamp>="2026-11-28T10:00:02.5Z" AND labels.container!=api`, "", 0, ""}, {`labels.stack="demo" labels.container=("web" OR "none")`, "", 0, "one"},
	} {
		if got := strings.Join(list(q.filter, q.order, q.size), " "); got != q.want {
			c.t.Errorf("%s %s gives %q, want %q", q.filter, q.order, got, q.want)
		}
	}
	// A bad entry is refused with all, or alone where that is wished for.
	write.Entries = []*logging.LogEntry{at(4, "d", "four", "api"), {Timestamp: "2126-11-28T10:00:00Z", TextPayload: "of the future"}}
	_, err := c.logging.Entries.Write(write).Do()
	c.refused("an entry of the future", err, 400, "24 hours")
	if got := len(list("", "", 0)); got != 3 {
		c.t.Errorf("of a refused request %d entries were taken", got-3)
	}
	write.PartialSuccess = true
	_, err = c.logging.Entries.Write(write).Do()
	c.refused("an entry of the future, alone", err, 400, "WriteLogEntriesPartialErrors")
	if got := strings.Join(list(`labels.container:"AP" timestamp>"2026-11-28T10:00:03.5Z"`, "", 0), " "); got != "four" {
		c.t.Errorf("beside a refused entry there came %q", got)
	}
	write.Entries = []*logging.LogEntry{{LogName: "projects/other/logs/things", TextPayload: "x"}}
	_, err = c.logging.Entries.Write(write).Do()
	c.refused("an entry of another project", err, 400, "one project")
	write.Entries, write.Resource = []*logging.LogEntry{{TextPayload: "x"}}, nil
	_, err = c.logging.Entries.Write(write).Do()
	c.refused("an entry of nothing", err, 400, "resource")
	_, err = c.logging.Entries.List(&logging.ListLogEntriesRequest{ResourceNames: []string{"folders/1"}}).Do()
	c.refused("a folder's entries", err, 400, "of projects")
	_, err = c.logging.Entries.List(&logging.ListLogEntriesRequest{ResourceNames: []string{"projects/" + project}, OrderBy: "severity"}).Do()
	c.refused("an order that there is not", err, 400, "orderBy")
}

func (c *clients) testMonitoring() {
	now := time.Now().Truncate(time.Second)
	gauge := func(ago time.Duration, n int64, node string) *monitoring.TimeSeries {
		return &monitoring.TimeSeries{
			Metric: &monitoring.Metric{Type: "custom.googleapis.com/things"}, MetricKind: "GAUGE", ValueType: "INT64",
			Resource: &monitoring.MonitoredResource{Type: "generic_node", Labels: map[string]string{"node_id": node}},
			Points:   []*monitoring.Point{{Interval: &monitoring.TimeInterval{EndTime: now.Add(-ago).UTC().Format(time.RFC3339)}, Value: &monitoring.TypedValue{Int64Value: &n}}},
		}
	}
	create := func(all ...*monitoring.TimeSeries) error {
		_, err := c.metrics.Projects.TimeSeries.Create("projects/"+project, &monitoring.CreateTimeSeriesRequest{TimeSeries: all}).Do()
		return err
	}
	list := func(filter string, since time.Duration) string {
		c.t.Helper()
		got, err := c.metrics.Projects.TimeSeries.List("projects/" + project).Filter(filter).
			IntervalStartTime(now.Add(-since).UTC().Format(time.RFC3339)).IntervalEndTime(now.UTC().Format(time.RFC3339)).Do()
		c.must("list", err)
		var text []string
		for _, s := range got.TimeSeries {
			values := s.Resource.Labels["node_id"]
			for _, p := range s.Points {
				values += fmt.Sprint(" ", *p.Value.Int64Value)
			}
			text = append(text, values)
		}
		return strings.Join(text, ", ")
	}
	c.must("write", create(gauge(time.Minute, 7, "a"), gauge(time.Minute, 1, "b")))
	c.must("write again", create(gauge(30*time.Second, 0, "a")))
	for _, q := range []struct {
		filter string
		since  time.Duration
		want   string
	}{
		{`metric.type = "custom.googleapis.com/things"`, time.Hour, "a 0 7, b 1"}, {`metric.type="custom.googleapis.com/things" AND resource.labels.node_id="b"`, time.Hour, "b 1"},
		{`metric.type = "custom.googleapis.com/things" AND resource.type = "generic_node"`, 40 * time.Second, "a 0"}, {`metric.type = "custom.googleapis.com/other"`, time.Hour, ""},
	} {
		if got := list(q.filter, q.since); got != q.want {
			c.t.Errorf("%s gives %q, want %q", q.filter, got, q.want)
		}
	}
	c.refused("a point of before", create(gauge(45*time.Second, 3, "a")), 400, "in order")
	c.refused("a point of long ago", create(gauge(48*time.Hour, 3, "c")), 400, "25 hours")
	foreign := gauge(0, 3, "a")
	foreign.Metric.Type = "compute.googleapis.com/instance/cpu/utilization"
	c.refused("a metric of Google's", create(foreign, gauge(0, 9, "a")), 400, "no custom metric")
	if got := list(`metric.type = "custom.googleapis.com/things" AND resource.labels.node_id="a"`, time.Second); got != "a 9" {
		c.t.Errorf("beside a refused one there came %q", got)
	}
	_, err := c.metrics.Projects.TimeSeries.List("projects/" + project).Filter(`metric.type = starts_with("custom")`).IntervalEndTime(now.UTC().Format(time.RFC3339)).Do()
	c.refused("a function in a filter", err, 400, "equalities")
	_, err = c.metrics.Projects.TimeSeries.List("projects/" + project).Filter(`resource.type = "generic_node"`).IntervalEndTime(now.UTC().Format(time.RFC3339)).Do()
	c.refused("a filter without a metric", err, 400, "metric.type")
}

func (c *clients) testCompute() {
	networks, hcs := c.compute.Networks, c.compute.HealthChecks
	network := &compute.Network{Name: "net", AutoCreateSubnetworks: false, ForceSendFields: []string{"AutoCreateSubnetworks"}}
	_, err := networks.Get(project, "net").Do()
	c.refused("get what is not there", err, 404, "The resource 'projects/conformance/global/networks/net' was not found")
	_, err = networks.Insert(project, &compute.Network{Name: "Bad_Name"}).Do()
	c.refused("a bad name", err, 400, "Bad_Name")
	c.must("insert", c.done(networks.Insert(project, network).Do()))
	_, err = networks.Insert(project, network).Do()
	c.refused("insert again", err, 409, "already exists")
	got, err := networks.Get(project, "net").Do()
	c.must("get", err)
	if got.SelfLink != "https://www.googleapis.com/compute/v1/projects/conformance/global/networks/net" || got.Id == 0 || got.Kind != "compute#network" {
		c.t.Errorf("the network is %+v", got)
	}
	twice := &compute.Network{Name: "twice", ForceSendFields: []string{"AutoCreateSubnetworks"}}
	first, err := networks.Insert(project, twice).RequestId("00000000-0000-4000-8000-000000000001").Do()
	c.must("insert with a request ID", err)
	second, err := networks.Insert(project, twice).RequestId("00000000-0000-4000-8000-000000000001").Do()
	if err != nil || first.Name != second.Name {
		c.t.Errorf("the same request ID gave %v, %v", second, err)
	}
	c.must("wait", c.done(first, nil))

	subnet := &compute.Subnetwork{Name: "sub", Network: got.SelfLink, IpCidrRange: "10.0.0.0/24"}
	c.must("subnet", c.done(c.compute.Subnetworks.Insert(project, "us-west1", subnet).Do()))
	overlap := &compute.Subnetwork{Name: "sub2", Network: got.SelfLink, IpCidrRange: "10.0.0.128/25"}
	if err := c.done(c.compute.Subnetworks.Insert(project, "us-west1", overlap).Do()); err == nil || !strings.Contains(err.Error(), "10.0.0.128/25") {
		c.t.Errorf("an overlapping subnet: %v", err)
	}
	s, err := c.compute.Subnetworks.Get(project, "us-west1", "sub").Do()
	c.must("get subnet", err)
	_, err = c.compute.Subnetworks.Patch(project, "us-west1", "sub", &compute.Subnetwork{Fingerprint: "AAAAAAAAAAA=", EnableFlowLogs: true}).Do()
	c.refused("a stale fingerprint", err, 412, "conditionNotMet")
	c.must("patch", c.done(c.compute.Subnetworks.Patch(project, "us-west1", "sub", &compute.Subnetwork{Fingerprint: s.Fingerprint, LogConfig: &compute.SubnetworkLogConfig{Enable: true}}).Do()))
	if err := c.done(networks.Delete(project, "net").Do()); err == nil || !strings.Contains(err.Error(), "already being used by") {
		c.t.Errorf("deleting a network in use: %v", err)
	}

	hc := &compute.HealthCheck{Name: "hc", Type: "HTTP", HttpHealthCheck: &compute.HTTPHealthCheck{Port: 1080, RequestPath: "/health"}}
	c.must("health check", c.done(hcs.Insert(project, hc).Do()))
	_, err = hcs.Insert(project, &compute.HealthCheck{Name: "hc2", Type: "CARRIER_PIGEON"}).Do()
	c.refused("a bad enum value", err, 400, "CARRIER_PIGEON")
	_, err = c.compute.BackendServices.Insert(project, &compute.BackendService{Name: "be", HealthChecks: []string{"projects/conformance/global/healthChecks/none"}}).Do()
	c.refused("a reference to nothing", err, 404, "healthChecks/none")
	_, err = c.compute.BackendServices.Insert(project, &compute.BackendService{
		Name: "be", HealthChecks: []string{"global/healthChecks/hc"}, Backends: []*compute.Backend{{Group: "projects/conformance/regions/r/instanceGroups/g"}},
	}).Do()
	c.refused("a backend's group that is no full URL", err, 400, "Invalid value for field 'resource.backends[0].group': 'projects/conformance/regions/r/instanceGroups/g'. The URL is malformed.")
	be := &compute.BackendService{Name: "be", Protocol: "HTTP", LoadBalancingScheme: "EXTERNAL_MANAGED", HealthChecks: []string{"projects/conformance/global/healthChecks/hc"}}
	c.must("backend service", c.done(c.compute.BackendServices.Insert(project, be).Do()))
	_, err = hcs.Delete(project, "hc").Do()
	c.refused("deleting a health check in use", err, 400, "The health_check resource 'projects/conformance/global/healthChecks/hc' is already being used by 'projects/conformance/global/backendServices/be'")
	c.must("delete", c.done(c.compute.BackendServices.Delete(project, "be").Do()))
	c.testEdge(got.SelfLink)
	c.must("delete", c.done(hcs.Delete(project, "hc").Do()))
	list, err := networks.List(project).MaxResults(1).Do()
	if err != nil || len(list.Items) != 1 || list.NextPageToken == "" {
		c.t.Errorf("a page of one: %v, %v", list, err)
	}

	// What the client cannot even write.
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.compute.BasePath+"projects/conformance/global/networks", strings.NewReader(`{"name":"x","nonsense":1}`))
	c.must("post", err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := http.DefaultClient.Do(req)
	c.must("post", err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 400 || !bytes.Contains(raw, []byte(`nonsense`)) {
		c.t.Errorf("an unknown field: %s %s", resp.Status, raw)
	}

	// Private services access, which databases need.
	c.must("range", c.done(c.compute.GlobalAddresses.Insert(project, &compute.Address{
		Name: "range", Purpose: "VPC_PEERING", AddressType: "INTERNAL", PrefixLength: 16, Network: got.SelfLink,
	}).Do()))
	c.must("connect", c.peered("range"))
}

// testEdge has a load balancer stand before a group in a network, and checks what it needs.
func (c *clients) testEdge(network string) {
	groups, services := c.compute.RegionInstanceGroupManagers, c.compute.BackendServices
	c.must("template", c.done(c.compute.InstanceTemplates.Insert(project, &compute.InstanceTemplate{Name: "t", Properties: &compute.InstanceProperties{
		MachineType: "e2-small", NetworkInterfaces: []*compute.NetworkInterface{{Network: network}},
		Disks: []*compute.AttachedDisk{{Boot: true, InitializeParams: &compute.AttachedDiskInitializeParams{SourceImage: "projects/debian-cloud/global/images/family/debian-12"}}},
	}}).Do()))
	c.must("group", c.done(groups.Insert(project, "us-west1", &compute.InstanceGroupManager{
		Name: "g", InstanceTemplate: "global/instanceTemplates/t", ForceSendFields: []string{"TargetSize"},
	}).Do()))
	group, err := groups.Get(project, "us-west1", "g").Do()
	c.must("get group", err)

	const want = "Invalid value for field 'resource.healthChecks': ''."
	be := &compute.BackendService{Name: "be", LoadBalancingScheme: "EXTERNAL_MANAGED"}
	c.must("neither backends nor a health check", c.done(services.Insert(project, be).Do()))
	s, err := services.Get(project, "be").Do()
	c.must("get", err)
	backends := []*compute.Backend{{Group: group.InstanceGroup}}
	_, err = services.Patch(project, "be", &compute.BackendService{Fingerprint: s.Fingerprint, Backends: backends}).Do()
	c.refused("a group for a service without a health check", err, 400, want)
	c.must("delete", c.done(services.Delete(project, "be").Do()))
	be.Backends = backends
	_, err = services.Insert(project, be).Do()
	c.refused("a group without a health check", err, 400, want)
	be.HealthChecks = []string{"global/healthChecks/hc"}
	c.must("a group with a health check", c.done(services.Insert(project, be).Do()))
	s, err = services.Get(project, "be").Do()
	c.must("get", err)
	for _, cleared := range []*compute.BackendService{{ForceSendFields: []string{"HealthChecks"}}, {NullFields: []string{"HealthChecks"}}} {
		cleared.Fingerprint = s.Fingerprint
		_, err = services.Patch(project, "be", cleared).Do()
		c.refused("taking the health check away", err, 400, want)
	}
	c.must("URL map", c.done(c.compute.UrlMaps.Insert(project, &compute.UrlMap{Name: "m", DefaultService: "global/backendServices/be"}).Do()))
	c.must("proxy", c.done(c.compute.TargetHttpProxies.Insert(project, &compute.TargetHttpProxy{Name: "p", UrlMap: "global/urlMaps/m"}).Do()))
	c.must("address", c.done(c.compute.GlobalAddresses.Insert(project, &compute.Address{Name: "front"}).Do()))
	front, err := c.compute.GlobalAddresses.Get(project, "front").Do()
	c.must("get address", err)
	for _, use := range []string{front.Address, front.SelfLink} {
		c.must("rule", c.done(c.compute.GlobalForwardingRules.Insert(project, &compute.ForwardingRule{
			Name: "r", IPAddress: use, PortRange: "80", Target: "global/targetHttpProxies/p", LoadBalancingScheme: "EXTERNAL_MANAGED",
		}).Do()))
		_, err = c.compute.GlobalAddresses.Delete(project, "front").Do()
		c.refused("deleting an address that a rule uses as "+use, err, 400,
			"The address resource 'projects/conformance/global/addresses/front' is already being used by 'projects/conformance/global/forwardingRules/r'")
		c.must("delete", c.done(c.compute.GlobalForwardingRules.Delete(project, "r").Do()))
	}
	c.must("delete", c.done(c.compute.GlobalAddresses.Delete(project, "front").Do()))
	c.must("delete", c.done(c.compute.TargetHttpProxies.Delete(project, "p").Do()))
	c.must("delete", c.done(c.compute.UrlMaps.Delete(project, "m").Do()))
	c.must("delete", c.done(services.Delete(project, "be").Do()))
	c.must("delete", c.done(groups.Delete(project, "us-west1", "g").Do()))
	c.must("delete", c.done(c.compute.InstanceTemplates.Delete(project, "t").Do()))
}

// peered makes the private connection of the network "net".
func (c *clients) peered(ranges ...string) error {
	p, err := c.crm.Projects.Get(project).Do()
	if err != nil {
		return err
	}
	network := fmt.Sprintf("projects/%d/global/networks/net", p.ProjectNumber)
	op, err := c.peering.Services.Connections.Create("services/servicenetworking.googleapis.com", &servicenetworking.Connection{Network: network, ReservedPeeringRanges: ranges}).Do()
	for err == nil && !op.Done {
		time.Sleep(5 * time.Millisecond)
		op, err = c.peering.Operations.Get(op.Name).Do()
	}
	if err == nil && op.Error != nil {
		return errors.New(op.Error.Message)
	}
	return err
}

// testFlags reads Cloud SQL's list of flags.
func (c *clients) testFlags() {
	all, err := c.sql.Flags.List().DatabaseVersion("POSTGRES_17").Do()
	c.must("list the flags", err)
	i := slices.IndexFunc(all.Items, func(f *sqladmin.Flag) bool { return f.Name == "max_connections" })
	if i < 0 || len(all.Items) < 150 {
		c.t.Fatalf("%d flags", len(all.Items))
	}
	if f := all.Items[i]; f.Type != "INTEGER" || f.MinValue != 14 || f.MaxValue != 262143 || !f.RequiresRestart || !slices.Contains(f.AppliesTo, "POSTGRES_17") || f.Kind != "sql#flag" {
		c.t.Errorf("max_connections is %+v", f)
	}
	if slices.ContainsFunc(all.Items, func(f *sqladmin.Flag) bool { return f.Name == "old_snapshot_threshold" }) {
		c.t.Error("PostgreSQL 17 has a flag of 16")
	}
	if none, err := c.sql.Flags.List().DatabaseVersion("MYSQL_8_0").Do(); err != nil || len(none.Items) != 0 {
		c.t.Errorf("flags of MySQL: %v, %v", none, err)
	}
}

func (c *clients) testSQL() {
	body := func(name string, change func(*sqladmin.DatabaseInstance)) *sqladmin.DatabaseInstance {
		i := &sqladmin.DatabaseInstance{Name: name, Region: "us-west1", DatabaseVersion: "POSTGRES_16", Settings: &sqladmin.Settings{
			Tier: "db-custom-1-3840", Edition: "ENTERPRISE", DeletionProtectionEnabled: true,
			IpConfiguration: &sqladmin.IpConfiguration{PrivateNetwork: "projects/conformance/global/networks/net", ForceSendFields: []string{"Ipv4Enabled"}},
		}}
		if change != nil {
			change(i)
		}
		return i
	}
	insert := func(i *sqladmin.DatabaseInstance) error { return c.sqlDone(c.sql.Instances.Insert(project, i).Do()) }
	c.refused("the default edition with another's tier", insert(body("x", func(i *sqladmin.DatabaseInstance) { i.Settings.Edition = "" })), 400, "Invalid Tier (db-custom-1-3840) for (ENTERPRISE_PLUS) Edition")
	c.refused("a network without a connection", insert(body("x", func(i *sqladmin.DatabaseInstance) {
		i.Settings.IpConfiguration.PrivateNetwork = "projects/conformance/global/networks/twice"
	})), 400, "NETWORK_NOT_PEERED")
	flags := func(name, value string) *sqladmin.DatabaseInstance {
		return body("x", func(i *sqladmin.DatabaseInstance) {
			i.Settings.DatabaseFlags = []*sqladmin.DatabaseFlags{{Name: name, Value: value}}
		})
	}
	c.refused("a flag that would run a program", insert(flags("archive_command", "true")), 400, "invalidFlagName")
	c.refused("a flag of another version", insert(flags("old_snapshot_threshold ", "1")), 400, "invalidFlagName")
	c.refused("a flag's value", insert(flags("max_connections", "1")), 400, "invalidFlagValue")
	c.testFlags()
	_, err := c.sql.Instances.Get(project, "db").Do()
	c.refused("an instance that is not there", err, 404, "instanceDoesNotExist")

	op, err := c.sql.Instances.Insert(project, body("db", nil)).Do()
	c.must("insert", err)
	if op.Status == "DONE" {
		c.t.Error("an instance was there at once")
	}
	if i, err := c.sql.Instances.Get(project, "db").Do(); err != nil || i.State != "PENDING_CREATE" || len(i.IpAddresses) > 0 {
		c.t.Errorf("under creation it is %v, %v", i, err)
	}
	_, err = c.sql.Databases.Insert(project, "db", &sqladmin.Database{Name: "x"}).Do()
	c.refused("a database in an instance under creation", err, 400, "instance is not running")
	c.must("create", c.sqlDone(op, nil))
	i, err := c.sql.Instances.Get(project, "db").Do()
	c.must("get", err)
	if i.State != "RUNNABLE" || len(i.IpAddresses) != 1 || i.IpAddresses[0].Type != "PRIVATE" || i.Settings.SettingsVersion == 0 {
		c.t.Errorf("it is %+v", i)
	}
	first, err := c.sql.Users.Insert(project, "db", &sqladmin.User{Name: "u", Password: "secret-password"}).Do()
	c.must("user", err)
	_, err = c.sql.Databases.Insert(project, "db", &sqladmin.Database{Name: "d"}).Do()
	c.refused("two operations at once", err, 409, "operationInProgress")
	c.must("user", c.sqlDone(first, nil))
	c.must("database", c.sqlDone(c.sql.Databases.Insert(project, "db", &sqladmin.Database{Name: "d"}).Do()))
	users, err := c.sql.Users.List(project, "db").Do()
	if err != nil || len(users.Items) != 2 || slices.ContainsFunc(users.Items, func(u *sqladmin.User) bool { return u.Password != "" }) {
		c.t.Errorf("the users are %v, %v", users, err)
	}
	c.testAuthorities(i)
	_, err = c.sql.Instances.Patch(project, "db", &sqladmin.DatabaseInstance{Settings: &sqladmin.Settings{DataDiskSizeGb: 5}}).Do()
	c.refused("a smaller disk", err, 400, "shrink")
	for what, change := range map[string]*sqladmin.DatabaseInstance{
		"a version with a tier":       {DatabaseVersion: "POSTGRES_17", Settings: &sqladmin.Settings{Tier: "db-custom-2-7680"}},
		"an edition with a start":     {Settings: &sqladmin.Settings{Edition: "ENTERPRISE_PLUS", Tier: "db-perf-optimized-N-2", BackupConfiguration: &sqladmin.BackupConfiguration{StartTime: "03:00"}}},
		"an older version of its own": {DatabaseVersion: "POSTGRES_15"},
	} {
		_, err = c.sql.Instances.Patch(project, "db", change).Do()
		want := "changing other fields at the same time"
		if change.Settings == nil {
			want = "cannot be taken back"
		}
		c.refused(what, err, 400, want)
	}
	c.must("a tier", c.sqlDone(c.sql.Instances.Patch(project, "db", &sqladmin.DatabaseInstance{Settings: &sqladmin.Settings{Tier: "db-custom-2-7680"}}).Do()))
	c.must("an edition with its tier", c.sqlDone(c.sql.Instances.Patch(project, "db", &sqladmin.DatabaseInstance{Settings: &sqladmin.Settings{Edition: "ENTERPRISE_PLUS", Tier: "db-perf-optimized-N-2"}}).Do()))
	_, err = c.sql.Instances.Delete(project, "db").Do()
	c.refused("deleting what is protected", err, 400, "deletion protection")
	off := &sqladmin.DatabaseInstance{Settings: &sqladmin.Settings{ForceSendFields: []string{"DeletionProtectionEnabled"}}}
	c.must("unprotect", c.sqlDone(c.sql.Instances.Patch(project, "db", off).Do()))
	c.must("delete", c.sqlDone(c.sql.Instances.Delete(project, "db").Do()))
	_, err = c.sql.Instances.Get(project, "db").Do()
	c.refused("after its deletion", err, 404, "instanceDoesNotExist")
}

func (c *clients) redisDone(op *redis.Operation, err error) error {
	for err == nil && !op.Done {
		time.Sleep(5 * time.Millisecond)
		op, err = c.redis.Projects.Locations.Operations.Get(op.Name).Do()
	}
	if err == nil && op.Error != nil {
		return errors.New(op.Error.Message)
	}
	return err
}

// testAuthorities changes the certificate authority of an instance.
func (c *clients) testAuthorities(i *sqladmin.DatabaseInstance) {
	list := func() (fingerprints []string, active string) {
		all, err := c.sql.Instances.ListServerCas(project, "db").Do()
		c.must("list authorities", err)
		for _, a := range all.Certs {
			if block, _ := pem.Decode([]byte(a.Cert)); block == nil || a.Instance != "db" {
				c.t.Errorf("an authority is %+v", a)
			}
			fingerprints = append(fingerprints, a.Sha1Fingerprint)
		}
		return fingerprints, all.ActiveVersion
	}
	rotate := func(to string) error {
		return c.sqlDone(c.sql.Instances.RotateServerCa(project, "db", &sqladmin.InstancesRotateServerCaRequest{RotateServerCaContext: &sqladmin.RotateServerCaContext{NextVersion: to}}).Do())
	}
	first, active := list()
	if len(first) != 1 || active != first[0] || i.ServerCaCert == nil || i.ServerCaCert.Sha1Fingerprint != active || i.Settings.IpConfiguration.ServerCaMode != "GOOGLE_MANAGED_INTERNAL_CA" {
		c.t.Errorf("the authorities are %v, %s is active; the instance is %+v", first, active, i)
	}
	c.refused("rotating to nothing", rotate(""), 400, "no server CA certificate")
	c.must("add", c.sqlDone(c.sql.Instances.AddServerCa(project, "db").Do()))
	both, active := list()
	if len(both) != 2 || both[0] != first[0] || active != first[0] {
		c.t.Errorf("with another one they are %v, and %s is active", both, active)
	}
	c.refused("rotating to one that is not there", rotate("0000"), 400, "no server CA certificate")
	c.must("rotate", rotate(both[1]))
	after, active := list()
	i, err := c.sql.Instances.Get(project, "db").Do()
	if err != nil || !slices.Equal(after, both) || active != both[1] || i.ServerCaCert.Sha1Fingerprint != active {
		c.t.Errorf("after the rotation they are %v, and %s is active, %v", after, active, err)
	}
	mode := &sqladmin.DatabaseInstance{Settings: &sqladmin.Settings{IpConfiguration: &sqladmin.IpConfiguration{SslMode: "ENCRYPTED_ONLY"}}}
	c.must("sslMode", c.sqlDone(c.sql.Instances.Patch(project, "db", mode).Do()))
}

func (c *clients) testRedis() {
	instances, parent := c.redis.Projects.Locations.Instances, "projects/conformance/locations/us-west1"
	name := parent + "/instances/cache"
	_, err := instances.Get(name).Do()
	c.refused("an instance that is not there", err, 404, "was not found")
	cache := &redis.Instance{Tier: "BASIC", MemorySizeGb: 1, AuthEnabled: true, ConnectMode: "PRIVATE_SERVICE_ACCESS", AuthorizedNetwork: "projects/conformance/global/networks/net"}
	c.must("create", c.redisDone(instances.Create(parent, cache).InstanceId("cache").Do()))
	got, err := instances.Get(name).Do()
	if err != nil || got.State != "READY" || got.Port != 6379 {
		c.t.Errorf("it is %+v, %v", got, err)
	}
	auth, err := instances.GetAuthString(name).Do()
	if err != nil || len(auth.AuthString) < 16 {
		c.t.Errorf("the AUTH string has %d characters, %v", len(auth.AuthString), err)
	}
	_, err = instances.Patch(name, &redis.Instance{MemorySizeGb: 2, DisplayName: "x"}).UpdateMask("memorySizeGb,displayName").Do()
	c.refused("two fields at once", err, 400, "exactly 1 update_mask field")
	_, err = instances.Patch(name, &redis.Instance{Tier: "STANDARD_HA"}).UpdateMask("tier").Do()
	c.refused("a field that is fixed", err, 400, "tier")
	c.must("patch", c.redisDone(instances.Patch(name, &redis.Instance{RedisConfigs: map[string]string{"maxmemory-policy": "noeviction"}}).UpdateMask("redis_configs").Do()))
	_, err = instances.Create(parent, cache).InstanceId("cache").Do()
	c.refused("create again", err, 409, "already exists")
	_, err = instances.Patch(name, &redis.Instance{TransitEncryptionMode: "SERVER_AUTHENTICATION"}).UpdateMask("transitEncryptionMode").Do()
	c.refused("encryption of one that is there", err, 400, "transitEncryptionMode")
	c.must("delete", c.redisDone(instances.Delete(name).Do()))
	cache.TransitEncryptionMode = "SERVER_AUTHENTICATION"
	c.must("create encrypted", c.redisDone(instances.Create(parent, cache).InstanceId("cache").Do()))
	got, err = instances.Get(name).Do()
	if err != nil || got.Port != 6378 || len(got.ServerCaCerts) != 1 || got.ServerCaCerts[0].Sha1Fingerprint == "" {
		c.t.Errorf("encrypted it is %+v, %v", got, err)
	}
	c.must("delete", c.redisDone(instances.Delete(name).Do()))
}

func (c *clients) testStorage() {
	_, err := c.storage.Buckets.Get("conformance-files").Do()
	c.refused("a bucket that is not there", err, 404, "The specified bucket does not exist.")
	_, err = c.storage.Buckets.Insert(project, &storage.Bucket{Name: "Google"}).Do()
	c.refused("a bad name", err, 400, "Invalid bucket name")
	b, err := c.storage.Buckets.Insert(project, &storage.Bucket{Name: "conformance-files", Versioning: &storage.BucketVersioning{Enabled: true}}).Do()
	if err != nil || b.Location != "US" || b.SoftDeletePolicy.RetentionDurationSeconds != 604800 || b.Metageneration != 1 {
		c.t.Errorf("the bucket is %+v, %v", b, err)
	}
	_, err = c.storage.Buckets.Insert(project, &storage.Bucket{Name: "conformance-files"}).Do()
	c.refused("insert again", err, 409, "already own it")
	put := func(text string, match int64) (*storage.Object, error) {
		return c.storage.Objects.Insert("conformance-files", &storage.Object{Name: "dir/file"}).IfGenerationMatch(match).Media(strings.NewReader(text)).Do()
	}
	first, err := put("one", 0)
	c.must("upload", err)
	_, err = put("two", 0)
	c.refused("create what is there", err, 412, "conditionNotMet")
	second, err := put("two", first.Generation)
	c.must("compare and swap", err)
	_, err = put("three", first.Generation)
	c.refused("a generation that is gone", err, 412, "conditionNotMet")
	resp, err := c.storage.Objects.Get("conformance-files", "dir/file").Download()
	c.must("download", err)
	raw, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || string(raw) != "two" || resp.Header.Get("X-Goog-Generation") != fmt.Sprint(second.Generation) {
		c.t.Errorf("downloaded %q of generation %s, %v", raw, resp.Header.Get("X-Goog-Generation"), err)
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // more than one piece of a resumable upload
	_, err = c.storage.Objects.Insert("conformance-files", &storage.Object{Name: "big"}).Media(bytes.NewReader(big), googleapi.ChunkSize(256<<10)).Do()
	c.must("resumable upload", err)
	if o, err := c.storage.Objects.Get("conformance-files", "big").Do(); err != nil || o.Size != uint64(len(big)) {
		c.t.Errorf("the big object is %+v, %v", o, err)
	}
	all, err := c.storage.Objects.List("conformance-files").Versions(true).Do()
	if err != nil || len(all.Items) != 3 {
		c.t.Errorf("%d generations, %v; want 3", len(all.Items), err)
	}
	folded, err := c.storage.Objects.List("conformance-files").Delimiter("/").Do()
	if err != nil || len(folded.Items) != 1 || !slices.Equal(folded.Prefixes, []string{"dir/"}) {
		c.t.Errorf("folded at /: %v, %v", folded, err)
	}
	err = c.storage.Buckets.Delete("conformance-files").Do()
	c.refused("a bucket that is not empty", err, 409, "The bucket you tried to delete is not empty.")
	policy, err := c.storage.Buckets.GetIamPolicy("conformance-files").Do()
	c.must("policy", err)
	stale := policy.Etag
	policy.Bindings = append(policy.Bindings, &storage.PolicyBindings{Role: "roles/storage.objectViewer", Members: []string{"user:someone@example.com"}})
	_, err = c.storage.Buckets.SetIamPolicy("conformance-files", policy).Do()
	c.must("set policy", err)
	policy.Etag = stale
	_, err = c.storage.Buckets.SetIamPolicy("conformance-files", policy).Do()
	var e *googleapi.Error
	if !errors.As(err, &e) || e.Code != 409 && e.Code != 412 {
		c.t.Errorf("a stale etag: %v", err)
	}
	for _, o := range all.Items {
		c.must("delete", c.storage.Objects.Delete("conformance-files", o.Name).Generation(o.Generation).Do())
	}
	c.must("delete", c.storage.Buckets.Delete("conformance-files").Do())
}

func (c *clients) testSecrets() {
	secrets := c.secrets.Projects.Secrets
	_, err := secrets.Get("projects/conformance/secrets/s").Do()
	c.refused("a secret that is not there", err, 404, "not found")
	s, err := secrets.Create("projects/conformance", &secretmanager.Secret{Replication: &secretmanager.Replication{Automatic: &secretmanager.Automatic{}}}).SecretId("s").Do()
	c.must("create", err)
	if !strings.HasPrefix(s.Name, "projects/") || strings.Contains(s.Name, project) {
		c.t.Errorf("its name is %s, not with the project's number", s.Name)
	}
	_, err = secrets.Versions.Access("projects/conformance/secrets/s/versions/latest").Do()
	c.refused("a secret without a version", err, 404, "has no versions")
	_, err = secrets.AddVersion("projects/conformance/secrets/s", &secretmanager.AddSecretVersionRequest{Payload: &secretmanager.SecretPayload{
		Data: base64.StdEncoding.EncodeToString([]byte("value")), DataCrc32c: 1,
	}}).Do()
	c.refused("a wrong checksum", err, 400, "checksum")
	_, err = secrets.AddVersion("projects/conformance/secrets/s", &secretmanager.AddSecretVersionRequest{Payload: &secretmanager.SecretPayload{Data: base64.StdEncoding.EncodeToString([]byte("value"))}}).Do()
	c.must("add a version", err)
	v, err := secrets.Versions.Access("projects/conformance/secrets/s/versions/latest").Do()
	if raw, _ := base64.StdEncoding.DecodeString(v.Payload.Data); err != nil || string(raw) != "value" {
		c.t.Errorf("the value is %q, %v", raw, err)
	}
	_, err = secrets.Delete("projects/conformance/secrets/s").Do()
	c.must("delete", err)
}

func (c *clients) testIAM() {
	account, err := c.iam.Projects.ServiceAccounts.Create("projects/conformance", &iam.CreateServiceAccountRequest{AccountId: "robot-1"}).Do()
	if err != nil || account.Email != "robot-1@conformance.iam.gserviceaccount.com" {
		c.t.Fatalf("the account is %v, %v", account, err)
	}
	_, err = c.iam.Projects.ServiceAccounts.Create("projects/conformance", &iam.CreateServiceAccountRequest{AccountId: "robot-1"}).Do()
	c.refused("create again", err, 409, "already exists within project projects/conformance")
	policy, err := c.crm.Projects.GetIamPolicy(project, &cloudresourcemanager.GetIamPolicyRequest{}).Do()
	c.must("policy", err)
	stale := policy.Etag
	policy.Bindings = append(policy.Bindings, &cloudresourcemanager.Binding{Role: "roles/logging.logWriter", Members: []string{"serviceAccount:" + account.Email}})
	set := func() error {
		_, err := c.crm.Projects.SetIamPolicy(project, &cloudresourcemanager.SetIamPolicyRequest{Policy: policy}).Do()
		return err
	}
	c.must("set", set())
	policy.Etag = stale
	c.refused("a stale etag", set(), 409, "concurrent policy changes")
	policy.Etag = ""
	policy.Bindings[len(policy.Bindings)-1].Members[0] = "serviceAccount:nobody@conformance.iam.gserviceaccount.com"
	c.refused("a member who does not exist", set(), 400, "does not exist")
	_, err = c.crm.Projects.Get("Not A Project").Do()
	c.refused("a project that cannot be", err, 403, "does not have permission")
}

func (c *clients) testDNS() {
	zone := &dns.ManagedZone{Name: "zone", DnsName: "conformance.internal.", Description: "x", Visibility: "private"}
	_, err := c.dns.ManagedZones.Create(project, zone).Do()
	c.must("create", err)
	_, err = c.dns.ManagedZones.Create(project, zone).Do()
	c.refused("create again", err, 409, "already exists")
	record := &dns.ResourceRecordSet{Name: "db.conformance.internal.", Type: "A", Ttl: 30, Rrdatas: []string{"10.0.0.1"}}
	_, err = c.dns.ResourceRecordSets.Create(project, "zone", record).Do()
	c.must("record", err)
	_, err = c.dns.ResourceRecordSets.Create(project, "zone", &dns.ResourceRecordSet{Name: "db.elsewhere.internal.", Type: "A", Rrdatas: []string{"10.0.0.1"}}).Do()
	c.refused("a name outside the zone", err, 400, "db.elsewhere.internal.")
	record.Rrdatas = []string{"10.0.0.2"}
	_, err = c.dns.ResourceRecordSets.Patch(project, "zone", record.Name, "A", record).Do()
	c.must("patch", err)
	err = c.dns.ManagedZones.Delete(project, "zone").Do()
	c.refused("a zone that is not empty", err, 400, "not empty")
	_, err = c.dns.ResourceRecordSets.Delete(project, "zone", record.Name, "A").Do()
	c.must("delete record", err)
	c.must("delete", c.dns.ManagedZones.Delete(project, "zone").Do())
}
