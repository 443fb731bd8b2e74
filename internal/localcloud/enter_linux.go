package localcloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Enter gives a command that runs as one of an instance's programs does: as its user, in its directory, with its environment. The program
// is the agent, for "", or one of the services that it runs. The error is ErrNotThere when no such program runs.
func (i *Info) Enter(ctx context.Context, project, instance, service string, command []string) (*exec.Cmd, error) {
	home := filepath.Join(i.Dir, "instances", project, instance)
	if filepath.Base(instance) != instance || filepath.Base(project) != project {
		return nil, ErrNotThere
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for the instance's programs: %w", err)
	}
	for _, p := range processes {
		if _, err := strconv.Atoi(p.Name()); err != nil {
			continue
		}
		at := filepath.Join("/proc", p.Name())
		program, err := os.Readlink(filepath.Join(at, "exe"))
		if err != nil || filepath.Dir(program) != home { // it may have ended, or be another user's
			continue
		}
		line, err := os.ReadFile(filepath.Join(at, "cmdline"))
		words := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		if err != nil || service == "" && len(words) != 1 || service != "" && (len(words) != 3 || words[1] != "standin" || words[2] != service) {
			continue
		}
		environ, err := os.ReadFile(filepath.Join(at, "environ"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the environment of a program of %s: %w", instance, err)
		}
		info, err := os.Stat(at)
		if err != nil {
			continue
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil, errors.New("who owns a process cannot be seen")
		}
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Dir = filepath.Join(home, "home")
		for v := range bytes.SplitSeq(bytes.TrimRight(environ, "\x00"), []byte{0}) {
			cmd.Env = append(cmd.Env, string(v))
		}
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		}
		return cmd, nil
	}
	return nil, ErrNotThere
}
