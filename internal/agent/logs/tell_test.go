package logs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/difyup/difyup/internal/agent/runtime"
)

// TestToldLater has the disk take nothing more, not even how many lines were left out. It is told when there is room again, once.
func TestToldLater(t *testing.T) {
	b, err := Open(Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	file := b.file.Name()
	if err := b.file.Close(); err != nil { // as full as can be
		t.Fatal(err)
	}
	for i := range 100 {
		b.Add(runtime.Line{Source: "api", Text: fmt.Sprint(i)})
	}
	b.of("worker").dropped, b.refused = 20, 3
	b.tell(true)
	b.tell(true)
	if b.file, err = os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		t.Fatal(err)
	}
	var came strings.Builder
	for range 2 {
		if err := b.Flush(t.Context(), func(_ context.Context, batch Batch) error {
			came.Write(batch.Entries)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{
		"100 lines were lost before they were sent", "20 lines of worker were left out", "3 lines were refused by Cloud Logging",
	} {
		if n := strings.Count(came.String(), `"textPayload":"`+want); n != 1 {
			t.Errorf("%q is told %d times:\n%s", want, n, came.String())
		}
	}
	if n := strings.Count(came.String(), "textPayload"); n != 3 {
		t.Errorf("%d lines came:\n%s", n, came.String())
	}
}
