package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is what is measured: the relay, or what is beside it.
type process struct {
	cmd   *exec.Cmd
	began time.Time
	done  chan struct{} // closed when it has ended
	log   tail
}

// start starts a program with variables besides our own, without what is meant for a real relay.
func start(ctx context.Context, variables []string, program string, args ...string) (*process, error) {
	p := &process{done: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(ctx), program, args...) // who starts it ends it, see stop
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "TIDEMARK_") {
			p.cmd.Env = append(p.cmd.Env, v)
		}
	}
	p.cmd.Env = append(p.cmd.Env, variables...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is for us alone
	dieWithParent(p.cmd.SysProcAttr)
	started := make(chan error)
	// Ends with the process. It holds its OS thread until then, because to Linux "the parent dies" means the thread.
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		p.began = time.Now()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_ = p.cmd.Wait() // how it ended is asked of the process's state
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	return p, nil
}

// cpu is the processor time that it has had so far, in user and kernel mode.
func (p *process) cpu() time.Duration { return cpuOf(p.cmd.Process.Pid) }

// peak is the most memory that it has had at once (resident), in bytes; 0 if the system does not tell.
func (p *process) peak() int64 { return peakOf(p.cmd.Process.Pid) }

// stop asks it to end, and kills it if that takes long.
func (p *process) stop() error {
	const limit = 20 * time.Second
	timer := time.NewTimer(limit)
	defer timer.Stop()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // with what it has started
	<-p.done
	return fmt.Errorf("%s had not ended %v after SIGTERM", p.cmd.Path, limit)
}

// ended is the error of a process that ended by itself.
func (p *process) ended() error {
	text := strings.TrimSpace(p.log.String())
	if text == "" {
		text = "it has printed nothing"
	}
	return errors.New(p.cmd.Path + " ended: " + p.cmd.ProcessState.String() + ": " + text)
}

// tail keeps the end of what is written to it. Any goroutine may use it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const most = 4 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - most; over > 0 {
		t.buf = bytes.Clone(t.buf[over:])
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
