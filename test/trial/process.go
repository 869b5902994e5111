package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Program is what a process is started from.
type Program struct {
	Name    string // in errors
	Path    string
	Args    []string
	Environ []string  // all of it
	Dir     string    // where it runs; default where we do
	Output  io.Writer // gets what it writes to stderr, besides Process.Log
}

// Process is a program, running or ended. Any goroutine may call its methods.
type Process struct {
	name   string
	cmd    *exec.Cmd
	log    *tail
	stdout *tail
	done   chan struct{}
}

// StartProcess starts a program and returns without waiting for anything. It dies with this process; the end of ctx does not
// end it.
func StartProcess(ctx context.Context, p Program) (*Process, error) {
	r := &Process{name: p.Name, log: newTail(p.Output, logBytes), stdout: newTail(nil, stdoutBytes), done: make(chan struct{})}
	r.cmd = exec.CommandContext(context.WithoutCancel(ctx), p.Path, p.Args...) //nolint:gosec // ours
	r.cmd.Env = p.Environ
	r.cmd.Dir = p.Dir
	r.cmd.Stdout, r.cmd.Stderr = r.stdout, r.log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	dieWithParent(r.cmd.SysProcAttr)
	started := make(chan error)
	// Ends with the process. It holds its OS thread until then, because to Linux "the parent dies" means the thread.
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := r.cmd.Start()
		started <- err
		if err == nil {
			_ = r.cmd.Wait() // how it ended is asked of its state
			close(r.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	return r, nil
}

// Signal sends a signal; a process that has ended is no error.
func (r *Process) Signal(sig syscall.Signal) error {
	if err := r.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", sig, r.name, err)
	}
	return nil
}

// Kill ends it with SIGKILL and waits until it is gone.
func (r *Process) Kill() error {
	if err := r.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-r.done
	return nil
}

// Stop ends it with SIGTERM and returns its exit status. One that takes longer than limit is killed, which is an error.
func (r *Process) Stop(limit time.Duration) (status int, err error) {
	if err := r.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	return r.Wait(limit)
}

// Wait waits for its end and returns the exit status, -1 if a signal ended it. One that takes longer than limit is killed,
// which is an error.
func (r *Process) Wait(limit time.Duration) (status int, err error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-r.done:
		return r.cmd.ProcessState.ExitCode(), nil
	case <-timer.C:
		// Where it hangs is worth more than that it hangs.
		_ = r.Signal(syscall.SIGQUIT)
		timer.Reset(5 * time.Second)
		select {
		case <-r.done:
		case <-timer.C:
		}
		return 0, errors.Join(fmt.Errorf("%s has not ended after %v", r.name, limit), r.Kill())
	}
}

// Done is closed when it has ended.
func (r *Process) Done() <-chan struct{} { return r.done }

// Running reports whether it has not ended yet.
func (r *Process) Running() bool {
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

// Status is the exit status of one that has ended, -1 if a signal ended it.
func (r *Process) Status() int {
	<-r.done
	return r.cmd.ProcessState.ExitCode()
}

// Log is the end of what it has written to stderr.
func (r *Process) Log() string { return r.log.text() }

// Stdout is what it has written to stdout, the end of it if that is more than stdoutBytes.
func (r *Process) Stdout() string { return r.stdout.text() }

// AwaitLog returns nil as soon as it has written text to stderr.
func (r *Process) AwaitLog(ctx context.Context, text string) error {
	select {
	case <-r.log.said(text):
		return nil
	case <-r.done:
		if strings.Contains(r.Log(), text) {
			return nil
		}
		return fmt.Errorf("%s ended with status %d before it said %q", r.name, r.Status(), text)
	case <-ctx.Done():
		return fmt.Errorf("%s has not said %q: %w", r.name, text, ctx.Err())
	}
}
