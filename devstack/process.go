package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a server's first process and everything that it forks.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the first process has ended
	gone   chan struct{} // closed when all of them have
	err    error         // how the first one ended; may be read once exited is closed
}

// startProcess starts cmd in a process group of its own, so that a terminal's Ctrl-C reaches only us, and arranges that it
// gets the signal death when we die, however we die. held stays open in it and in whatever it forks.
func startProcess(cmd *exec.Cmd, death syscall.Signal, held ...*os.File) (*process, error) {
	// Every process that cmd forks inherits the writing end; when the last one is gone, the reading end says so.
	// Process ids could not tell: orphans are reaped by somebody else, or by nobody.
	alive, inherited, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for %s: %w", cmd.Path, err)
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, append(held, inherited)...)
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr, death)

	p := &process{cmd: cmd, exited: make(chan struct{}), gone: make(chan struct{})}
	started := make(chan error)
	// Ends with the last process. It holds its OS thread until then, because to Linux "the parent dies" means the thread
	// that forked, and the Go runtime ends idle threads.
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.exited)
			_, _ = io.Copy(io.Discard, alive)
			close(p.gone)
		}
		_ = alive.Close()
	}()
	err = <-started
	_ = inherited.Close()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// signal sends sig to the first process; one that has ended already is no error.
func (p *process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %s: %w", sig, p.cmd.Path, err)
	}
	return nil
}

// killLimit is how long the kernel, and orphans that end by themselves, may take after a SIGKILL.
const killLimit = 20 * time.Second

// kill ends all of them at once with SIGKILL, and returns when none is left.
func (p *process) kill() error {
	// The order matters: a first process that is stopped cannot see its children die, and start others.
	if err := errors.Join(p.pause(), signalAll(p.children(), syscall.SIGKILL), p.signal(syscall.SIGKILL)); err != nil {
		return err
	}
	timer := time.NewTimer(killLimit)
	defer timer.Stop()
	select {
	case <-p.gone:
		return nil
	case <-timer.C:
		return fmt.Errorf("kill %s: processes that it started are left after %v", p.cmd.Path, killLimit)
	}
}

// children are the processes that descend from the first one. When that has ended there is no way to find them, and its
// number may be another's.
func (p *process) children() []int {
	if !p.running() {
		return nil
	}
	return descendants(p.cmd.Process.Pid)
}

// pause stops all of them. The first one goes first: stopped, it can fork no more, and the list of the others holds.
// They are found one by one because Postgres puts each of its processes into a process group of its own.
func (p *process) pause() error {
	if err := p.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return signalAll(p.children(), syscall.SIGSTOP)
}

func (p *process) resume() error {
	return errors.Join(signalAll(p.children(), syscall.SIGCONT), p.signal(syscall.SIGCONT))
}

// end sends sig, waits until nothing is left, and kills what is left when the limit has passed, which is an error.
func (p *process) end(ctx context.Context, sig syscall.Signal, limit time.Duration) error {
	if err := p.signal(sig); err != nil {
		return err
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var cause error
	select {
	case <-p.gone:
		return nil
	case <-timer.C:
		cause = fmt.Errorf("still running %v after %v", limit, sig)
	case <-ctx.Done():
		cause = context.Cause(ctx)
	}
	return errors.Join(cause, p.kill())
}

func signalAll(pids []int, sig syscall.Signal) error {
	for _, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("send %v to process %d: %w", sig, pid, err)
		}
	}
	return nil
}

// below returns the processes that descend from root, given everybody's parent.
func below(root int, parents map[int]int) []int {
	children := make(map[int][]int)
	for pid, parent := range parents {
		children[parent] = append(children[parent], pid)
	}
	found := children[root]
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	return found
}
