package cli

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/difyup/difyup/internal/fault"
)

// TestAim checks that the commands which remedies name are about the stack and the cloud of the command that failed.
func TestAim(t *testing.T) {
	local := target{local: true, file: "my stack.yaml"}
	google := target{file: "difyup.yaml"}
	for _, tc := range []struct {
		target       target
		remedy, want string
	}{
		{local, "Create it:\n    difyup apply", "Create it:\n    difyup apply --local -f 'my stack.yaml'"},
		{google, "Create it:\n    difyup apply", "Create it:\n    difyup apply"},
		{local, "Sure?\n    difyup apply --break-lock", "Sure?\n    difyup destroy --local -f 'my stack.yaml' --break-lock"},
		{google, "Sure?\n    difyup apply --break-lock", "Sure?\n    difyup destroy --break-lock"},
		{local, "Name them:\n    difyup destroy --delete-data a/b", "Name them:\n    difyup destroy --local -f 'my stack.yaml' --delete-data a/b"},
		{local, "Rehearse:\n    difyup apply --local", "Rehearse:\n    difyup apply --local"},
		{local, "Name the file:\n    difyup plan -f d/difyup.yaml", "Name the file:\n    difyup plan -f d/difyup.yaml"},
		{local, "Start it:\n    difyup local up", "Start it:\n    difyup local up"},
		{local, "Say difyup apply in a sentence.", "Say difyup apply in a sentence."},
	} {
		err := fmt.Errorf("create: %w", errors.Join(errors.New("other"), &fault.Fault{Summary: "s", Remedy: tc.remedy}))
		if d := cmp.Diff(tc.want, fault.All(tc.target.aim("destroy", err))[0].Remedy); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
	if err := local.aim("plan", nil); err != nil {
		t.Error(err)
	}
}
