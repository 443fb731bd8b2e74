//go:build !linux

package localcloud

import (
	"context"
	"os/exec"

	"github.com/difyup/difyup/internal/fault"
)

// UpOptions say which program to start and how the cloud behaves.
type UpOptions struct {
	Dir     string
	Program string
	Args    []string
	Waiting func(string)
}

// Up needs Linux.
func Up(context.Context, UpOptions) (*Info, bool, error) { return nil, false, needsLinux() }

// Down needs Linux.
func Down(context.Context, string, func(string)) (bool, error) { return false, needsLinux() }

// Sweep needs Linux.
func Sweep(context.Context, string, func(string)) (bool, error) { return false, needsLinux() }

// Serve needs Linux.
func Serve(context.Context, Options) error { return needsLinux() }

// Enter needs Linux.
func (i *Info) Enter(context.Context, string, string, string, []string) (*exec.Cmd, error) {
	return nil, needsLinux()
}

func owned(string) error { return needsLinux() }

func held(string, int) bool { return false }

func stopped(int) bool { return false }

func silent(string, int) error { return needsLinux() }

func needsLinux() error {
	return &fault.Fault{
		Summary: "The local cloud needs Linux",
		Detail:  "It gives every machine and server an address of its own in 127.0.0.0/8 and ends what it started together with itself; only Linux lets it.",
		Remedy:  "Run it in a Linux machine, container or WSL. Without --local, difyup works here.",
	}
}
