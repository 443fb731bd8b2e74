//go:build linux

package lifecycle

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/difyup/difyup/internal/dify"
	"github.com/difyup/difyup/internal/test/need"
)

// question asks a metadata server for something, and prints what it answers.
func question(url string) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Metadata-Flavor", "Google")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

// TestContainersTokens takes, as an instance's user, the tokens that its services are given, and does with each what is its
// service's, and what is not.
func TestContainersTokens(t *testing.T) {
	need.Root(t, "root alone can play another user")
	s := newStack(t)
	s.run("apply", "--yes")
	info := s.info()
	agents := visible(filepath.Join(info.Dir, "instances"))
	places := map[dify.Name]string{}
	uid := uint32(0)
	for _, a := range agents {
		if len(a.words) < 3 || a.words[1] != "standin" || places[dify.Name(a.words[2])] != "" {
			continue
		}
		stat, err := os.Stat(fmt.Sprintf("/proc/%d", a.pid))
		if err != nil {
			t.Fatal(err)
		}
		if owner := stat.Sys().(*syscall.Stat_t).Uid; uid == 0 {
			uid = owner
		} else if owner != uid { // another instance's
			continue
		}
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", a.pid))
		if err != nil {
			t.Fatal(err)
		}
		places[dify.Name(a.words[2])] = "none"
		for v := range strings.SplitSeq(string(environ), "\x00") {
			if host, ok := strings.CutPrefix(v, "GCE_METADATA_HOST="); ok {
				places[dify.Name(a.words[2])] = host
			}
		}
	}
	tokens := map[dify.Name]string{}
	for _, n := range dify.Names() {
		if (places[n] == "none") != (n.Ask() == "") {
			t.Errorf("%s asks at %q", n, places[n])
		}
		if n.Ask() == "" {
			continue
		}
		for as, answered := range map[uint32]bool{uid: true, uid + 1: false, 0: false} {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = []string{"QUESTION=http://" + places[n] + "/computeMetadata/v1/instance/service-accounts/default/token"}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: as, Gid: as}}
			out, err := cmd.Output()
			if (err == nil) != answered {
				t.Errorf("%s is asked by user %d, and not %d: %v %s", n, as, uid, err, out)
			}
			var answer struct {
				Token string `json:"access_token"`
			}
			if err := json.Unmarshal(out, &answer); as == uid && (err == nil) != (n != dify.WorkerBeat) {
				t.Errorf("%s is given %s", n, out)
			} else if as == uid {
				tokens[n] = answer.Token
			}
		}
	}

	const files = "storage/v1/b/demo-project-demo-files"
	upload := func(name string) (string, string) {
		return "POST", "upload/" + files + "/o?uploadType=media&name=" + name
	}
	for _, name := range []string{"privkeys/t/private.pem", "plugin/a", "persistence/b", "upload_files/c"} {
		method, path := upload(name)
		if code, answer := send(t, info, info.Token, method, path, "x"); code != http.StatusOK {
			t.Fatalf("%s: %d %v", path, code, answer)
		}
	}
	const key = files + "/o/privkeys%2Ft%2Fprivate.pem"
	for _, r := range []struct {
		request                   string // METHOD PATH [BODY]
		pluginDaemon, api, worker int    // who asks one after the other
	}{
		{"GET " + files, 403, 200, 200},
		{"GET " + files + "/o", 403, 200, 200},
		{"GET " + files + "/o?prefix=plugin/", 200, 200, 200},
		{"GET " + files + "/o?prefix=p", 403, 200, 200},
		{"GET " + files + "/o?prefix=privkeys/", 403, 200, 200},
		{"GET " + files + "/o?prefix=upload_files/", 403, 200, 200},
		{"GET " + files + "/o/plugin%2Fa?alt=media", 200, 200, 200},
		{"GET " + files + "/o/persistence%2Fb?alt=media", 200, 200, 200},
		{"GET " + files + "/o/upload_files%2Fc?alt=media", 403, 200, 200},
		{"GET " + key, 403, 200, 200},
		{"GET " + key + "?alt=media", 403, 200, 200},
		{"POST upload/" + files + "/o?uploadType=media&name=plugin_packages/d", 200, 200, 200},
		{"POST upload/" + files + "/o?uploadType=media&name=assets/e", 200, 200, 200},
		{"POST upload/" + files + "/o?uploadType=media&name=upload_files/f", 403, 200, 200},
		{"POST upload/" + files + "/o?uploadType=media&name=privkeys/t/private.pem", 403, 200, 200},
		{"POST " + files + "/o/plugin%2Fa/copyTo/b/demo-project-demo-files/o/assets%2Fg", 200, 200, 200},
		{"POST " + key + "/copyTo/b/demo-project-demo-files/o/plugin%2Fstolen", 403, 200, 200},
		{"POST " + key + "/rewriteTo/b/demo-project-demo-files/o/plugin%2Fstolen", 403, 200, 200},
		{"POST " + files + "/o/upload_files%2Fc/rewriteTo/b/demo-project-demo-files/o/plugin%2Fstolen", 403, 200, 200},
		{"POST " + files + `/o/plugin%2Fstolen/compose {"sourceObjects":[{"name":"privkeys/t/private.pem"}]}`, 403, 200, 200},
		{"POST " + files + "/o/plugin%2Fa/copyTo/b/demo-project-demo-files/o/privkeys%2Ft%2Fprivate.pem", 403, 200, 200},
		{"PATCH " + key + ` {"metadata":{"mine":"1"}}`, 403, 200, 200},
		{"DELETE " + files + "/o/plugin%2Fa", 204, 404, 404},
		{"DELETE " + key, 403, 204, 404},
		{"PATCH " + files + ` {"labels":{"mine":"1"}}`, 403, 403, 403},
		{"DELETE " + files, 403, 403, 403},
		{"GET " + files + "/iam", 403, 403, 403},
		{"GET storage/v1/b/demo-project-demo-agent", 403, 403, 403},
		{"GET storage/v1/b/demo-project-demo-agent/o", 403, 403, 403}, // the instance itself may
		{"POST upload/storage/v1/b/demo-project-demo-agent/o?uploadType=media&name=plugin/x", 403, 403, 403},
		{"POST " + files + "/o/persistence%2Fb/copyTo/b/demo-project-demo-agent/o/plugin%2Fx", 403, 403, 403},
		{"GET storage/v1/b/demo-project-demo-difyup/o", 403, 403, 403},
		{"GET storage/v1/b/demo-project-demo-difyup/o/state.json", 403, 403, 403},
		{"GET storage/v1/b?project=demo-project", 403, 403, 403},
		{`POST storage/v1/b?project=demo-project {"name":"demo-project-mine"}`, 403, 403, 403},
		{"GET v1/projects/demo-project/secrets", 403, 403, 403},
		{"GET v1/projects/demo-project/secrets/demo-db-password/versions/1:access", 403, 403, 403}, // the instance itself may
		{"GET v1/projects/demo-project/secrets/demo-secret-key/versions/1:access", 403, 403, 403},
		{"GET compute/v1/projects/demo-project/global/instanceTemplates", 403, 403, 403},
		{"GET compute/v1/projects/demo-project/aggregated/instances", 403, 403, 403},
		{"GET v1/projects/demo-project/instances", 403, 403, 403},
		{`POST v2/entries:write {"entries":[{"logName":"projects/demo-project/logs/x","textPayload":"x"}]}`, 403, 403, 403}, // the instance itself may
		{`POST v3/projects/demo-project/timeSeries {"timeSeries":[]}`, 403, 403, 403},                                       // and this
		{"GET v1/projects/demo-project", 403, 403, 403},
		{"GET local/v1/status", 403, 403, 403},
	} {
		words := append(strings.SplitN(r.request, " ", 3), "")
		for _, of := range []struct {
			n    dify.Name
			want int
		}{{dify.PluginDaemon, r.pluginDaemon}, {dify.API, r.api}, {dify.Worker, r.worker}} {
			if code, answer := send(t, info, tokens[of.n], words[0], words[1], words[2]); code != of.want {
				t.Errorf("with the token of %s %s: %d %v, want %d", of.n, r.request, code, answer, of.want)
			}
		}
	}
	if said := s.check(); said != "" {
		t.Errorf("smoke says:\n%s", said)
	}
}
