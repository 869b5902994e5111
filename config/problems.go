package config

import (
	"errors"
	"fmt"
	"strings"
)

// InvalidError says that the configuration is wrong, and everything that is wrong with it.
type InvalidError struct {
	Problems []string // one line each, with the file's line or the variable, and without secrets
}

// Error returns a line a problem, indented under a heading.
func (e *InvalidError) Error() string {
	heading := "the configuration has a problem"
	if len(e.Problems) != 1 {
		heading = fmt.Sprintf("the configuration has %d problems", len(e.Problems))
	}
	return heading + ":\n  " + strings.Join(e.Problems, "\n  ")
}

// IsInvalid reports whether err says that the configuration is wrong, which no retry mends.
func IsInvalid(err error) bool {
	_, ok := errors.AsType[*InvalidError](err)
	return ok
}

// problems collects what is wrong, and knows where each key got its value from.
type problems struct {
	list   []string
	origin map[string]string // key → "config.yaml:12" or a variable's name; a built-in default has no entry
	told   map[string]bool   // keys with a problem: one is enough, since the next is mostly its echo
}

func newProblems() *problems {
	return &problems{origin: map[string]string{}, told: map[string]bool{}}
}

// add notes what is wrong with a key.
func (p *problems) add(key, format string, args ...any) {
	if p.told[key] {
		return
	}
	p.told[key] = true
	p.addAt(p.origin[key], key+": "+fmt.Sprintf(format, args...))
}

// addAt notes what is wrong at a place that is not a key's value.
func (p *problems) addAt(where, what string) {
	if where != "" {
		what = where + ": " + what
	}
	p.list = append(p.list, oneLine(what))
}

// err returns all problems as one error, nil if there are none.
func (p *problems) err() error {
	if len(p.list) == 0 {
		return nil
	}
	return &InvalidError{Problems: p.list}
}

// oneLine keeps the promise of a line a problem, whatever a value or a system's error text holds.
func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }
