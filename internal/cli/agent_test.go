package cli

import (
	"bytes"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/carried"
	"github.com/difyup/difyup/internal/fault"
)

// TestChooseAgent checks which agent is taken, and what is said when none fits.
func TestChooseAgent(t *testing.T) {
	dir := t.TempDir()
	program := func(name string, machine elf.Machine) (path, sum string) {
		t.Helper()
		header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
		copy(header.Ident[:], elf.ELFMAG)
		header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
		var b bytes.Buffer
		if err := binary.Write(&b, binary.LittleEndian, header); err != nil {
			t.Fatal(err)
		}
		path = filepath.Join(dir, name)
		if err := os.WriteFile(path, b.Bytes(), 0o755); err != nil {
			t.Fatal(err)
		}
		s := sha256.Sum256(b.Bytes())
		return path, hex.EncodeToString(s[:])
	}
	x86, x86Sum := program("x86", elf.EM_X86_64)
	arm, armSum := program("arm", elf.EM_AARCH64)
	absent, text := filepath.Join(dir, "absent"), filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	inside := &carried.Agent{Platform: "linux/amd64", SHA256: strings.Repeat("c", 64), Size: 1}

	for _, tc := range []struct {
		name, named, beside string
		inside              *carried.Agent
		platform            string
		path, sum           string // what is taken
		summary, says       string // or else why nothing is
	}{
		{name: "named before all others", named: x86, beside: x86, inside: inside, platform: "linux/amd64", path: x86, sum: x86Sum},
		{name: "beside before inside", beside: x86, inside: inside, platform: "linux/amd64", path: x86, sum: x86Sum},
		{name: "inside", beside: absent, inside: inside, platform: "linux/amd64", path: carried.Name, sum: inside.SHA256},
		{name: "inside, beside for another machine", beside: arm, inside: inside, platform: "linux/amd64", path: carried.Name, sum: inside.SHA256},
		{name: "inside, beside is no file", beside: dir, inside: inside, platform: "linux/amd64", path: carried.Name, sum: inside.SHA256},
		{name: "beside, inside for another machine", beside: arm, inside: inside, platform: "linux/arm64", path: arm, sum: armSum},

		{name: "named and absent", named: absent, beside: x86, inside: inside, platform: "linux/amd64", summary: "No agent for the instances", says: absent},
		{name: "named and for another machine", named: arm, beside: x86, inside: inside, platform: "linux/amd64", summary: "The agent is for another machine", says: "GOARCH=amd64 go build"},
		{name: "named and no program", named: text, platform: "linux/arm64", summary: "The agent is for another machine", says: "GOARCH=arm64 go build"},
		{name: "none at all", beside: absent, platform: "linux/amd64", summary: "No agent for the instances", says: "make build"},
		{name: "beside for another machine, none inside", beside: arm, platform: "linux/amd64", summary: "The agent is for another machine", says: arm},
		{name: "inside for another machine", beside: absent, inside: inside, platform: "linux/arm64", summary: "The agent is for another machine", says: "inside this difyup is for linux/amd64"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := chooseAgent(tc.named, tc.beside, tc.inside, tc.platform)
			if tc.summary == "" {
				if err != nil || got.Path != tc.path || got.SHA256 != tc.sum {
					t.Errorf("%+v, %v; want %s with %s", got, err, tc.path, tc.sum)
				}
				return
			}
			var f *fault.Fault
			if !errors.As(err, &f) || f.Summary != tc.summary || !strings.Contains(f.Detail+f.Remedy, tc.says) {
				t.Errorf("%+v, %+v; want %q that says %q", got, err, tc.summary, tc.says)
			}
		})
	}
}
