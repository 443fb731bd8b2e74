//go:build !linux

package standin

import (
	"os"
	"os/exec"
	"syscall"
)

// Instances are Linux machines; elsewhere the package only has to build.
func dieWithParent() *syscall.SysProcAttr { return nil }

func terminate(p *os.Process) error { return p.Kill() }

func signalOf(*exec.ExitError) int { return 0 }
