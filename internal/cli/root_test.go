package cli

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/difyup/difyup/internal/fault"
)

// TestAim checks that the commands which remedies name are about the stack and the cloud of the command that failed.
func TestAim(t *testing.T) {
	local := target{local: true, file: "my stack.yaml"}
	google := target{file: "difyup.yaml"}
	root := newRoot(&app{})
	destroy, _, err := root.Find([]string{"destroy"})
	if err != nil {
		t.Fatal(err)
	}
	if here, _, _ := root.Find([]string{"local", "env"}); here.Name() != "env" {
		here.AddCommand(&cobra.Command{Use: "env"})
	}
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
		{local, "Read:\n    difyup logs -c worker", "Read:\n    difyup logs --local --file 'my stack.yaml' -c worker"},
		{google, "Read:\n    difyup logs -c worker", "Read:\n    difyup logs -c worker"},
		{local, "See:\n    difyup logs --help", "See:\n    difyup logs --help"},
		{local, "Look:\n    gcloud storage ls gs://x", "Look:\n    eval \"$(difyup local env)\"\n    gcloud storage ls gs://x"},
		{target{local: true, file: "difyup.yaml", dir: "/d"}, "Look:\n    gcloud a\n    gcloud b", "Look:\n    eval \"$(difyup local env --dir /d)\"\n    gcloud a\n    gcloud b"},
		{google, "Look:\n    gcloud storage ls gs://x", "Look:\n    gcloud storage ls gs://x"},
		{local, "Start it:\n    difyup local up", "Start it:\n    difyup local up"},
		{target{local: true, file: "difyup.yaml", dir: "/d"}, "Start it:\n    difyup local up", "Start it:\n    difyup local up --dir /d"},
		{target{local: true, file: "difyup.yaml", dir: "/d"}, "Use another:\n    difyup local up --dir DIRECTORY", "Use another:\n    difyup local up --dir DIRECTORY"},
		{local, "Say difyup apply in a sentence.", "Say difyup apply in a sentence."},
	} {
		err := fmt.Errorf("create: %w", errors.Join(errors.New("other"), &fault.Fault{Summary: "s", Remedy: tc.remedy}))
		if d := cmp.Diff(tc.want, fault.All(tc.target.aim(destroy, err))[0].Remedy); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
	}
	if err := local.aim(destroy, nil); err != nil {
		t.Error(err)
	}
}
