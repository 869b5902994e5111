// Package stacktest gives tests the servers of devstack: one of a kind for all tests of a package, started when the first
// of them asks, and closed by Main.
//
// The one rule: a shared server is shared. Every test has its own database or topics, and may run in parallel; but a test
// that stops or pauses a server, changes its settings, or keeps a transaction open while others create replication slots
// (which wait for every transaction of the server), takes one of its own with NewPostgres.
package stacktest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// RequireEnv names the environment variable that lists, with commas between, the parts without which a test must fail
// instead of being skipped: CI sets it, so that a missing server cannot pass for a success.
const RequireEnv = "TIDEMARK_TEST_REQUIRE"

// Require skips the test because part cannot be had here, for the reason err, or fails it if RequireEnv names the part.
// Without err it does nothing.
func Require(tb testing.TB, part string, err error) {
	tb.Helper()
	if err == nil {
		return
	}
	required := strings.FieldsFunc(os.Getenv(RequireEnv), func(r rune) bool { return r == ',' || r == ' ' })
	if slices.Contains(required, part) {
		tb.Fatalf("%s names %s, which cannot be had: %v", RequireEnv, part, err)
	}
	tb.Skipf("without %s: %v", part, err)
}

// Main runs the tests, closes the servers that they shared, and fails the run if a goroutine is left after that.
// It does not return: func TestMain(m *testing.M) { stacktest.Main(m) }.
func Main(m *testing.M, opts ...goleak.Option) {
	code := m.Run()
	err := shared.close()
	if err == nil && code == 0 {
		err = goleak.Find(opts...)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stacktest:", err)
		code = max(code, 1)
	}
	os.Exit(code) //nolint:forbidigo // this is the main of a test binary
}

//nolint:gochecknoglobals // what the tests of a process share has no other place; Main empties it
var shared = registry{servers: make(map[string]*server)}

// registry holds the shared servers by what makes them different.
type registry struct {
	mu      sync.Mutex
	servers map[string]*server
}

// server is started by the first test that asks for it; the others wait, and get the same answer.
type server struct {
	once  sync.Once
	value closer
	err   error
}

type closer interface{ Close() error }

// get returns the server of that key, starting it if it is the first to ask.
func (r *registry) get(key string, start func() (closer, error)) (closer, error) {
	r.mu.Lock()
	s := r.servers[key]
	if s == nil {
		s = &server{}
		r.servers[key] = s
	}
	r.mu.Unlock()
	s.once.Do(func() { s.value, s.err = start() })
	return s.value, s.err
}

func (r *registry) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for key, s := range r.servers {
		if s.err == nil && s.value != nil {
			errs = append(errs, s.value.Close())
		}
		delete(r.servers, key)
	}
	return errors.Join(errs...)
}

// one returns the only option, or the zero value.
func one[T any](tb testing.TB, opts []T) T {
	tb.Helper()
	var zero T
	switch len(opts) {
	case 0:
		return zero
	case 1:
		return opts[0]
	}
	tb.Fatalf("stacktest: %d options, want none or one", len(opts))
	return zero
}
