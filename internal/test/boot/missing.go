package boot

import (
	"os"
	"os/exec"
	"path/filepath"
)

// CloudInit is where scripts/install-engine puts cloud-init: unpacked, since installed it would set this machine up.
const CloudInit = "/opt/difyup/cloud-init"

// MissingProgram says that there is no such program; "" when there is.
func MissingProgram(name string) string {
	if _, err := exec.LookPath(name); err != nil {
		return "there is no " + name + " on this machine; to install: scripts/install-engine"
	}
	return ""
}

// MissingCloudInit says that there is no cloud-init; "" when there is.
func MissingCloudInit() string {
	if _, err := os.Stat(filepath.Join(CloudInit, "usr/bin/cloud-init")); err != nil {
		return "there is no cloud-init in " + CloudInit + "; to install: scripts/install-engine"
	}
	return ""
}
