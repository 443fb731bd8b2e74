package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/config"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/ops"
)

// TestGcloudArguments has a gcloud that writes its arguments, one a line, called for what a user asks.
func TestGcloudArguments(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gcloud"), []byte("#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 7\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	const common = "compute\nssh\ndemo-vm-x1\n--project\ndemo-project\n--zone\nasia-northeast1-b\n"
	iap := config.Network{IAPSSH: true}
	for _, c := range []struct {
		name     string
		network  config.Network
		o        sshOptions
		terminal bool
		want     string
	}{
		{"log in", iap, sshOptions{}, true, common + "--tunnel-through-iap\n"},
		{"log in by VPN", config.Network{SSHRanges: []string{"10.0.0.0/8"}}, sshOptions{}, true, common + "--internal-ip\n"},
		{"a command", iap, sshOptions{command: []string{"journalctl", "-u", "difyup-agent"}}, false, common + "--tunnel-through-iap\n--command\njournalctl -u difyup-agent\n"},
		{"a command on a terminal", iap, sshOptions{command: []string{"top"}}, true, common + "--tunnel-through-iap\n--command\ntop\n--\n-t\n"},
		{"in a container", iap, sshOptions{container: "api", command: []string{"sh", "-c", `echo "it's $HOME"; ls *`}}, false,
			common + "--tunnel-through-iap\n--command\n" + `sudo docker exec --interactive dify-api-1 sh -c 'echo "it'\''s $HOME"; ls *'` + "\n"},
		{"in a container on a terminal", iap, sshOptions{container: "worker", command: []string{"bash"}}, true,
			common + "--tunnel-through-iap\n--command\nsudo docker exec --interactive --tty dify-worker-1 bash\n--\n-t\n"},
	} {
		c.o.instance = "demo-vm-x1"
		cmd, err := c.o.gcloud(context.Background(), &config.Spec{Project: "demo-project", Network: c.network}, "asia-northeast1-b", c.terminal)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var out bytes.Buffer
		a := &app{Stdio: Stdio{In: strings.NewReader(""), Out: &out, Err: t.Output()}}
		if err := a.become(cmd); err != nil || a.code != 7 {
			t.Errorf("%s: status %d, %v", c.name, a.code, err)
		}
		if d := cmp.Diff(c.want, out.String()); d != "" {
			t.Errorf("%s: arguments (-want +got):\n%s", c.name, d)
		}
	}

	var f *fault.Fault
	if _, err := new(sshOptions).gcloud(t.Context(), &config.Spec{}, "z", false); !errors.As(err, &f) || f.Summary != "No way to the instances" {
		t.Errorf("where SSH is let in from nowhere: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := new(sshOptions).gcloud(t.Context(), &config.Spec{Network: iap}, "z", false); !errors.As(err, &f) || f.Summary != "gcloud is missing" {
		t.Errorf("without gcloud: %v", err)
	}
}

// TestWhichInstance refuses instances and containers that there are not, before anything is run.
func TestWhichInstance(t *testing.T) {
	all := []ops.Instance{{Name: "demo-vm-x1", Zone: "z-a"}, {Name: "demo-vm-x2", Zone: "z-b"}}
	for _, c := range []struct {
		o          sshOptions
		zone, says string
	}{
		{sshOptions{instance: "demo-vm-x2"}, "z-b", ""},
		{sshOptions{instance: "demo-vm-x2", container: "api"}, "z-b", ""},
		{sshOptions{instance: "demo-vm-x2", container: "; reboot"}, "", "Unknown container"},
		{sshOptions{instance: "--help"}, "", "No such instance"},
		{sshOptions{instance: "demo-vm-y1"}, "", "No such instance"},
	} {
		zone, err := c.o.known(all)
		var f *fault.Fault
		says := ""
		if errors.As(err, &f) {
			says = f.Summary
		}
		if zone != c.zone || says != c.says {
			t.Errorf("%+v gives %q, %q", c.o, zone, says)
		}
	}
}
