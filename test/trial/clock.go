package trial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// ClockForward and ClockBack are the signals at which a tidemark of BuildWithClock has the time of day jump by an hour.
const (
	ClockForward = syscall.SIGUSR1
	ClockBack    = syscall.SIGUSR2
)

// The sources that BuildWithClock lays over those of the module and of Go's package time.
const (
	clockMain = `package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func init() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() { // ends with the process
		for s := range signals {
			if s == syscall.SIGUSR1 {
				time.Jump(time.Hour)
			} else {
				time.Jump(-time.Hour)
			}
			fmt.Fprintln(os.Stderr, "the clock has jumped to", time.Now())
		}
	}()
}
`
	clockTime = `package time

import "sync/atomic"

var jumped atomic.Int64 // seconds

// Jump moves the time of day.
func Jump(d Duration) { jumped.Add(int64(d / Second)) }
`
	clockAsks = "sec, nsec, mono := runtimeNow()\n"
)

// BuildWithClock is Build for a tidemark whose clock jumps at a signal, as when somebody sets that of its machine: what
// time.Now says of the day moves, and the monotonic clock, which timers go by, does not. One process's clock cannot be set
// from outside, since Go asks the kernel without libc.
func BuildWithClock(ctx context.Context) (path string, err error) {
	if os.Getenv(BinaryEnv) != "" {
		return "", fmt.Errorf("%s names a tidemark whose clock cannot be set", BinaryEnv)
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find Go's own sources: %w", err)
	}
	sources := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	original, err := os.ReadFile(filepath.Join(sources, "time.go"))
	if err != nil {
		return "", fmt.Errorf("read Go's own sources: %w", err)
	}
	before, now, found := strings.Cut(string(original), "\nfunc Now() Time {\n")
	if !found || !strings.Contains(now, clockAsks) {
		return "", errors.New("BuildWithClock has to follow Go's time.Now, which is not what it was")
	}
	changed := before + "\nfunc Now() Time {\n" + strings.Replace(now, clockAsks, clockAsks+"\tsec += jumped.Load()\n", 1)

	dir, err := os.MkdirTemp("", "tidemark-clock-")
	if err != nil {
		return "", fmt.Errorf("build tidemark: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	module, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for i, file := range []struct{ path, text string }{
		{filepath.Join(sources, "time.go"), changed},
		{filepath.Join(sources, "jump.go"), clockTime},
		{filepath.Join(module, "jump.go"), clockMain},
	} {
		path := filepath.Join(dir, fmt.Sprint(i, ".go"))
		if err := os.WriteFile(path, []byte(file.text), 0o600); err != nil {
			return "", fmt.Errorf("build tidemark: %w", err)
		}
		overlay.Replace[file.path] = path
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, text, 0o600); err != nil {
		return "", fmt.Errorf("build tidemark: %w", err)
	}
	return build(ctx, module, "-overlay", list)
}
