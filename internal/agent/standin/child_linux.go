package standin

import (
	"os"
	"os/exec"
	"syscall"
)

func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }

func signalOf(e *exec.ExitError) int {
	status, ok := e.Sys().(syscall.WaitStatus)
	if !ok {
		return 0
	}
	return int(status.Signal())
}
