package demo

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

// Terminal is what there is to know of one.
type Terminal struct {
	Size  func() (columns, rows int)
	Color bool
}

// screen prints lines that stay, and, on a terminal, below them a frame that is drawn over again and again.
type screen struct {
	out      io.Writer
	terminal *Terminal

	mu     sync.Mutex
	height int // of the frame
}

// say prints lines that stay. What was drawn stays above them.
func (s *screen) say(lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.height = 0
	s.print(strings.Join(lines, "\n") + "\n")
}

// progress prints a line that the next one, or the first frame, takes the place of.
func (s *screen) progress(line string) {
	if s.terminal == nil {
		s.say(line)
		return
	}
	s.draw([]string{line})
}

// draw puts a frame in the place of the last one.
func (s *screen) draw(lines []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	columns, rows := s.terminal.Size()
	lines = lines[:min(len(lines), max(rows-1, 1))] // what has scrolled off could not be drawn over
	var b strings.Builder
	if s.height > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.height)
	}
	for _, line := range lines {
		b.WriteString("\r" + cut(line, columns) + "\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	s.height = len(lines)
	s.print(b.String())
}

func (s *screen) print(text string) {
	_, _ = io.WriteString(s.out, text) // who gave us out looks after its errors
}

// style is an escape sequence; without colour there is none.
type style string

const (
	bold  style = "1"
	faint style = "2"
	red   style = "1;31"
	green style = "32"
	cyan  style = "36"
)

func (s *screen) paint(st style, text string) string {
	if s.terminal == nil || !s.terminal.Color {
		return text
	}
	return "\x1b[" + string(st) + "m" + text + "\x1b[0m"
}

// cut shortens a line to the columns that it may have. Escape sequences have none.
func cut(line string, columns int) string {
	var b strings.Builder
	for used := 0; line != ""; {
		if strings.HasPrefix(line, "\x1b[") {
			end := strings.IndexByte(line, 'm') + 1
			b.WriteString(line[:end])
			line = line[end:]
			continue
		}
		_, n := utf8.DecodeRuneInString(line)
		if used < columns {
			b.WriteString(line[:n])
		}
		used++
		line = line[n:]
	}
	return b.String()
}
