package doctor

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/diff"
	"github.com/difyup/difyup/internal/ops"
	"github.com/difyup/difyup/internal/plan"
	"github.com/difyup/difyup/internal/report"
	"github.com/difyup/difyup/internal/resource"
	"github.com/difyup/difyup/internal/state"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// well is a stack that lacks nothing: two instances that serve, of which the first has the scheduler.
func well() *Case {
	c := &Case{
		Now: now, Domain: "dify.example.com", Addresses: []netip.Addr{netip.MustParseAddr("203.0.113.7")}, Unread: map[Source]string{},
		Status: &ops.Status{
			Stack: "demo", Address: "203.0.113.7", Target: 2, Healthy: 2, Stable: true, Certificate: "ACTIVE",
			Stores: []ops.Store{{Name: "demo-main", State: "RUNNABLE"}, {Name: "demo-redis", State: "READY"}},
		},
		Plan: &plan.Plan{Live: map[resource.ID]map[string]any{}},
		Lines: []ops.LogLine{
			{At: now.Add(-5 * time.Hour), Instance: "demo-vm-1", Container: "agent", Text: `msg="the metadata are read" stack=demo`},
			{At: now.Add(-5 * time.Hour), Instance: "demo-vm-1", Container: "agent", Text: `msg="ready for traffic" instance=demo-vm-1`},
		},
	}
	for id, body := range map[resource.ID]string{
		"compute.backendServices/demo-backend":           `{"timeoutSec": 3600}`,
		"compute.regionInstanceGroupManagers/demo-group": `{"autoHealingPolicies": [{"initialDelaySec": 1800}]}`,
		"compute.sslCertificates/demo-managed":           `{"type": "MANAGED", "managed": {"status": "ACTIVE", "domainStatus": {"dify.example.com": "ACTIVE"}}, "expireTime": "2026-12-01T00:00:00.000-08:00"}`,
		"compute.sslCertificates/demo-own":               `{"type": "SELF_MANAGED", "expireTime": "2027-11-28T00:00:00.000-08:00"}`,
		"compute.globalAddresses/demo-address":           `{"timeoutSec": 1}`,
	} {
		var live map[string]any
		if err := json.Unmarshal([]byte(body), &live); err != nil {
			panic(err)
		}
		c.Plan.Live[id] = live
	}
	for n, name := range []string{"demo-vm-1", "demo-vm-2"} {
		c.Status.Instances = append(c.Status.Instances, ops.Instance{
			Name: name, Zone: "asia-northeast1-a", Status: "RUNNING", Action: "NONE", Health: "HEALTHY",
			Report: &report.Document{
				At: now.Add(-20 * time.Second), Phase: report.Serves, Since: now.Add(-5 * time.Hour), Dify: "1.17.1", Scheduler: "demo-vm-1",
				Checks:     []report.Check{{Name: "the database", Well: true, Took: n + 1}, {Name: "the bucket", Well: true}},
				Containers: &report.Containers{At: now.Add(-30 * time.Second), All: []report.Container{{Name: "api", Well: true}, {Name: "worker", Well: true, Restarts: 1}}},
				Plugins:    &report.Plugins{Installed: 2, Here: 2},
			},
		})
	}
	return c
}

// check has the second instance say that something does not work.
func check(name, says string) func(*Case) {
	return func(c *Case) {
		c.Status.Instances[1].Report.Checks[0] = report.Check{Name: name, Says: says}
	}
}

// waits has the second instance be in a phase, and wait there.
func waits(p report.Phase, waiting string) func(*Case) {
	return func(c *Case) {
		d := c.Status.Instances[1].Report
		d.Phase, d.Waiting, d.Since = p, waiting, now.Add(-time.Minute)
		c.Status.Instances[1].Health = "UNHEALTHY"
	}
}

// writes has a container of the second instance write a line.
func writes(container, text string) func(*Case) {
	return func(c *Case) {
		c.Lines = append(c.Lines, ops.LogLine{At: now.Add(-time.Hour), Instance: "demo-vm-2", Container: container, Text: text})
	}
}

