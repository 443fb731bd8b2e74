//go:build linux

package lifecycle

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/difyup/difyup/internal/localcloud"
	"github.com/difyup/difyup/internal/test/need"
)

// intrude is another user of the machine, who knows what /proc shows everybody, and all names of the example stack. It
// prints a line for everything that it tried, beginning with "refused" or "BREACH".
func intrude(block, dir string) {
	tried := map[string]int{}
	report := func(what, detail string, breach bool) {
		tried[what]++
		if breach {
			fmt.Printf("BREACH %s: %s\n", what, detail)
		}
	}
	for _, at := range listening(block) {
		host, port, _ := net.SplitHostPort(at)
		switch {
		case strings.HasPrefix(host, block+"1."): // the load balancer, which is there for all
		case port == "5432":
			intrudeSQL(at, report)
		case port == "6379":
			intrudeRedis(at, report)
		default:
			intrudeHTTP(at, report)
		}
	}
	intrudeFiles(dir, report)
	intrudeProcesses(dir, report)
	for _, what := range slices.Sorted(func(yield func(string) bool) {
		for k := range tried {
			if !yield(k) {
				return
			}
		}
	}) {
		fmt.Printf("tried %s %d\n", what, tried[what])
	}
}

// listening gives the TCP listeners whose address begins so, "127.64.", from the kernel's table.
func listening(prefix string) []string {
	raw, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		fmt.Println("cannot read the table of sockets:", err)
		return nil
	}
	var out []string
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "0A" {
			continue
		}
		var a, b, c, d, port int
		if n, _ := fmt.Sscanf(f[1], "%02X%02X%02X%02X:%04X", &d, &c, &b, &a, &port); n == 5 {
			if addr := fmt.Sprintf("%d.%d.%d.%d", a, b, c, d); strings.HasPrefix(addr, prefix) {
				out = append(out, fmt.Sprintf("%s:%d", addr, port))
			}
		}
	}
	return out
}

// intrudeHTTP asks what may be the API or a metadata server.
func intrudeHTTP(at string, report func(what, detail string, breach bool)) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	root, host := "http://"+at, ""
	if strings.HasSuffix(at, ".0.1:443") { // the APIs by Google's names
		root, host = "https://"+at, "storage.googleapis.com"
	}
	for _, r := range []struct{ method, path, body string }{
		{"GET", "/local/v1/status", ""},
		{"PUT", "/local/v1/delay", `{"milliseconds":60000}`},
		{"POST", "/local/v1/keep", ""},
		{"POST", "/local/v1/shutdown", ""},
		{"GET", "/compute/v1/projects/demo-project/global/instanceTemplates", ""},
		{"POST", "/compute/v1/projects/demo-project/global/networks", `{"name":"intruder","autoCreateSubnetworks":false}`},
		{"GET", "/storage/v1/b?project=demo-project", ""},
		{"GET", "/storage/v1/b/demo-project-demo-difyup/o/state.json?alt=media", ""},
		{"POST", "/upload/storage/v1/b/demo-project-demo-files/o?uploadType=media&name=agent/evil", "#!/bin/sh"},
		{"DELETE", "/storage/v1/b/demo-project-demo-difyup/o/state.json", ""},
		{"GET", "/v1/projects/demo-project/secrets/demo-db-password/versions/latest:access", ""},
		{"POST", "/v1/projects/demo-project:setIamPolicy", `{"policy":{"bindings":[{"role":"roles/owner","members":["allUsers"]}]}}`},
		{"GET", "/computeMetadata/v1/instance/service-accounts/default/token", ""},
		{"GET", "/computeMetadata/v1/instance/attributes/?recursive=true", ""},
		{"GET", "/computeMetadata/v1/project/attributes/difyup-api-endpoint", ""},
		{"PUT", "/computeMetadata/v1/instance/guest-attributes/difyup/status", "well"},
		{"GET", "/", ""},
	} {
		for _, token := range []string{"", "garbage", "owner", "null"} {
			req, err := http.NewRequest(r.method, root+r.path, strings.NewReader(r.body))
			if err != nil {
				fmt.Println(err)
				return
			}
			req.Host = host // "" is the URL's
			req.Header.Set("Metadata-Flavor", "Google")
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			resp, err := client.Do(req)
			if err != nil { // speaks no HTTP: the name server
				report("something else", err.Error(), false)
				return
			}
			raw, _ := io.ReadAll(resp.Body) // what was read is looked at
			resp.Body.Close()
			what := "the API"
			if resp.Header.Get("Metadata-Flavor") != "" {
				what = "a metadata server"
			} else if host, _, _ := net.SplitHostPort(at); !strings.HasSuffix(host, ".0.1") {
				report("what an instance itself serves", at, false) // a firewall would close it; there is none on loopback
				return
			}
			report(what, fmt.Sprintf("%s %s with %q: %s %.200s", r.method, req.URL, token, resp.Status, raw), resp.StatusCode != 401 && resp.StatusCode != 403)
		}
	}
}

