package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// relay is `tidemark run`, with its configuration in the environment and without any other.
type relay struct {
	settings []string // TIDEMARK_…=…
	log      io.Writer

	run        func(ctx context.Context, args, environ []string, log io.Writer) int // in this process
	executable string                                                               // in one of its own, if killEvery is set
	killEvery  time.Duration
	kills      atomic.Int64
}

// arguments name an empty file, so that a config.yaml that lies here is left alone.
func arguments() []string { return []string{"run", "--config", os.DevNull} }

// serve runs the relay until ctx is done, killing it again and again as long as calm is open. It returns nil if the
// relay ended well in the end.
func (r *relay) serve(ctx context.Context, calm <-chan struct{}) error {
	if r.killEvery == 0 {
		if status := r.run(ctx, arguments(), r.settings, r.log); status != 0 {
			return fmt.Errorf("the relay ended with exit status %d", status)
		}
		return unasked(ctx)
	}
	// To Linux "the parent dies" means the thread that forked: it has to live as long as the relay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for ctx.Err() == nil {
		killed, err := r.life(ctx, calm)
		if !killed {
			return err
		}
		r.kills.Add(1)
	}
	return nil
}

// unasked is the error of a relay that ended well although nobody stopped it.
func unasked(ctx context.Context) error {
	if ctx.Err() == nil {
		return errors.New("the relay ended without having been told to")
	}
	return nil
}

// life is that of one process. It returns true if it was killed.
func (r *relay) life(ctx context.Context, calm <-chan struct{}) (killed bool, err error) {
	cmd := exec.CommandContext(ctx, r.executable, arguments()...)
	cmd.Env = append(withoutSettings(os.Environ()), r.settings...)
	cmd.Stdout, cmd.Stderr = r.log, r.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for us alone
	dieWithParent(cmd.SysProcAttr)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopLimit
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("start the relay: %w", err)
	}
	ended := make(chan struct{})
	go func() { // ends with the process
		defer close(ended)
		_ = cmd.Wait() // how it ended is asked of the process's state
	}()

	timer := time.NewTimer(r.killEvery/2 + rand.N(r.killEvery))
	defer timer.Stop()
	select {
	case <-timer.C:
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return false, fmt.Errorf("kill the relay: %w", err)
		}
		<-ended
		if state := cmd.ProcessState; !state.Exited() { // else it was quicker than we
			return true, nil
		}
	case <-calm:
		<-ended
	case <-ended:
	}
	if state := cmd.ProcessState; !state.Success() && !stillborn(ctx, state) {
		return false, fmt.Errorf("the relay ended: %v", state)
	}
	return false, unasked(ctx)
}

// stillborn reports whether the process was told to stop before it could listen.
func stillborn(ctx context.Context, state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && ctx.Err() != nil && status.Signaled() && status.Signal() == syscall.SIGTERM
}

// stopLimit is how long the relay may take to drain.
const stopLimit = 20 * time.Second

// withoutSettings leaves out what is meant for a real relay.
func withoutSettings(environ []string) []string {
	var out []string
	for _, entry := range environ {
		if !strings.HasPrefix(entry, "TIDEMARK_") {
			out = append(out, entry)
		}
	}
	return out
}
