package devstack

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

const (
	// tailBytes is how much of a server's log an error quotes at most.
	tailBytes = 4 << 10
	// recentBytes is how much is looked at for the reason of a failure: a server may have much to say after it.
	recentBytes = 64 << 10
)

// serverLog is where a server's output goes, and the end of it for error messages: a file, or the caller's writer.
type serverLog struct {
	path string
	to   io.Writer // nil: the file

	mu   sync.Mutex
	last []byte // with to: the end of what was written
	from int64  // with the file: its size when the server was started last
}

// open returns what to hand to the process, and what to close once it runs.
func (l *serverLog) open() (io.Writer, func(), error) {
	if l.to != nil {
		l.mu.Lock()
		l.last = nil
		l.mu.Unlock()
		return l, func() {}, nil
	}
	// Given to the process itself, so that it can write on while we are stopped or slow.
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("open server log: %w", err)
	}
	if info, err := file.Stat(); err == nil {
		l.from = info.Size()
	}
	return file, func() { _ = file.Close() }, nil
}

// Write passes on to the caller's writer. Its errors are dropped: a broken log must not stop the server's output, which
// would block it.
func (l *serverLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	l.last = append(l.last, b...)
	if excess := len(l.last) - recentBytes; excess > 0 {
		l.last = append(l.last[:0], l.last[excess:]...)
	}
	l.mu.Unlock()
	_, _ = l.to.Write(b)
	return len(b), nil
}

// tail returns the end of what the server has written since it was started last.
func (l *serverLog) tail() string {
	text := l.recent()
	return strings.TrimSpace(text[max(0, len(text)-tailBytes):])
}

// portTaken says whether the server has complained about that.
func (l *serverLog) portTaken() bool { return strings.Contains(l.recent(), "Address already in use") }

func (l *serverLog) recent() string {
	if l.to != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return string(l.last)
	}
	file, err := os.Open(l.path)
	if err != nil {
		return ""
	}
	defer file.Close() //nolint:errcheck // read only
	from := l.from
	if info, err := file.Stat(); err == nil {
		from = max(from, info.Size()-recentBytes)
	}
	text, err := io.ReadAll(io.NewSectionReader(file, from, recentBytes))
	if err != nil {
		return ""
	}
	return string(text)
}
