package cli

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/difyup/difyup/internal/carried"
	"github.com/difyup/difyup/internal/fault"
	"github.com/difyup/difyup/internal/topology"
)

// machines are the processors by the platforms that instances may have.
var machines = map[string]elf.Machine{"linux/amd64": elf.EM_X86_64, "linux/arm64": elf.EM_AARCH64}

// instances gives the platform of the instances: Google's are x86-64, the local cloud's what this machine is.
func instances(local bool) string {
	if local && runtime.GOOS == "linux" { // there is no local cloud elsewhere, and it says so itself
		return "linux/" + runtime.GOARCH
	}
	return "linux/amd64"
}

// findAgent gives the program for the instances: $DIFYUP_AGENT, or difyup-agent beside this program, or the one inside it.
func findAgent(local bool) (topology.Agent, error) {
	self, err := os.Executable()
	if err != nil {
		return topology.Agent{}, fmt.Errorf("find this program: %w", err)
	}
	inside, err := carried.Find()
	if err != nil {
		return topology.Agent{}, err
	}
	return chooseAgent(os.Getenv("DIFYUP_AGENT"), filepath.Join(filepath.Dir(self), "difyup-agent"), inside, instances(local))
}

// chooseAgent gives the agent that was named, or else the first that is there and runs on the platform: the file beside
// difyup, the one inside.
func chooseAgent(named, beside string, inside *carried.Agent, platform string) (topology.Agent, error) {
	if named != "" {
		return agentFile(named, platform)
	}
	agent, err := agentFile(beside, platform)
	switch {
	case err == nil:
		return agent, nil
	case inside != nil && inside.Platform == platform:
		return topology.Agent{Path: carried.Name, SHA256: inside.SHA256}, nil
	case !errors.Is(err, fs.ErrNotExist): // it says more about what is wrong
		return topology.Agent{}, err
	case inside != nil:
		return topology.Agent{}, &fault.Fault{
			Summary: "The agent is for another machine",
			Detail:  fmt.Sprintf("The agent inside this difyup is for %s, as Google's instances are, and those of the local cloud here are %s. None lies at %s.", inside.Platform, platform, beside),
			Remedy:  "Build it for this machine, from the source tree, and put it there or name it in DIFYUP_AGENT:\n    go build ./cmd/difyup-agent",
		}
	}
	return topology.Agent{}, &fault.Fault{
		Summary: "No agent for the instances",
		Detail:  fmt.Sprintf("Every instance runs difyup-agent. This difyup was built without it, and none lies at %s.", beside),
		Remedy:  "Build difyup with the agent inside, from the source tree, or name an agent in DIFYUP_AGENT:\n    make build",
		Cause:   err,
	}
}

// agentFile gives an agent that is a file.
func agentFile(path, platform string) (topology.Agent, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() { // a pipe would be waited for, a device read for ever
		err = errors.New("it is no file")
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(path)
	}
	if err != nil {
		return topology.Agent{}, &fault.Fault{
			Summary: "No agent for the instances",
			Detail:  fmt.Sprintf("Every instance runs difyup-agent, and %s could not be opened.", path),
			Remedy:  "Name one that is there in DIFYUP_AGENT; or leave that unset, and build difyup with the agent inside, from the source tree:\n    make build",
			Cause:   err,
		}
	}
	defer f.Close()
	if err := fits(f, path, platform); err != nil {
		return topology.Agent{}, err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return topology.Agent{}, fmt.Errorf("read %s: %w", path, err)
	}
	return topology.Agent{Path: path, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

// fits refuses an agent that would not run.
func fits(f *os.File, path, platform string) error {
	wrong := func(what string) error {
		return &fault.Fault{
			Summary: "The agent is for another machine",
			Detail:  fmt.Sprintf("%s is %s; the instances need a program for %s.", path, what, platform),
			Remedy:  fmt.Sprintf("Build it for them, from the source tree:\n    GOOS=linux GOARCH=%s go build ./cmd/difyup-agent", filepath.Base(platform)),
		}
	}
	program, err := elf.NewFile(f)
	if err != nil {
		return wrong("no Linux program")
	}
	if program.Machine != machines[platform] {
		return wrong("for " + program.Machine.String())
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
