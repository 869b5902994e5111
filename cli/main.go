// Package cli holds the commands, a file a command: each reads the configuration, builds the parts and hands them over.
//
// The one rule: a command returns its error and prints nothing about it. Main prints it, once, and makes an exit status
// of it, because scripts and service managers decide by that number what to do next.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tidemark/tidemark/config"
)

// The exit statuses. They are public.
const (
	exitDone    = 0 // done, or stopped by a signal and drained
	exitFailed  = 1
	exitUsage   = 2 // wrong usage or configuration: starting again changes nothing
	exitRefused = 3 // going on would lose or hide events: an operator has to decide
)

// Main runs the command that args name and returns the process's exit status. The defaults are the text of config.yaml,
// environ is as os.Environ returns it. Results go to stdout, logs and the error to stderr. A command that runs until it
// is stopped ends with ctx, and returns no error then.
func Main(ctx context.Context, defaults []byte, args []string, stdout, stderr io.Writer, environ []string) int {
	out := &results{to: stdout}
	a := &app{defaults: defaults, stdout: out, stderr: stderr, environ: environ}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil && out.err != nil {
		err = fmt.Errorf("write the result: %w", out.err)
	}
	if err == nil {
		return exitDone
	}
	text := err.Error()
	if !config.IsInvalid(err) { // which promises a line a problem; everything else is one line
		text = strings.NewReplacer(":\n\t", ": ", "\n\t", "; ", "\n", "; ").Replace(strings.TrimSpace(text))
	}
	_, _ = fmt.Fprintf(stderr, "tidemark: %s\n", text) // if not even this can be written, there is the status
	return exitStatus(err)
}

// exitStatus tells by an error how the process ends.
func exitStatus(err error) int {
	if _, ok := errors.AsType[*usageError](err); ok || config.IsInvalid(err) {
		return exitUsage
	}
	var refusal interface{ Refused() bool }
	if errors.As(err, &refusal) && refusal.Refused() {
		return exitRefused
	}
	return exitFailed
}

// usageError marks an error as the caller's: exit status 2. What cobra finds is marked already (see app.finish); a
// command uses it for what only it can check about its flags.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// results is stdout, remembering its first error. So a command may print without looking each time, and a full disk
// still ends in a message and an exit status.
type results struct {
	to  io.Writer
	err error
}

func (r *results) Write(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.to.Write(p)
	r.err = err
	return n, err
}
