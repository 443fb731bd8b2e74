package runtime_test

import (
	"testing"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// TestHide hides what names say is secret, and what came from a secret whatever its name says; nothing else.
func TestHide(t *testing.T) {
	s := dify.Service{
		Environment: map[string]string{"DB_PASSWORD": "p@ss/word", "PLAIN": "seen", "DSN": "https://a b@example.com", "CERTIFICATE": "-----BEGIN-----\nMIIB+abc\n}\n", "PIN": "123"},
		Secrets:     []string{"CERTIFICATE", "DSN", "PIN"},
	}
	for text, want := range map[string]string{
		"p@ss/word and seen":                        "*** and seen",
		"postgres://x:p%40ss%2Fword@db":             "postgres://x:***@db",
		"reaching https://a b@example.com: refused": "reaching ***: refused",
		"line MIIB+abc is odd }":                    "line *** is odd }",
		"123":                                       "123",
	} {
		if got := runtime.Hide(text, s); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
