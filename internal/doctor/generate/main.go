// Command generate writes docs/doctor.md from the table in internal/doctor:
//
//	go generate ./internal/doctor
package main

import (
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/difyup/difyup/internal/doctor"
)

func main() {
	log.SetFlags(0)
	if err := os.WriteFile("../../docs/doctor.md", []byte(markdown()), 0o644); err != nil {
		log.Fatal(err)
	}
}

const head = `# What is known to go wrong

` + "`difyup doctor`" + ` looks for each of these. ✗ keeps users from their work, now or soon; ! is to be known. It looks at the status of the cloud's
resources, at what ` + "`apply`" + ` would change, at what instances say of themselves, at where the domain leads, and at the last day of logs.

Written by ` + "`go generate ./internal/doctor`" + `; do not edit. Numbers are of issues: of Dify itself where nothing else is named.
`

func markdown() string {
	var b strings.Builder
	b.WriteString(head)
	for _, i := range doctor.Illnesses() {
		mark := "!"
		if i.Grave {
			mark = "✗"
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s **%s.**\n\n- Sign, in the %s: %s.\n- Cause: %s\n- Remedy: %s", i.Code, mark, i.Title, i.Source, i.Sign, i.Cause, i.Remedy)
		if i.Command != "" {
			fmt.Fprintf(&b, " `%s`", i.Command)
		}
		b.WriteString("\n")
		if i.Known != "" {
			fmt.Fprintf(&b, "- Reported: %s\n", i.Known)
		}
	}
	return b.String()
}