// step has apply change something.
func step(id resource.ID, path resource.Path, from, to any) func(*Case) {
	return func(c *Case) {
		c.Plan.Steps = append(c.Plan.Steps, plan.Step{ID: id, Action: plan.Update, Changes: []diff.Field{{Path: path, Old: from, New: to}}})
	}
}

// live changes what a resource is.
func live(id resource.ID, body string) func(*Case) {
	return func(c *Case) {
		var m map[string]any
		if err := json.Unmarshal([]byte(body), &m); err != nil {
			panic(err)
		}
		c.Plan.Live[id] = m
	}
}

// provoked is what gives a stack each illness. Lines are as the programs write them; what a change of a stack brings about with it
// is behind it.
var provoked = []struct {
	code   string
	change func(*Case)
	also   []string
}{
	{"store-failed", func(c *Case) { c.Status.Stores[0].State = "FAILED" }, nil},
	{"store-failed", func(c *Case) { c.Status.Stores[0].State = "SUSPENDED" }, nil},
	{"unfinished", func(c *Case) {
		c.Status.Intent = &state.Intent{Command: "apply", By: "me@here", At: now.Add(-time.Hour)}
	}, nil},
	{"lost", func(c *Case) {
		c.Status.Missing, c.Status.Lost = []string{"sql.instances/demo-main"}, []string{"sql.instances/demo-main"}
	}, nil},
	{"missing", func(c *Case) { c.Status.Missing = []string{"storage.buckets/demo-files"} }, nil},
	{"certificate", live("compute.sslCertificates/demo-managed", `{"managed": {"status": "PROVISIONING", "domainStatus": {"dify.example.com": "FAILED_NOT_VISIBLE"}}}`), nil},
	{"certificate", live("compute.sslCertificates/demo-managed", `{"managed": {"status": "RENEWAL_FAILED"}}`), nil},
	{"certificate-ends", live("compute.sslCertificates/demo-own", `{"type": "SELF_MANAGED", "expireTime": "2026-12-11T00:00:00.000-08:00"}`), nil},
	{"domain", func(c *Case) { c.Addresses = nil }, nil},
	{"domain", func(c *Case) { c.Addresses = []netip.Addr{netip.MustParseAddr("198.51.100.1")} }, nil},
	{"stream-cut", live("compute.backendServices/demo-backend", `{"timeoutSec": 30}`), nil},
	{"health-path", step("compute.healthChecks/demo-ready", "httpHealthCheck.requestPath", "/", "/-/difyup/ready"), []string{"not-as-described"}},
	{"healing-early", live("compute.regionInstanceGroupManagers/demo-group", `{"autoHealingPolicies": [{"initialDelaySec": 300}]}`), nil},
	{"not-as-described", step("compute.firewalls/demo-health", "sourceRanges[0]", "10.0.0.0/8", "35.191.0.0/16"), nil},
	{"no-capacity", func(c *Case) {
		c.Status.Instances[1].Error = "Instance 'demo-vm-2' creation failed: Quota 'CPUS' exceeded.  Limit: 24.0 in region asia-northeast1."
	}, nil},
	{"no-capacity", func(c *Case) {
		c.Status.Instances[1].Error = "The zone 'projects/p/zones/asia-northeast1-a' does not have enough resources available to fulfill the request."
	}, nil},
	{"too-few", func(c *Case) { c.Status.Healthy = 0 }, nil},
	{"too-few", func(c *Case) { c.Status.Healthy = 1 }, nil},
	{"late", func(c *Case) {
		waits(report.Stores, "the runtime cannot be used; the log of the instance says why")(c)
		c.Status.Instances[1].Report.Since = now.Add(-40 * time.Minute)
	}, nil},
	{"silent", func(c *Case) { c.Status.Instances[1].Report.At = now.Add(-11 * time.Minute) }, nil},
	{"silent", func(c *Case) {
		c.Status.Instances[1].Report, c.Status.Instances[1].Silent = nil, "its report cannot be read"
	}, nil},
	{"secrets", waits(report.Secrets, "the secret demo-db-password@1 may not be read"), nil},
	{"login", check("the database", "refuses the login"), nil},
	{"login", waits(report.Stores, "Redis refuses the login"), nil},
	{"unreachable", check("the vector database", "does not answer in time"), nil},
	{"unreachable", waits(report.Stores, "the database has a name that is not known yet"), nil},
	{"unreachable", check("the bucket", "does not answer in time"), nil},
	{"unreachable", check("the Security Token Service", "is not reached: something in between answers with a page"), nil},
	{"fails", check("Redis", "cannot be used; the log of the instance says why"), nil},
	{"fails", check("the bucket", "cannot be used; the log of the instance says why"), nil},
	{"fails", check("the database", "answers with an error (XX000)"), nil},
	{"rights", check("the plugins' database", "has no such database"), nil},
	{"rights", waits(report.Stores, "the vector database lacks the extension vector, which its user may not make; somebody who may can: CREATE EXTENSION vector"), nil},
	{"bucket", check("the bucket", "does not let the instance's service account write (storage.objects.create); `difyup apply` gives it the rights"), nil},
	{"store-certificate", check("Redis", "has a certificate that none of its own authorities signed"), nil},
	{"tokens", check("the Security Token Service", "is not enabled in the project; `difyup apply` enables it"), nil},
	{"newer-schema", waits(report.Migrates, "the database was migrated to Dify 1.17.1, and this instance is to run 1.16.0: there is no way back"), nil},
	{"migration", waits(report.Migrates, "the migration of api ended with status 1; the log of the instance says more"), nil},
	{"migration-long", func(c *Case) {
		waits(report.Migrates, "")(c)
		c.Status.Instances[1].Report.Since = now.Add(-45 * time.Minute)
	}, nil},
	{"containers", func(c *Case) { c.Status.Instances[1].Report.Containers.All[0].Well = false }, nil},
	{"containers", func(c *Case) { c.Status.Instances[1].Report.Containers.All[1].Restarts = 7 }, nil},
	{"plugins", func(c *Case) {
		c.Status.Instances[1].Report.Warnings = []string{"the plugin langgenius/openai:0.2.7 runs on no instance, and is installed"}
	}, nil},
	{"no-scheduler", func(c *Case) {
		for n := range c.Status.Instances {
			c.Status.Instances[n].Report.Scheduler = ""
		}
	}, nil},
	{"two-schedulers", func(c *Case) { c.Status.Instances[1].Report.Scheduler = "demo-vm-2" }, nil},
	{"not-reached", func(c *Case) { c.Status.Instances[1].Health = "UNHEALTHY" }, nil},
	{"image", writes("agent", `msg=waiting instance=demo-vm-2 for="the stores" because="the runtime: pull langgenius/dify-api:1.17.9: manifest unknown"`), nil},
	{"connections", writes("api", "sqlalchemy.exc.TimeoutError: QueuePool limit of size 30 overflow 10 reached, connection timed out, timeout 30.00"), nil},
	{"connections", writes("plugin_daemon", `failed SASL auth: FATAL: sorry, too many clients already (SQLSTATE 53300)`), nil},
	{"connections", writes("worker", `psycopg2.OperationalError: connection to server at "db.demo.internal" (10.65.0.3), port 5432 failed: FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute`), nil},
	{"connections", writes("api", `(psycopg2.OperationalError) connection to server at "vector.demo.internal" (10.65.0.4), port 5432 failed: FATAL:  sorry, too many clients already`), nil},
	{"connections", writes("agent", `msg=waiting for="the stores" error="failed to connect to 'user=dify database=dify': 10.65.0.3:5432 (db.demo.internal): server error: FATAL: remaining connection slots are reserved for roles with the SUPERUSER attribute (SQLSTATE 53300)"`), nil},
	{"untrusted", writes("worker", "redis.exceptions.ConnectionError: Error 1 connecting to redis.demo.internal:6378. [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate in certificate chain (_ssl.c:1016)."), nil},
	{"untrusted", writes("api", `(psycopg2.OperationalError) connection to server at "db.demo.internal" (10.65.0.3), port 5432 failed: SSL error: certificate verify failed`), nil},
	{"untrusted", writes("plugin_daemon", `{"level":"ERROR","msg":"init redis client failed","error":"tls: failed to verify certificate: x509: certificate signed by unknown authority"}`), nil},
	{"private-key", writes("api", "libs.rsa.PrivkeyNotFoundError: Private key not found, tenant_id: 2b3a53a0-1d0e-4a86-9a3f-1f4a0ef3d0f1"), nil},
	{"key-changed", writes("worker", "ValueError: Incorrect decryption."), nil},
	{"lock-lost", writes("worker", "redis.exceptions.LockNotOwnedError: Cannot release a lock that's no longer owned"), nil},
	{"redis-full", writes("api", "redis.exceptions.OutOfMemoryError: OOM command not allowed when used memory > 'maxmemory'."), nil},
	{"redis-cluster", writes("worker", "redis.exceptions.ResponseError: CROSSSLOT Keys in request don't hash to the same slot"), nil},
	{"broker", writes("worker", "[2026-11-28 11:00:00,123: ERROR/MainProcess] consumer: Cannot connect to redis://:**@redis.demo.internal:6379/1: Error 111 connecting to redis.demo.internal:6379. Connection refused.."), nil},
	{"extension", writes("api", `psycopg2.errors.UndefinedObject: type "vector" does not exist`), nil},
	{"daemon-storage", writes("plugin_daemon", `{"level":"ERROR","msg":"failed to create storage","error":"dialing: google: could not find default credentials"}`), nil},
	{"daemon-database", writes("plugin_daemon", `{"level":"ERROR","msg":"failed to init dify plugin db","error":"failed to connect to host"}`), nil},
	{"plugin-packages", writes("plugin_daemon", `{"level":"ERROR","msg":"local runtime start failed","plugin":"langgenius/openai:0.2.7","error":"failed to install dependencies: exit status 2, output: error: Failed to fetch: https://pypi.org/simple/dify-plugin/"}`), nil},
	{"daemon", writes("api", "2026-11-28 11:00:00.000 ERROR [Dummy-7] [base.py:88] - Request to Plugin Daemon Service failed"), nil},
	{"marketplace", writes("api", "Request to URL https://marketplace.dify.ai/api/v1/plugins/download?unique_identifier=x failed on attempt 1: [Errno 101] Network is unreachable"), nil},
	{"marketplace", writes("worker", "requests.exceptions.ConnectTimeout: HTTPSConnectionPool(host='marketplace.dify.ai', port=443): Max retries exceeded (connect timeout=5)"), nil},
	{"private-address", writes("worker", "core.helper.ssrf_proxy.ToolSSRFError: Access to 'http://10.0.0.5/' was blocked by SSRF protection. The URL may point to a private or local network address. "), nil},
	{"sandbox", writes("worker", "core.helper.code_executor.code_executor.CodeExecutionError: Code execution service is unavailable"), nil},
	{"sandbox", writes("worker", "core.helper.code_executor.code_executor.CodeExecutionError: Failed to execute code, which is likely a network issue, please check if the sandbox service is running. ( Error: [Errno 111] Connection refused )"), nil},
	{"sandbox", writes("api", "CodeExecutionError: Failed to execute code, which is likely a network issue, please check if the sandbox service is running. ( Error: Failed to execute code, got status code 401, please check if the sandbox service is running )"), nil},
	{"killed", writes("api", "[2026-11-28 11:00:00 +0000] [1] [ERROR] Worker (pid:37) was sent SIGKILL! Perhaps out of memory?"), nil},
	{"killed", writes("worker", "billiard.exceptions.WorkerLostError: Worker exited prematurely: signal 9 (SIGKILL) Job: 12."), nil},
	{"disk-full", writes("plugin_daemon", "write /app/storage/cwd/x: no space left on device"), nil},
	{"disk-full", writes("agent", `msg="lines cannot be kept" error="write /var/lib/difyup/spool/1: No space left on device"`), nil},
	{"dies-young", func(c *Case) {
		for n := range 3 {
			c.Lines = append(c.Lines, ops.LogLine{At: now, Instance: fmt.Sprint("demo-vm-x", n), Container: "agent", Text: `msg="the metadata are read" stack=demo`})
		}
	}, nil},
	{"dies-young", func(c *Case) { // is healed over and over, under its name
		for n := range 4 {
			at := now.Add(time.Duration(n-4) * 10 * time.Minute)
			c.Lines = append(c.Lines, ops.LogLine{At: at, Instance: "demo-vm-2", Container: "agent", Text: `msg="the metadata are read" stack=demo`},
				ops.LogLine{At: at.Add(8 * time.Minute), Instance: "demo-vm-2", Container: "agent", Text: `msg="ending: no new requests are wanted"`})
		}
		c.Lines = c.Lines[:len(c.Lines)-1]
	}, nil},
	{"lines-lost", writes("agent", `120 lines of worker were left out: it writes more than 1024 KiB a second`), nil},
	{"lines-lost", writes("agent", `120 lines were lost before they were sent: more than 64 MiB waited, or the disk took no more`), nil},
	{"lines-lost", writes("agent", `3 lines were refused by Cloud Logging, and are lost`), nil},
	{"rules-changed", writes("agent", `msg="what containers may reach is not guarded" error="set up the rules for what containers may reach: somebody keeps changing them: is there another program that manages nftables on this machine?"`), nil},
	{"rules-changed", writes("agent", `msg="somebody removed the rules for what containers may reach; they are put back" table="inet difyup"`), nil},
	{"stranger", writes("agent", `msg="somebody asked for the identity of another container" address=198.18.242.7:41234 error="it comes by difyup-ask-worker, and not by difyup-ask-api"`), nil},
}

