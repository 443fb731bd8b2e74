package logs

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
)

// Log gives a log whose records go where the book's own do, and become lines besides.
func (b *Book) Log() *slog.Logger { return b.log }

// handler makes lines of records, and gives them to another besides.
type handler struct {
	next slog.Handler
	book *Book
	text slog.Handler // writes to out
	out  *output
}

// output is a record as text, from when it is begun until it is a line.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func newHandler(b *Book, next slog.Handler) slog.Handler {
	out := new(output)
	// A line has a time and a severity of its own.
	own := func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}
	return &handler{next, b, slog.NewTextHandler(&out.text, &slog.HandlerOptions{ReplaceAttr: own}), out}
}

func (h *handler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &handler{h.next.WithAttrs(attrs), h.book, h.text.WithAttrs(attrs), h.out}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{h.next.WithGroup(name), h.book, h.text.WithGroup(name), h.out}
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	h.out.text.Reset()
	err := h.text.Handle(ctx, r)
	text := strings.TrimSuffix(h.out.text.String(), "\n")
	h.out.mu.Unlock()
	if err == nil {
		h.book.mu.Lock()
		h.book.note(r.Time, severity(r.Level), text)
		h.book.mu.Unlock()
	}
	return h.next.Handle(ctx, r)
}

// severity is Cloud Logging's word for a level.
func severity(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "ERROR"
	case l >= slog.LevelWarn:
		return "WARNING"
	case l >= slog.LevelInfo:
		return "INFO"
	}
	return "DEBUG"
}