func intrudeSQL(at string, report func(what, detail string, breach bool)) {
	host, _, _ := net.SplitHostPort(at)
	for _, user := range []string{"cloudsqladmin", "postgres", "dify", "vector", "root", "nobody"} {
		for _, password := range []string{"", user, "password", "postgres", "difyai123456"} {
			for _, ssl := range []string{"disable"} {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				c, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=5432 user=%s password='%s' dbname=postgres sslmode=%s", host, user, password, ssl))
				report("PostgreSQL", fmt.Sprintf("%s as %s with %q", at, user, password), err == nil)
				if err == nil {
					c.Close(ctx)
				}
				cancel()
			}
		}
	}
}

func intrudeRedis(at string, report func(what, detail string, breach bool)) {
	for _, said := range []string{"PING", "INFO", "CONFIG GET requirepass", "AUTH redis", "AUTH default difyai123456", "AUTH x", "SLAVEOF NO ONE", "HELLO 3"} {
		c, err := net.DialTimeout("tcp", at, 5*time.Second)
		if err != nil {
			report("Redis", err.Error(), false)
			continue
		}
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		fmt.Fprintf(c, "%s\r\n", said)
		answer, _ := bufio.NewReader(c).ReadString('\n') // "" is no breach
		c.Close()
		report("Redis", at+" "+said+": "+answer, answer != "" && !strings.HasPrefix(answer, "-NOAUTH") && !strings.HasPrefix(answer, "-WRONGPASS"))
	}
}

// intrudeFiles reads and writes what can be reached under a directory, and what must be there.
func intrudeFiles(dir string, report func(what, detail string, breach bool)) {
	guesses := []string{dir}
	for _, name := range []string{
		"cloud.json", "cloud.json.next", "token", "lock", "cloud.log", "objects", "sql", "redis", "instances", "sql/programs", "sql/programs/bin", "sql/demo-project_demo-main",
		"sql/demo-project_demo-main/data", "sql/demo-project_demo-main/data/base", "sql/demo-project_demo-main/data/pg_hba.conf", "sql/demo-project_demo-main/postgres.log", "instances/demo-project",
		"redis/demo-project_asia-northeast1_demo-redis", "redis/demo-project_asia-northeast1_demo-redis/redis.log", "redis/demo-project_asia-northeast1_demo-redis/dump.rdb",
	} {
		guesses = append(guesses, filepath.Join(dir, name))
	}
	for _, p := range visible(dir) { // paths of programs, which their command lines tell
		for _, word := range p.words {
			if strings.HasPrefix(word, dir+"/") && !slices.Contains(guesses, word) {
				guesses = append(guesses, word, filepath.Dir(word), filepath.Join(filepath.Dir(word), "serial.log"), filepath.Join(filepath.Dir(word), "home"))
			}
		}
	}
	for _, path := range guesses {
		_ = filepath.WalkDir(path, func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return nil // what cannot be looked into is gone round
			}
			if !d.IsDir() {
				f, err := os.Open(path)
				if err == nil {
					f.Close()
				}
				report("reading a file", path, err == nil)
				f, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
				if err == nil {
					f.Close()
				}
				report("writing a file", path, err == nil)
				return nil
			}
			_, err = os.ReadDir(path)
			report("listing a directory", path, err == nil)
			f, err := os.Create(filepath.Join(path, "intruder"))
			if err == nil {
				f.Close()
			}
			report("making a file", path, err == nil)
			err = os.Rename(path, path+".gone")
			report("moving a directory", path, err == nil)
			return nil
		})
		for _, flag := range []int{os.O_RDONLY, os.O_WRONLY} { // without a look
			f, err := os.OpenFile(path, flag, 0)
			if err == nil {
				f.Close()
			}
			report("opening by name", path, err == nil)
		}
	}
	if raw, err := os.ReadFile("/proc/net/unix"); err == nil {
		for line := range strings.Lines(string(raw)) {
			f := strings.Fields(line)
			if len(f) < 8 || !strings.Contains(f[7], dir) {
				continue
			}
			c, err := net.Dial("unix", f[7])
			if err == nil {
				c.Close()
			}
			report("a Unix socket", f[7], err == nil)
		}
	}
}