func codes(r *Result) []string {
	var all []string
	for _, f := range r.Findings {
		all = append(all, f.Code)
	}
	slices.Sort(all)
	return all
}

// TestEveryCheck has every check that an instance makes fail in every way that agents have words for: the doctor has an illness for it.
func TestEveryCheck(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../agent/report.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "words" {
			ast.Inspect(f, func(n ast.Node) bool {
				if r, ok := n.(*ast.ReturnStmt); ok {
					ast.Inspect(r, func(n ast.Node) bool {
						if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
							if text, err := strconv.Unquote(l.Value); err == nil && len(text) > 1 {
								all = append(all, text)
							}
						}
						return true
					})
				}
				return true
			})
		}
	}
	if len(all) < 15 {
		t.Fatalf("agents have these words: %q", all)
	}
	elsewhere := map[string]bool{"cannot run the service ": true, "are not there yet": true} // is said of what is waited for, not of what is checked
	for _, says := range all {
		for _, name := range checked {
			google := name == "the bucket" || name == "the Security Token Service"
			if elsewhere[says] || google && slices.ContainsFunc([]string{"database", "rights", "connection left", "starting", "login", "certificate"}, func(w string) bool { return strings.Contains(says, w) }) {
				continue // of stores alone
			}
			c := well()
			check(name, says)(c)
			if r := Examine(c); len(r.Findings) == 0 {
				t.Errorf("%s %s: nothing is found", name, says)
			}
		}
	}
}

