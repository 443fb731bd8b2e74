package compose_test

import (
	"strings"
	"sync"

	"github.com/difyup/difyup/internal/agent/runtime"
	"github.com/difyup/difyup/internal/dify"
)

// handed counts the worker's lines that are handed over, on their way to a book.
type handed struct {
	runtime.Lines
	mu         sync.Mutex
	storm, own int // lines of the storm, with those of any kind that are skipped; other lines
}

func (h *handed) Add(l runtime.Line) {
	if l.Source == string(dify.Worker) {
		h.mu.Lock()
		if strings.Contains(l.Text, stormLine) {
			h.storm++
		} else {
			h.own++
		}
		h.mu.Unlock()
	}
	h.Lines.Add(l)
}

func (h *handed) Skip(source string, lines int) bool {
	skipped := h.Lines.Skip(source, lines)
	if skipped && source == string(dify.Worker) {
		h.mu.Lock()
		h.storm += lines
		h.mu.Unlock()
	}
	return skipped
}

func (h *handed) count() (storm, own int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.storm, h.own
}

var stormLine = strings.Repeat("x", 99)
