package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestGeneratedFileIsFresh(t *testing.T) {
	have, err := os.ReadFile("../../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(markdown(), string(have)); d != "" {
		t.Errorf("docs/doctor.md does not fit the table in internal/doctor (-want +have):\n%s\nTo refresh it: go generate ./internal/doctor", d)
	}
}
