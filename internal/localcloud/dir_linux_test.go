package localcloud

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/test/need"
)

// TestDirectory checks which directories a local cloud takes for its own: it empties them, and trusts what lies there.
func TestDirectory(t *testing.T) {
	for _, tc := range []struct {
		name string
		make func(t *testing.T, dir string)
		want string // the fault's summary, "" for none
	}{
		{"one that is not there", func(*testing.T, string) {}, ""},
		{"an empty one", func(t *testing.T, dir string) { must(t, os.Mkdir(dir, 0o755)) }, ""},
		{"one with a log", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o755))
			must(t, os.WriteFile(filepath.Join(dir, logFile), nil, 0o600))
		}, ""},
		{"one that holds something else", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir, 0o755))
			must(t, os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600))
		}, "The directory is not a local cloud's"},
		{"one below a directory that is open to all", func(t *testing.T, dir string) {
			must(t, os.Chmod(filepath.Dir(dir), 0o777))
		}, "The local cloud's directory is not safe"},
		{"one below a directory like /tmp", func(t *testing.T, dir string) {
			must(t, os.Chmod(filepath.Dir(dir), 0o777|os.ModeSticky))
		}, ""},
		{"one below somebody else's", func(t *testing.T, dir string) {
			need.Root(t, "only root can make a directory somebody else's")
			must(t, os.Chmod(filepath.Dir(dir), 0o755))
			must(t, os.Chown(filepath.Dir(dir), 1<<30, -1))
		}, "The local cloud's directory is not safe"},
		{"one below a directory of a foreign group", func(t *testing.T, dir string) {
			need.Root(t, "only root can give a directory to a group")
			must(t, os.Chown(filepath.Dir(dir), -1, 1<<30))
			must(t, os.Chmod(filepath.Dir(dir), 0o775))
		}, "The local cloud's directory is not safe"},
		{"one behind a link", func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir+".real/local", 0o755))
			must(t, os.Symlink(dir+".real/local", dir))
		}, ""},
		{"one behind a link to below a directory that is open to all", func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir+".real/local", 0o755))
			must(t, os.Chmod(dir+".real", 0o777))
			must(t, os.Symlink(dir+".real/local", dir))
		}, "The local cloud's directory is not safe"},
		{"one behind somebody else's link", func(t *testing.T, dir string) {
			need.Root(t, "only root can make a link somebody else's")
			must(t, os.Chmod(filepath.Dir(dir), 0o777|os.ModeSticky))
			must(t, os.MkdirAll(dir+".real/local", 0o755))
			must(t, os.Symlink(dir+".real/local", dir))
			must(t, os.Lchown(dir, 1<<30, -1))
		}, "The local cloud's directory is not safe"},
		{"one behind two links, of which the second is somebody else's", func(t *testing.T, dir string) {
			need.Root(t, "only root can make a link somebody else's")
			must(t, os.Chmod(filepath.Dir(dir), 0o777|os.ModeSticky))
			must(t, os.MkdirAll(dir+".real/local", 0o755))
			must(t, os.Symlink(dir+".real", dir+".second"))
			must(t, os.Lchown(dir+".second", 1<<30, -1))
			must(t, os.Symlink(dir+".second/local", dir))
		}, "The local cloud's directory is not safe"},
		{"one behind links to each other", func(t *testing.T, dir string) {
			must(t, os.MkdirAll(dir+".real/local", 0o755))
			must(t, os.Symlink(filepath.Base(dir)+".real", dir+".second"))
			must(t, os.Symlink(filepath.Base(dir)+".second/../"+filepath.Base(dir)+".second/local", dir))
		}, ""},
		{"somebody else's", func(t *testing.T, dir string) {
			need.Root(t, "only root can make a directory somebody else's")
			must(t, os.Mkdir(dir, 0o777))
			must(t, os.Chown(dir, 1<<30, -1))
		}, "The local cloud is another user's"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			parent, err := os.MkdirTemp("", "difyup-") // t.TempDir's parents differ from machine to machine
			must(t, err)
			t.Cleanup(func() { must(t, os.RemoveAll(parent)) })
			dir := filepath.Join(parent, "local")
			tc.make(t, dir)
			err = makeDir(dir)
			var f *fault.Fault
			switch {
			case tc.want == "" && err != nil:
				t.Error(err)
			case tc.want != "" && (!errors.As(err, &f) || f.Summary != tc.want || f.Remedy == ""):
				t.Errorf("got %v, want %q with a remedy", err, tc.want)
			case tc.want == "":
				about, err := os.Stat(dir)
				must(t, err)
				if about.Mode().Perm()&0o066 != 0 {
					t.Errorf("its mode is %v", about.Mode())
				}
			}
		})
	}
}

// TestDirectoryGoes makes a directory again and again while local clouds that were there end, and take it along.
func TestDirectoryGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "local")
	must(t, os.Mkdir(dir, 0o755))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			lock, err := takeLock(dir, true)
			if err != nil { // the directory is not there
				continue
			}
			err = errors.Join(signLock(lock), os.WriteFile(filepath.Join(dir, infoFile), nil, 0o600), removeDir(dir), lock.Close())
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 3000 {
		if err := makeDir(dir); err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	<-stopped
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestUnstarted checks that whoever wants a local cloud that does not start is given a remedy, and one only.
func TestUnstarted(t *testing.T) {
	const told = "Error: No Redis\n  It was not found.\n  Install it:\n      make deps"
	for log, want := range map[string]string{
		told:                                  "No Redis\n  It was not found.\n  Install it:\n      make deps",
		"Error: Full\n  Make room.\n" + told:  "No Redis\n  It was not found.\n  Install it:\n      make deps",
		"level=INFO msg=x\nError: it is late": "level=INFO msg=x\nError: it is late",
		"panic: nil":                          "panic: nil",
	} {
		f := new(fault.Fault)
		if !errors.As(unstarted(log), &f) {
			t.Fatalf("%q: no fault", log)
		}
		if own := log == want; f.Detail != want || own == (f.Remedy == "") {
			t.Errorf("%q gives %q and the remedy %q", log, f.Detail, f.Remedy)
		}
	}
}
