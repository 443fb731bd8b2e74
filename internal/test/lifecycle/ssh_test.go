//go:build linux

package lifecycle

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestExec runs commands on an instance of a rehearsal: as the user, in the directory and with the environment of what runs there. Their
// exit status is difyup's.
func TestExec(t *testing.T) {
	s := newStack(t)
	s.run("apply", "--yes")
	name := s.info().Instances[0].Name
	run := func(verb string, args ...string) (status int, out, log string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(programs, "difyup"), append([]string{verb, "--local", "--file", s.file, "--dir", s.dir}, args...)...)
		cmd.Env = append(os.Environ(), "NO_COLOR=1")
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("what is typed\n"), &stdout, &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return exit.ExitCode(), stdout.String(), stderr.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		return 0, stdout.String(), stderr.String()
	}
	home := filepath.Join(s.dir, "instances", "demo-project", name, "home")
	const show = `cat; pwd; echo "$STANDIN_INSTANCE $DIFYUP_SPOOL"; id -u; exit 5`
	status, out, log := run("exec", name, "api", "--", "sh", "-c", show)
	lines := strings.Split(out, "\n")
	if status != 5 || log != "" || len(lines) != 5 || lines[0] != "what is typed" || lines[1] != home || lines[2] != name+" " {
		t.Errorf("exec: %d\n%s%s", status, out, log)
	} else if os.Geteuid() == 0 && lines[3] == "0" {
		t.Error("a command on an instance runs as root")
	}
	status, out, log = run("ssh", name, "--", "sh", "-c", show)
	if status != 5 || log != "" || !strings.HasPrefix(out, "what is typed\n"+home+"\n "+filepath.Join(home, "logs")+"\n") {
		t.Errorf("ssh: %d\n%s%s", status, out, log)
	}
	if status, out, log := run("exec", name, "api", "--", "sh", "-c", "kill -9 $$"); status != 137 || out+log != "" {
		t.Errorf("a command that is killed: %d\n%s%s", status, out, log)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"exec", name + "x", "api", "--", "true"}, "No such instance"}, {[]string{"exec", name, "apy", "--", "true"}, "Unknown container"},
		{[]string{"exec", name, "api"}, "Missing argument"}, {[]string{"ssh"}, "Missing argument"},
	} {
		if status, _, log := run(c.args[0], c.args[1:]...); status != 1 || !strings.Contains(log, c.says) {
			t.Errorf("%v: %d\n%s", c.args, status, log)
		}
	}
}
