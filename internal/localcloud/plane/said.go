//go:build linux

package plane

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
	"unicode"
)

// Bounds of what is repeated of a server's log.
const (
	tailBytes  = 64 << 10
	tailLines  = 4
	lineLength = 300
)

// size is how much a log holds, 0 for one that is not there.
func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// logged adds to an error what the server wrote to its log since it was that large.
func logged(err error, path string, since int64) error {
	f, openErr := os.Open(path)
	if openErr != nil {
		return err // it is told without the log, too
	}
	defer f.Close()
	if _, seekErr := f.Seek(max(since, size(path)-tailBytes), io.SeekStart); seekErr != nil {
		return err
	}
	raw, readErr := io.ReadAll(io.LimitReader(f, tailBytes))
	if readErr != nil {
		return err
	}
	return saying(err, string(raw))
}

// saying adds to an error the last of the lines that a server said, those that tell of a failure if there are any. A disk that
// is full can be told from the error, too.
func saying(err error, output string) error {
	lines := strings.FieldsFunc(output, func(r rune) bool { return r == '\n' || r == '\r' })
	for i := range lines {
		lines[i] = plain(lines[i])
	}
	lines = slices.DeleteFunc(lines, func(l string) bool {
		// PostgreSQL refuses while it starts; Redis repeats a line of its configuration that it does not take.
		return l == "" || strings.Contains(l, "the database system is") || strings.Contains(l, "requirepass")
	})
	grave := slices.DeleteFunc(slices.Clone(lines), func(l string) bool {
		return !slices.ContainsFunc([]string{"FATAL: ", "PANIC: ", "ERROR: ", "HINT: ", "DETAIL: ", "error: ", "No space left on device"}, func(word string) bool { return strings.Contains(l, word) })
	})
	if len(grave) > 0 {
		lines = grave
	}
	lines = slices.Compact(lines)
	lines = lines[max(0, len(lines)-tailLines):]
	if len(lines) > 0 {
		err = fmt.Errorf("%w: it said: %s", err, strings.Join(lines, " / "))
	}
	if strings.Contains(output, "No space left on device") {
		err = errors.Join(err, syscall.ENOSPC)
	}
	return err
}

// plain gives a line without what a terminal would obey, cut to a length that can be read, and without the time that
// PostgreSQL and Redis begin their lines with.
func plain(line string) string {
	if _, message, ok := strings.Cut(line, "] "); ok && strings.Contains(line[:len(line)-len(message)], " [") {
		line = message
	}
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, line)
	line = strings.TrimSpace(line)
	if runes := []rune(line); len(runes) > lineLength {
		line = string(runes[:lineLength]) + "…"
	}
	return line
}
