//go:build !linux

package agent

import (
	"os"
	"syscall"
)

// Instances are Linux machines; elsewhere the package only has to build.
func dieWithParent() *syscall.SysProcAttr { return nil }

func terminate(p *os.Process) error { return p.Kill() }