// TestProvoked gives a stack each illness, one at a time: it is found, with what was seen, and nothing else is.
func TestProvoked(t *testing.T) {
	if r := Examine(well()); len(r.Findings) > 0 || r.Looked != len(Illnesses()) {
		t.Fatalf("a stack that lacks nothing: %+v", r)
	}
	seen := map[string]bool{}
	for _, p := range provoked {
		c := well()
		p.change(c)
		r := Examine(c)
		if d := cmp.Diff(slices.Sorted(slices.Values(append([]string{p.code}, p.also...))), codes(r)); d != "" {
			t.Errorf("%s (-want +got):\n%s", p.code, d)
		}
		for _, f := range r.Findings {
			if len(f.Seen) == 0 || f.Times < len(f.Seen) {
				t.Errorf("%s: nothing was seen, %d times", f.Code, f.Times)
			}
		}
		seen[p.code] = true
		// Whoever looks for texts alone finds the lines.
		for _, l := range c.Lines[len(well().Lines):] {
			if !slices.ContainsFunc(Texts(), func(text string) bool { return containsFold(l.Text, text) }) {
				t.Errorf("%s: Cloud Logging is not asked for %q", p.code, l.Text)
			}
		}
	}
	for _, i := range Illnesses() {
		if !seen[i.Code] {
			t.Errorf("%s is not provoked", i.Code)
		}
	}
}

