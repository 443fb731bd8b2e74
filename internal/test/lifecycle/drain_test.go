//go:build linux

package lifecycle

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/localcloud"
)

// TestDraining has instances leave in every way there is while users ask, stream, and have work done by the queue: one is deleted
// and made anew, one is told to end without the load balancer's knowing, and all are replaced. No request may fail and no stream may break off
// before its last event, which a worker publishes when its task is done: so no task is lost either. That a worker which is killed
// loses its task is shown by TestLostTask of package standin.
func TestDraining(t *testing.T) {
	const password = "0wnerOfEverything"
	t.Setenv("DIFYUP_SMOKE_PASSWORD", password)
	s := newStack(t)
	s.run("apply", "--yes")
	s.run("smoke", "--email", "owner@example.com", "--setup")
	u := s.user("owner@example.com", password)
	// The longest is longer than what the load balancer alone waits for, in a cloud whose time is scaled to nothing.
	apps := []string{u.app("short", 1000), u.app("long", 8000)}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var (
		users  sync.WaitGroup
		mu     sync.Mutex
		done   = map[string]int{} // by what was done
		failed []string
	)
	often := func(what string, f func() error) {
		users.Go(func() {
			for ; ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
				err := f()
				mu.Lock()
				if done[what]++; err != nil {
					failed = append(failed, fmt.Sprintf("%s: %s: %v", time.Now().Format(time.StampMilli), what, err))
				}
				mu.Unlock()
			}
		})
	}
	often("page", func() error { return u.get("/") })
	often("profile", func() error { return u.get("/console/api/account/profile") })
	for _, app := range apps {
		often("run of "+app, func() error { return u.runs(app) })
		often("run of "+app, func() error { return u.runs(app) })
	}
	// more waits until everything was done once more by those who began after now.
	more := func() {
		t.Helper()
		mu.Lock()
		before := map[string]int{}
		for what, n := range done {
			before[what] = n
		}
		mu.Unlock()
		for end := time.Now().Add(5 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			mu.Lock()
			enough := len(done) == 4
			for what, n := range done {
				enough = enough && n >= before[what]+4
			}
			mu.Unlock()
			if enough {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("users cannot go on: %v, and before %v", done, before)
			}
		}
	}
	// without waits until an instance's program is another, and both instances are ready.
	without := func(name string, pid int) {
		t.Helper()
		said := ""
		for end := time.Now().Add(5 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
			now := s.info().Instances
			ready := 0
			for _, i := range now {
				resp, err := http.Get("http://" + i.Address + ":1080/health")
				if err != nil {
					said = err.Error()
					continue
				}
				resp.Body.Close()
				if said = resp.Status; resp.StatusCode == http.StatusOK {
					ready++
				}
			}
			if again := agentOf(t, s.dir, name); ready == 2 && len(now) == 2 && again != pid && again != 0 {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s is not replaced: %+v, %s", name, now, said)
			}
		}
	}
	more()

	first := s.info().Instances[0]
	pid := agentOf(t, s.dir, first.Name)
	s.recreate(first)
	without(first.Name, pid)
	more()

	second := s.info().Instances[1]
	pid = agentOf(t, s.dir, second.Name)
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	without(second.Name, pid)
	more()

	edited, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	edited = bytes.Replace(edited, fmt.Appendf(nil, "machine_type: %s", was(edited)), []byte("machine_type: e2-standard-8"), 1)
	if err := os.WriteFile(s.file, edited, 0o644); err != nil {
		t.Fatal(err)
	}
	s.run("apply", "--yes")
	more()
	stop()
	users.Wait()
	if len(failed) > 0 {
		t.Errorf("%d failed:\n%s", len(failed), strings.Join(failed[:min(len(failed), 10)], "\n"))
	}
	t.Log(done)
}

