package standin

import (
	"context"
	"os"
	"time"
)

// RunStubborn runs a child that ignores the wish that it end, and tells its number.
func RunStubborn() error {
	return runChild(context.Background(), context.Background(), time.Second, "/bin/sh", []string{"-c", "trap '' TERM; echo $$; while :; do sleep 1; done"}, []string{"PATH=" + os.Getenv("PATH")}, os.Stdout, nil)
}