// process is one that a user can see.
type process struct {
	pid   int
	words []string
}

// visible gives the processes whose command lines name a directory.
func visible(dir string) []process {
	all, _ := filepath.Glob("/proc/[0-9]*")
	var out []process
	for _, p := range all {
		raw, err := os.ReadFile(filepath.Join(p, "cmdline"))
		if err != nil || !strings.Contains(string(raw), dir) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(p))
		out = append(out, process{pid, strings.Split(strings.TrimRight(string(raw), "\x00"), "\x00")})
	}
	return out
}

func intrudeProcesses(dir string, report func(what, detail string, breach bool)) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, p := range visible(dir) {
		for _, name := range []string{"environ", "mem", "maps", "auxv", "syscall"} {
			f, err := os.Open(fmt.Sprintf("/proc/%d/%s", p.pid, name))
			if err == nil {
				_, err = f.Read(make([]byte, 1))
				f.Close()
			}
			report("a process's "+name, strings.Join(p.words, " "), err == nil)
		}
		for _, name := range []string{"cwd", "exe", "root", "fd/1"} {
			_, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", p.pid, name))
			report("a process's "+name, strings.Join(p.words, " "), err == nil)
		}
		report("a signal", strings.Join(p.words, " "), syscall.Kill(p.pid, 0) == nil)
		err := syscall.PtraceAttach(p.pid)
		if err == nil {
			_ = syscall.PtraceDetach(p.pid)
		}
		report("ptrace", strings.Join(p.words, " "), err == nil)
	}
}

// as runs this test's program as the intruder, who is a user by number.
func as(t *testing.T, uid int, info *localcloud.Info) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // whose directory another user may not enter
	cmd.Env = []string{"INTRUDER_BLOCK=" + strings.TrimSuffix(info.Addresses, "0.0/16"), "INTRUDER_DIR=" + info.Dir}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the intruder: %v\n%s", err, out)
	}
	return string(out)
}

// TestIntruder has another user of the machine try everything that comes to mind on a running stack. Nothing can be read,
// changed or started.
func TestIntruder(t *testing.T) {
	need.Root(t, "root alone can play another user")
	s := newStack(t)
	s.run("apply", "--yes")
	before := s.info()
	const uid = 1_900_000_123 // nobody's
	out := as(t, uid, before)
	t.Log(out)
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "BREACH") {
			t.Error(strings.TrimSpace(line))
		}
	}
	// It has really knocked everywhere: the API in two places, two instances' metadata servers, two databases, the cache, the servers' and
	// the instances' processes.
	for _, want := range []string{
		"tried the API 136\n", "tried a metadata server 136\n", "tried PostgreSQL 60\n", "tried Redis 8\n", "tried opening by name ", "tried listing a directory ", "tried ptrace ", "tried a process's environ ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it did not say %q", want)
		}
	}
	after := s.info()
	before.Requests, after.Requests, before.Methods, after.Methods, before.Waited, after.Waited = 0, 0, nil, nil, 0, 0
	if d := cmp.Diff(before, after); d != "" {
		t.Errorf("the local cloud (-before +after):\n%s", d)
	}
	if said := s.check(); said != "" {
		t.Errorf("smoke says:\n%s", said)
	}
}

// send calls an API with a token, and gives status and answer.
func send(t *testing.T, info *localcloud.Info, token, method, path, body string) (int, map[string]any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, info.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer map[string]any
	_ = json.Unmarshal(raw, &answer) // no answer is one too
	return resp.StatusCode, answer
}

