package docs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	blockLimit = 2 * time.Minute // for a block to end, or to print what is expected of it
	endLimit   = time.Minute     // for a program to end after Ctrl-C
)

// terminal is a reader's terminal: blocks run in it one after the other, and what one of them leaves (the directory, the
// variables) is there for the next.
type terminal struct {
	name  string
	state string   // a file of shell commands, which the next block begins with
	env   []string // of the first block
	dir   string
	stays *running // what has not ended by itself
}

// running is a block in a shell.
type running struct {
	cmd    *exec.Cmd
	output *output
	ended  chan struct{} // closed when err is set
	err    error
}

// output is what a block prints, on either stream.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func newTerminal(name, dir, states string, env []string) *terminal {
	return &terminal{name: name, state: filepath.Join(states, name+".sh"), env: env, dir: dir}
}

// start begins a block. Whatever the block before has left running gets a Ctrl-C first.
func (t *terminal) start(ctx context.Context, commands string) (*running, error) {
	if err := t.interrupt(); err != nil {
		return nil, err
	}
	script := "trap 'echo cd \"$(printf %q \"$PWD\")\" >\"$TERMINAL_STATE\"; export -p >>\"$TERMINAL_STATE\"' EXIT\n" +
		"[ ! -e \"$TERMINAL_STATE\" ] || . \"$TERMINAL_STATE\"\n" +
		"set -eo pipefail -o allexport\n" + commands
	r := &running{output: &output{}, ended: make(chan struct{})}
	r.cmd = exec.CommandContext(ctx, "bash", "-c", script) //nolint:gosec // ours
	r.cmd.Dir, r.cmd.Env = t.dir, slices.Concat(t.env, []string{"TERMINAL_STATE=" + t.state})
	r.cmd.Stdout, r.cmd.Stderr = r.output, r.output
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // what belongs to a terminal gets its Ctrl-C
	r.cmd.Cancel = func() error { return syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) }
	r.cmd.WaitDelay = endLimit
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start a shell: %w", err)
	}
	go func() { // ends with the shell, or with ctx
		r.err = r.cmd.Wait()
		close(r.ended)
	}()
	return r, nil
}

// interrupt presses Ctrl-C, if a program is still running, and waits for its end, which has to be an orderly one.
func (t *terminal) interrupt() error {
	r := t.stays
	t.stays = nil
	if r == nil {
		return nil
	}
	select {
	case <-r.ended:
		return fmt.Errorf("it has ended before it was to (%w):\n%s", orDone(r.err), r.output)
	default:
	}
	if err := syscall.Kill(-r.cmd.Process.Pid, syscall.SIGINT); err != nil {
		return fmt.Errorf("interrupt: %w", err)
	}
	select {
	case <-r.ended:
	case <-time.After(endLimit):
		err := r.cmd.Cancel()
		<-r.ended
		return errors.Join(fmt.Errorf("it did not end within %v of Ctrl-C:\n%s", endLimit, r.output), err)
	}
	if r.err != nil {
		return fmt.Errorf("after Ctrl-C: %w:\n%s", r.err, r.output)
	}
	return nil
}

func orDone(err error) error {
	if err == nil {
		return errors.New("status 0")
	}
	return err
}

// status waits for the end of a block and returns its exit status.
func (r *running) status() (int, error) {
	select {
	case <-r.ended:
	case <-time.After(blockLimit):
		err := r.cmd.Cancel()
		<-r.ended
		return 0, errors.Join(fmt.Errorf("it has not ended after %v", blockLimit), err)
	}
	if exit, ok := errors.AsType[*exec.ExitError](r.err); ok && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, r.err
}

// prints waits until check is content with what has been printed; a program that has ended will print nothing more.
func (r *running) prints(check func(text string) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(blockLimit)
	defer limit.Stop()
	for {
		select {
		case <-r.ended:
			return check(r.output.String())
		case <-limit.C:
			return check(r.output.String())
		case <-tick.C:
			if check(r.output.String()) == nil {
				return nil
			}
		}
	}
}

// environment is that of this process without what would configure tidemark or a client of Postgres, and with more.
func environment(more ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		ours := strings.HasPrefix(name, "TIDEMARK_") && name != "TIDEMARK_CACHE"
		if !ours && !strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "OTEL_") {
			env = append(env, v)
		}
	}
	return append(env, more...)
}