// agentOf gives the process that is an instance's program; 0 for none.
func agentOf(t *testing.T, dir, name string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue // gone
		}
		if words := strings.Split(string(raw), "\x00"); strings.HasPrefix(words[0], dir) && strings.HasSuffix(words[0], "/"+name+"/difyup-agent") && words[1] != "standin" {
			pid, err := strconv.Atoi(strings.Split(file, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	return 0
}

// recreate has Google delete an instance and make it anew.
func (s *stack) recreate(i localcloud.Instance) {
	s.t.Helper()
	s.google(http.MethodPost, s.group(i.Project)+"/recreateInstances", map[string]any{"instances": []string{"zones/" + i.Zone + "/instances/" + i.Name}}, nil)
}

// group gives the URL of the group of a project's instances.
func (s *stack) group(project string) string {
	s.t.Helper()
	info := s.info()
	var list struct {
		Items map[string]struct {
			Managers []struct{ SelfLink string } `json:"instanceGroupManagers"`
		}
	}
	s.google(http.MethodGet, info.URL+"compute/v1/projects/"+project+"/aggregated/instanceGroupManagers", nil, &list)
	for _, scope := range list.Items {
		for _, m := range scope.Managers {
			_, path, _ := strings.Cut(m.SelfLink, "/compute/v1/")
			return info.URL + "compute/v1/" + path
		}
	}
	s.t.Fatal("there is no group")
	return ""
}

// google asks the local cloud as its owner.
func (s *stack) google(method, url string, in, out any) {
	s.t.Helper()
	raw, err := json.Marshal(in)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, url, bytes.NewReader(raw))
	if err != nil {
		s.t.Fatal(err)
	}
	if in == nil {
		req.Body, req.ContentLength = nil, 0
	} else {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Authorization", "Bearer "+s.info().Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err = io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("%s %s: %s %v %s", method, url, resp.Status, err, raw)
	}
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			s.t.Fatal(err)
		}
	}
}

// user is somebody who is logged in to Dify's console, through the load balancer. It may be used by several at once.
type user struct {
	t      testing.TB
	url    string
	http   *http.Client
	cookie string
	csrf   string
}

func (s *stack) user(email, password string) *user {
	s.t.Helper()
	listeners := s.info().Listeners
	u := &user{t: s.t, http: web()}
	u.url = listeners[slices.IndexFunc(listeners, func(l localcloud.Listener) bool { return l.Scheme == "https" })].URL()
	resp, err := u.send(http.MethodPost, "/console/api/login", map[string]any{"email": email, "password": base64.StdEncoding.EncodeToString([]byte(password))})
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, c := range resp.Cookies() {
		u.cookie += c.Name + "=" + c.Value + "; "
		if strings.HasSuffix(c.Name, "csrf_token") {
			u.csrf = c.Value
		}
	}
	return u
}

// send sends a request, whose answer must be well.
func (u *user) send(method, path string, in any) (*http.Response, error) {
	raw, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(u.t.Context(), method, u.url+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Cookie", u.cookie)
	req.Header.Set("X-CSRF-Token", u.csrf)
	resp, err := u.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		raw, err := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("%s: %s from %s: %s %v", path, resp.Status, resp.Header.Get(dify.InstanceHeader), raw, err)
	}
	return resp, nil
}

func (u *user) get(path string) error {
	resp, err := u.send(http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// app makes a workflow that takes some time.
func (u *user) app(name string, milliseconds int) string {
	u.t.Helper()
	resp, err := u.send(http.MethodPost, "/console/api/apps", map[string]any{"name": name, "mode": "workflow"})
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	var app struct{ ID string }
	if err := json.NewDecoder(resp.Body).Decode(&app); err != nil {
		u.t.Fatal(err)
	}
	node := func(id string) map[string]any {
		return map[string]any{"id": id, "data": map[string]any{"standin_milliseconds": milliseconds / 2}}
	}
	draft, err := u.send(http.MethodPost, "/console/api/apps/"+app.ID+"/workflows/draft", map[string]any{
		"graph": map[string]any{"nodes": []any{node("start"), node("end")}}, "features": map[string]any{}, "environment_variables": []any{},
	})
	if err != nil {
		u.t.Fatal(err)
	}
	draft.Body.Close()
	return app.ID
}

// runs runs a workflow, and reads its events to the last.
func (u *user) runs(app string) error {
	resp, err := u.send(http.MethodPost, "/console/api/apps/"+app+"/workflows/draft/run", map[string]any{"inputs": map[string]any{}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var events []string
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		raw, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var e struct{ Event string }
		if err := json.Unmarshal([]byte(raw), &e); err != nil {
			return err
		}
		events = append(events, e.Event)
	}
	want := []string{"workflow_started", "node_started", "node_finished", "node_started", "node_finished", "workflow_finished"}
	if err := lines.Err(); err != nil || !slices.Equal(events, want) {
		return fmt.Errorf("the stream from %s ends with %v after %v", resp.Header.Get(dify.InstanceHeader), err, events)
	}
	return nil
}