// TestLocalRemedies checks that nobody is sent to what a local cloud has not.
func TestLocalRemedies(t *testing.T) {
	for _, i := range Illnesses() {
		remedy := i.remedy(true)
		for _, none := range []string{"console", "gcloud", "audit logs", "Google's support"} {
			if strings.Contains(remedy, none) {
				t.Errorf("%s: %s", i.Code, remedy)
			}
		}
		if i.remedy(false) != i.Remedy {
			t.Errorf("%s has another remedy on Google than docs/doctor.md says", i.Code)
		}
	}
	c := well()
	c.Local, c.Status.Lost = true, []string{"the bucket"}
	if r := Examine(c); len(r.Findings) != 1 || strings.Contains(r.Findings[0].Remedy, "Google") {
		t.Errorf("%+v", r.Findings)
	}
}

// TestWell has what resembles an illness, and is none.
func TestWell(t *testing.T) {
	for what, change := range map[string]func(*Case){
		"a run is at work": func(c *Case) {
			step("compute.firewalls/demo-health", "sourceRanges[0]", "10.0.0.0/8", "35.191.0.0/16")(c)
			c.Status.Intent, c.Status.Lock, c.Status.Missing = &state.Intent{}, &state.Holder{}, []string{"a"}
		},
		"an instance is being made": func(c *Case) {
			i := &c.Status.Instances[1]
			i.Status, i.Report, i.Silent, i.Health = "PROVISIONING", nil, "has not reported yet", ""
		},
		"an instance has just begun": func(c *Case) {
			i := &c.Status.Instances[1]
			i.Report, i.Silent, i.Health = nil, "has not reported yet", ""
		},
		"an instance starts":   waits(report.Starts, "the runtime has not answered yet"),
		"an instance migrates": waits(report.Migrates, ""),
		"what an old report says": func(c *Case) {
			check("the database", "refuses the login")(c)
			c.Status.Instances[1].Status = "STOPPING"
			c.Status.Instances[1].Report.At = now.Add(-time.Hour)
		},
		"a container before the phase": func(c *Case) {
			d := c.Status.Instances[1].Report
			d.Since, d.Containers.All[0].Well = now.Add(-10*time.Second), false
		},
		"an instance that boots": func(c *Case) {
			i := &c.Status.Instances[1]
			i.Report, i.Silent, i.Health = nil, "has not reported yet", "UNHEALTHY"
		},
		"who has the scheduler does not report": func(c *Case) {
			c.Status.Instances[0].Report.At, c.Status.Instances[0].Report.Scheduler = now.Add(-5*time.Minute), ""
		},
		"a report that is older than what the load balancer sees": func(c *Case) {
			waits(report.Stores, "the database refuses the login")(c)
			c.Status.Instances[1].Health, c.Status.Instances[1].Report.Since = "HEALTHY", now.Add(-time.Hour)
		},
		"the scheduler on its way": func(c *Case) {
			for n := range c.Status.Instances {
				c.Status.Instances[n].Report.Scheduler, c.Status.Instances[n].Report.Since = "", now.Add(-time.Minute)
			}
		},
		"a daemon's own word":                             writes("plugin_daemon", "the redis key was removed "),
		"a user's HTTP node that meets a bad certificate": writes("worker", "Request to URL https://10.example.com/ failed on attempt 1: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1016)"),
		"the traceback of it":                             writes("api", "httpcore.ConnectError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1016)"),
		"a plugin's own database, which nobody trusts":    writes("worker", `PluginInvokeError: {"error_type":"OperationalError","message":"connection to server at \"db.example.com\" (192.0.2.7), port 5432 failed: SSL error: certificate verify failed"}`),
		"the same, as the daemon says it":                 writes("plugin_daemon", `psycopg2.OperationalError: connection to server at "db.example.com" (192.0.2.7), port 5432 failed: SSL error: certificate verify failed`),
		"a plugin's own database, which is full":          writes("worker", `PluginInvokeError: {"error_type":"OperationalError","message":"connection to server at \"db.example.com\" (192.0.2.7), port 5432 failed: FATAL:  sorry, too many clients already"}`),
		"the same, as the plugin says it":                 writes("plugin_daemon", `psycopg2.OperationalError: connection to server at "db.example.com" (192.0.2.7), port 5432 failed: FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute`),
		"a plugin's own pool, which is full":              writes("plugin_daemon", "sqlalchemy.exc.TimeoutError: QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00"),
		"another's trouble":                               writes("agent", `msg="somebody asked for the identity of another container" error="the device 3 of a connection"`),
		"three that were told to end": func(c *Case) {
			for n := range 3 {
				name := fmt.Sprint("demo-vm-x", n)
				c.Lines = append(c.Lines, ops.LogLine{At: now, Instance: name, Container: "agent", Text: `msg="the metadata are read"`},
					ops.LogLine{At: now, Instance: name, Container: "agent", Text: `msg="ending: no new requests are wanted"`})
			}
		},
		"two that ended early": func(c *Case) { writes("agent", began)(c); c.Lines[2].Instance = "gone" },
		"no domain":            func(c *Case) { c.Domain, c.Addresses = "", nil },
		"a user's words":       writes("web", "TCP_DENIED/403"),
		"both families of addresses": func(c *Case) {
			c.Addresses = []netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::ffff:203.0.113.7")}
		},
	} {
		c := well()
		change(c)
		if got := codes(Examine(c)); len(got) > 0 {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// TestMild has what may pass by itself, or has passed: it is told, and is no reason to wake anybody.
func TestMild(t *testing.T) {
	long := func(change func(*Case)) func(*Case) {
		return func(c *Case) {
			change(c)
			c.Status.Instances[1].Report.Since = now.Add(-time.Hour)
		}
	}
	locked := func(change func(*Case)) func(*Case) {
		return func(c *Case) { change(c); c.Status.Lock = &state.Holder{} }
	}
	lately := func(change func(*Case)) func(*Case) {
		return func(c *Case) { change(c); c.Lines[len(c.Lines)-1].At = now.Add(-time.Minute) }
	}
	asks := waits(report.Stores, "the database has a name that is not known yet")
	full := writes("api", "write /tmp/x: no space left on device")
	for _, of := range []struct {
		what   string
		change func(*Case)
		grave  bool
	}{
		{"a store that is being made", asks, false},
		{"a store that does not come", long(asks), true},
		{"the same, while somebody is at work", locked(long(asks)), false},
		{"a store that serving instances miss", check("the database", "does not answer in time"), true},
		{"a line of an hour ago", full, false},
		{"a line of a minute ago", lately(full), true},
		{"some are healthy", func(c *Case) { c.Status.Healthy = 1 }, false},
		{"none is healthy", func(c *Case) { c.Status.Healthy = 0 }, true},
		{"a container that was started again", func(c *Case) { c.Status.Instances[1].Report.Containers.All[1].Restarts = 7 }, false},
	} {
		c := well()
		of.change(c)
		if r := Examine(c); len(r.Findings) == 0 || r.Grave() != of.grave {
			t.Errorf("%s: %v, grave: %t", of.what, codes(r), r.Grave())
		}
	}
}

// TestUnread has sources that could not be read: what they show is not said to be well.
func TestUnread(t *testing.T) {
	c := well()
	c.Unread[Plan], c.Unread[Logs] = "403", "refused"
	c.Plan, c.Lines = nil, nil
	r := Examine(c)
	status := well()
	status.Unread[Cloud] = "403"
	if blind := Examine(status).Blind; !slices.Contains(blind, "domain") || !slices.Contains(blind, "dies-young") {
		t.Errorf("without a status, only %v are not looked for", blind)
	}
	var want []string
	for _, i := range Illnesses() {
		if i.Source == Plan || i.Source == Logs {
			want = append(want, i.Code)
		}
	}
	if d := cmp.Diff(want, r.Blind); d != "" || r.Looked+len(want) != len(Illnesses()) || len(r.Findings) > 0 {
		t.Errorf("%d were looked for, %d found (-want +got):\n%s", r.Looked, len(r.Findings), d)
	}
}

// TestOrder has the grave ones first, and many lines told in short, the last ones.
func TestOrder(t *testing.T) {
	c := well()
	writes("agent", `3 lines were refused by Cloud Logging, and are lost`)(c)
	for n := range 100 {
		c.Lines = append(c.Lines, ops.LogLine{At: now.Add(time.Duration(n-100) * time.Minute), Instance: "demo-vm-1", Container: "api", Text: fmt.Sprintf("Incorrect decryption. %d", n/2)})
	}
	r := Examine(c)
	if len(r.Findings) != 2 || !r.Grave() {
		t.Fatalf("%+v", r)
	}
	want := []string{"demo-vm-1 api: Incorrect decryption. 49", "demo-vm-1 api: Incorrect decryption. 48", "demo-vm-1 api: Incorrect decryption. 47"}
	if f := r.Findings[0]; f.Code != "key-changed" || f.Times != 100 || !f.Last.Equal(now.Add(-time.Minute)) || cmp.Diff(want, f.Seen) != "" {
		t.Errorf("%+v", f)
	}
	if r.Findings[1].Code != "lines-lost" || r.Findings[1].Grave {
		t.Errorf("%+v", r.Findings[1])
	}
}

// TestIllnesses checks that each is told as a whole, and once.
func TestIllnesses(t *testing.T) {
	known := map[string]bool{}
	sources := map[Source]int{}
	for _, i := range Illnesses() {
		if known[i.Code] {
			t.Errorf("%s is there twice", i.Code)
		}
		known[i.Code] = true
		sources[i.Source]++
		for what, text := range map[string]string{"cause": i.Cause, "remedy": i.Remedy} {
			if !strings.HasSuffix(text, ".") {
				t.Errorf("%s: its %s is no sentence: %q", i.Code, what, text)
			}
		}
		if i.Title == "" || i.Sign == "" || strings.HasSuffix(i.Title+i.Sign, ".") {
			t.Errorf("%s: %q, %q", i.Code, i.Title, i.Sign)
		}
		if (i.find == nil) == (i.Source != Logs) && i.Code != "dies-young" || (i.marks != nil) != (i.Source == Logs) {
			t.Errorf("%s is seen in %s by other means", i.Code, i.Source)
		}
	}
	if len(known) < 40 || len(sources) != 5 {
		t.Errorf("%d are known, in %v", len(known), slices.Sorted(maps.Keys(sources)))
	}
}

// TestResetIsTheLastResort checks that whoever is told of Dify's command that gives keys anew, to every workspace, is told first of what
// brings one back, and of what the command takes away.
func TestResetIsTheLastResort(t *testing.T) {
	for _, i := range Illnesses() {
		before, after, ok := strings.Cut(i.Remedy, "reset-encrypt-key-pair")
		if !ok {
			continue
		}
		if !strings.Contains(before, "older version") || !strings.Contains(before, "backup") {
			t.Errorf("%s: nothing is to be tried before the reset: %q", i.Code, i.Remedy)
		}
		for _, says := range []string{"every workspace", "model credentials", "tools", "MCP servers", "last resort", "backup of the database"} {
			if !strings.Contains(after, says) {
				t.Errorf("%s: of the reset it is not said: %s: %q", i.Code, says, i.Remedy)
			}
		}
	}
}
