package view

import (
	"io"

	"github.com/difyup/difyup/internal/ops"
)

// Logs shows lines of instances' logs, each with its time, instance and container.
func Logs(w io.Writer, c Palette, lines []ops.LogLine) {
	for _, l := range lines {
		mark := func(text any) styled { return sprintf("%v", text) }
		switch l.Severity {
		case "ERROR", "CRITICAL", "ALERT", "EMERGENCY":
			mark = c.red
		case "WARNING":
			mark = c.yellow
		}
		printf(w, "%s %s\n", c.dim(sprintf("%s %s %s", l.At.UTC().Format("2006-01-02T15:04:05.000Z"), l.Instance, l.Container)), mark(l.Text))
	}
}