// TestInstanceTakenOver has the owner start a group whose program is a script, as whoever has taken over an instance could
// run one. It runs without rights: it can read nothing of the local cloud's, of the machine's or of the other instances',
// and its token is worth what its service account may do.
func TestInstanceTakenOver(t *testing.T) {
	need.Root(t, "root alone can play another user")
	s := newStack(t)
	s.run("apply", "--yes")
	info := s.info()
	agents := visible(filepath.Join(info.Dir, "instances"))
	if len(agents) == 0 {
		t.Fatal("no instance runs")
	}
	token := ""
	script := fmt.Sprintf(`#!/bin/sh
echo "user $(id -u) groups $(id -G)"
grep NoNewPrivs /proc/self/status
env | cut -d= -f1 | grep -v -e '^_$' -e '^PWD$' -e '^SHLVL$' -e '^OLDPWD$' | sort | tr '\n' ' '; echo
for f in %[1]s/token %[1]s/cloud.json %[1]s/cloud.log %[1]s/objects/* /etc/shadow %[1]s/sql/*/data/PG_VERSION /proc/%[2]d/environ /proc/%[3]d/environ %[4]s %[4]s/../serial.log; do
	if cat "$f" >/dev/null 2>&1; then echo "BREACH: read $f"; fi
done
for d in %[1]s %[1]s/instances %[1]s/instances/demo-project .. /root; do
	if touch "$d/evil" 2>/dev/null; then echo "BREACH: wrote $d"; fi
	if ls "$d" >/dev/null 2>&1; then echo "BREACH: listed $d"; fi
done
for p in %[2]d %[3]d; do if kill -0 $p 2>/dev/null; then echo "BREACH: signalled $p"; fi; done
touch "$HOME/mine" && echo "its home is its own"
setsid sleep 4321 &
echo done
sleep 600
`, info.Dir, info.PID, agents[0].pid, agents[0].words[0])
	sum := sha256.Sum256([]byte(script))
	must := func(method, path, body string) map[string]any {
		t.Helper()
		code, answer := send(t, info, info.Token, method, path, body)
		if code >= 300 {
			t.Fatalf("%s %s: %d %v", method, path, code, answer)
		}
		return answer
	}
	const compute = "compute/v1/projects/demo-project/"
	await := func(scope string, operation map[string]any) {
		t.Helper()
		for operation["status"] != "DONE" {
			operation = must("POST", compute+scope+"/operations/"+fmt.Sprint(operation["name"])+"/wait", "")
		}
		if operation["error"] != nil {
			t.Fatal(operation["error"])
		}
	}
	must("POST", "upload/storage/v1/b/demo-project-demo-files/o?uploadType=media&name=agent/evil", script)
	await("global", must("POST", compute+"global/instanceTemplates", fmt.Sprintf(`{"name":"evil","properties":{"machineType":"e2-small",
		"disks":[{"boot":true,"autoDelete":true,"initializeParams":{"sourceImage":"projects/ubuntu-os-cloud/global/images/family/ubuntu-2204-lts"}}],
		"networkInterfaces":[{"network":"projects/demo-project/global/networks/demo-net","subnetwork":"projects/demo-project/regions/asia-northeast1/subnetworks/demo-subnet"}],
		"serviceAccounts":[{"email":"demo-vm@demo-project.iam.gserviceaccount.com","scopes":["https://www.googleapis.com/auth/cloud-platform"]}],
		"metadata":{"items":[{"key":"difyup-agent","value":"gs://demo-project-demo-files/agent/evil"},{"key":"difyup-agent-sha256","value":%q}]}}}`, hex.EncodeToString(sum[:]))))
	await("regions/asia-northeast1", must("POST", compute+"regions/asia-northeast1/instanceGroupManagers", `{"name":"evil","baseInstanceName":"evil","targetSize":1,
		"versions":[{"instanceTemplate":"projects/demo-project/global/instanceTemplates/evil"}]}`))

	serial := ""
	uid := 0
	for end := time.Now().Add(time.Minute); !strings.Contains(serial, "\ndone\n"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the script did not run:\n%s", serial)
		}
		for _, i := range s.info().Instances {
			if strings.HasPrefix(i.Name, "evil-") {
				code, answer := send(t, info, info.Token, "GET", compute+"zones/"+i.Zone+"/instances/"+i.Name+"/serialPort", "")
				if code == http.StatusOK {
					serial = fmt.Sprint(answer["contents"])
				}
			}
		}
	}
	t.Log(serial)
	for line := range strings.Lines(serial) {
		if strings.Contains(line, "BREACH") {
			t.Error(strings.TrimSpace(line))
		}
		if strings.HasPrefix(line, "user ") {
			groups := 0
			if _, err := fmt.Sscanf(line, "user %d groups %d\n", &uid, &groups); err != nil || groups != uid {
				t.Errorf("it runs as %q", line)
			}
		}
	}
	if first, last, _ := strings.Cut(info.Users, "-"); uid == 0 || strconv.Itoa(uid) < first || strconv.Itoa(uid) > last {
		t.Errorf("it runs as user %d, not as one of %s", uid, info.Users)
	}
	for _, want := range []string{"NoNewPrivs:\t1\n", "\nDIFYUP_DNS DIFYUP_SPOOL GCE_METADATA_HOST HOME PATH \n", "its home is its own\n"} {
		if !strings.Contains(serial, want) {
			t.Errorf("it did not say %q", want)
		}
	}

	// As the instance's user: its own metadata server answers, the others' do not.
	for _, line := range strings.Split(as(t, uid, info), "\n") {
		if strings.HasPrefix(line, "BREACH a metadata server: GET") && strings.Contains(line, "/token") {
			if _, rest, ok := strings.Cut(line, `{"access_token":"`); ok && token == "" {
				token, _, _ = strings.Cut(rest, `"`)
				continue
			}
		}
	}
	if token == "" {
		t.Fatal("the instance got no token of its own")
	}
	const program = "storage/v1/b/demo-project-demo-agent" // may be read, and not written
	listed, ok := must("GET", program+"/o", "")["items"].([]any)
	if !ok || len(listed) != 1 {
		t.Fatalf("the bucket of the agent has %v", listed)
	}
	agent := program + "/o/" + fmt.Sprint(listed[0].(map[string]any)["name"])
	for _, r := range []struct {
		method, path, body string
		code               int
	}{
		{"GET", agent, "", 200},
		{"GET", agent + "?alt=media", "", 200},
		{"POST", "upload/" + program + "/o?uploadType=media&name=more", "x", 403},
		{"POST", "upload/" + strings.Replace(agent, "/o/", "/o?uploadType=media&name=", 1), "x", 403},
		{"PATCH", agent, `{"metadata":{"x":"y"}}`, 403},
		{"DELETE", agent, "", 403},
		{"PATCH", program, `{"labels":{}}`, 403},
		{"GET", program + "/iam", "", 403},
		{"PUT", program + "/iam", `{"bindings":[]}`, 403},
		{"GET", "v1/projects/demo-project/secrets/demo-db-password/versions/latest:access", "", 200}, // what it is for
		{"GET", "storage/v1/b/demo-project-demo-files/o", "", 200},
		{"GET", "storage/v1/b/demo-project-demo-difyup/o/state.json", "", 403},
		{"GET", compute + "global/instanceTemplates", "", 403},
		{"POST", compute + "global/instanceTemplates", `{"name":"more","properties":{}}`, 403},
		{"PATCH", compute + "regions/asia-northeast1/instanceGroupManagers/evil", `{"targetSize":5}`, 403},
		{"POST", "batch/compute/v1", "", 400}, // no parts
		{"GET", "sql/v1beta4/projects/demo-project/instances/demo-main/users", "", 403},
		{"POST", "v1/projects/demo-project:getIamPolicy", "{}", 403},
		{"POST", "v1/projects/demo-project:setIamPolicy", `{"policy":{}}`, 403},
		{"POST", "v1/projects/demo-project/serviceAccounts", `{"accountId":"more-rights"}`, 403},
		{"GET", "local/v1/status", "", 403},
		{"POST", "local/v1/shutdown", "", 403},
	} {
		if code, answer := send(t, info, token, r.method, r.path, r.body); code != r.code {
			t.Errorf("with the instance's token %s %s: %d %v, want %d", r.method, r.path, code, answer, r.code)
		}
	}

	// What it left behind goes with it. The intruder traced it, as the same user may, and a stopped program does not end by itself.
	for _, p := range visible(filepath.Join(info.Dir, "instances")) {
		if strings.Contains(strings.Join(p.words, " "), "/evil-") {
			_ = syscall.Kill(p.pid, syscall.SIGCONT) // it may be gone
		}
	}
	await("regions/asia-northeast1", must("DELETE", compute+"regions/asia-northeast1/instanceGroupManagers/evil", ""))
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		raw, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(raw), fmt.Sprintf("\nUid:\t%d\t", uid)) && !strings.Contains(string(raw), "\nState:\tZ") { // one that waits to be reaped has ended
			t.Errorf("a process of the instance's is left:\n%s", raw)
		}
	}
	must("DELETE", "storage/v1/b/demo-project-demo-files/o/agent%2Fevil", "")
}
