//go:build !linux

package localcloud

import "context"

// UpOptions say which program to start and how the cloud behaves.
type UpOptions struct {
	Dir     string
	Program string
	Args    []string
}

// Up needs Linux.
func Up(context.Context, UpOptions) (*Info, bool, error) { return nil, false, needsLinux() }

// Down needs Linux.
func Down(context.Context, string) (bool, error) { return false, needsLinux() }

// Serve needs Linux.
func Serve(context.Context, Options) error { return needsLinux() }
