package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/difyup/difyup/internal/fault"
)

// maxSize is far above what a stack needs, so that a wrong file is not read to its end.
const maxSize = 1 << 20

// Why a file is not read.
var (
	errDirectory = errors.New("it is a directory")
	errNotFile   = errors.New("it is a device or a socket")
	errTooLarge  = errors.New("it has more than 1 MiB")
)

// readFile is ReadFile for a description, and says in faults why it cannot.
func readFile(ctx context.Context, path string) ([]byte, error) {
	data, err := ReadFile(ctx, path)
	switch {
	case err == nil:
		return data, nil
	case ctx.Err() != nil:
		return nil, err
	case errors.Is(err, fs.ErrNotExist):
		return nil, &fault.Fault{
			Summary: "No configuration file",
			Detail:  fmt.Sprintf("There is no file %s.", quote(path)),
			Remedy:  "Begin with the example, and edit it:\n    cp examples/difyup.yaml .\nOr name the file with --file.",
			Cause:   err,
		}
	case errors.Is(err, errDirectory):
		return nil, &fault.Fault{
			Summary: "Configuration is a directory",
			Detail:  fmt.Sprintf("%s is a directory; a stack is described in one file.", quote(path)),
			Remedy:  "Name the file in it:\n    difyup plan -f " + filepath.Join(path, "difyup.yaml"),
		}
	case errors.Is(err, errNotFile):
		return nil, notFile(path)
	case errors.Is(err, errTooLarge):
		return nil, tooLarge(path)
	}
	return nil, unreadable(path, err)
}

// ReadFile reads a file that the user names: at most 1 MiB, of a regular file or a pipe, and no longer than ctx. Devices are not even
// opened.
func ReadFile(ctx context.Context, path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, errDirectory
	case !readable(info):
		return nil, errNotFile
	case info.Size() > maxSize:
		return nil, errTooLarge
	}
	f, err := open(ctx, path)
	switch {
	case ctx.Err() != nil:
		return nil, errors.Join(ctx.Err(), closed(f))
	case err != nil:
		return nil, err
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil || !readable(info) { // something else may have been put there
		return nil, errNotFile
	}
	// Of a pipe, where a read waits; a file knows no deadline, and needs none.
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	case len(data) > maxSize:
		return nil, errTooLarge
	}
	return data, nil
}

// readable says whether something can be read to an end: a file, or a pipe, as a shell makes of <(command).
func readable(info fs.FileInfo) bool {
	return info.Mode().IsRegular() || info.Mode()&fs.ModeNamedPipe != 0
}

// open opens a file for reading. A pipe that nobody writes into cannot be opened until somebody does: that is waited for until
// ctx ends.
func open(ctx context.Context, path string) (*os.File, error) {
	type result struct {
		f   *os.File
		err error
	}
	opened := make(chan result, 1)
	go func() {
		f, err := os.Open(path)
		opened <- result{f, err}
	}()
	select {
	case r := <-opened:
		return r.f, r.err
	case <-ctx.Done():
	}
	// Whoever writes lets the reader go.
	w, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil { // the opening ends with the process then
		return nil, ctx.Err()
	}
	r := <-opened
	return r.f, errors.Join(r.err, w.Close())
}

func closed(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

func unreadable(path string, err error) *fault.Fault {
	f := &fault.Fault{
		Summary: "Configuration cannot be read",
		Detail:  fmt.Sprintf("%s could not be read.", quote(path)),
		Remedy:  "Check the file:\n    ls -l " + path,
		Cause:   err,
	}
	if errors.Is(err, fs.ErrPermission) {
		f.Detail, f.Remedy = fmt.Sprintf("%s exists, but you may not read it.", quote(path)), "Check its permissions:\n    ls -l "+path
	}
	return f
}

func notFile(path string) *fault.Fault {
	return &fault.Fault{
		Summary: "Configuration is not a file",
		Detail:  fmt.Sprintf("%s is a device or a socket; a stack is described in a file.", quote(path)),
		Remedy:  "Name the file with -f.",
	}
}

func tooLarge(path string) *fault.Fault {
	return &fault.Fault{
		Summary: "Configuration is too large",
		Detail:  fmt.Sprintf("%s has more than 1 MiB. That is not the description of a stack.", quote(path)),
		Remedy:  "Name the right file with -f.",
	}
}
