package demo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidemark/tidemark/cli"
	"github.com/tidemark/tidemark/demo"
)

// beTidemark makes the test binary a tidemark, for the relay that is killed.
const beTidemark = "BE_TIDEMARK_FOR_THE_DEMO"

func TestMain(m *testing.M) {
	if os.Getenv(beTidemark) == "" {
		goleak.VerifyTestMain(m)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Environ(), os.Stderr)
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args, environ []string, log io.Writer) int {
	defaults, err := os.ReadFile("../config.yaml")
	if err != nil {
		panic(err)
	}
	return cli.Main(ctx, defaults, args, log, log, environ)
}

func TestDemoFindsNothingWrong(t *testing.T) {
	alone(t)
	var out, log output
	summary, err := demo.Run(t.Context(), demo.Options{For: 3 * time.Second, Rate: 500, Run: run, Out: &out, Err: &log})
	t.Logf("%s%s", out.String(), log.String())
	if err != nil || !summary.Clean() || summary.Committed == 0 || summary.Published != summary.Committed {
		t.Errorf("%+v, %v", summary, err)
	}
	if summary.Committed > 1000 && summary.RolledBack == 0 {
		t.Error("nothing was rolled back")
	}
	if !strings.Contains(out.String(), "lost 0   doubled 0   misordered 0   phantom 0") {
		t.Error("the summary does not say so")
	}
}

func TestDemoKillsTheRelay(t *testing.T) {
	alone(t)
	t.Setenv(beTidemark, "yes")
	t.Setenv("TIDEMARK_SOURCE_SLOT", "of-a-real-setup") // which a slot cannot even be called
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, log output
	summary, err := demo.Run(t.Context(), demo.Options{
		For: 5 * time.Second, Rate: 500, KillEvery: time.Second, Executable: self, Out: &out, Err: &log,
	})
	t.Logf("%s%s", out.String(), log.String())
	if !summary.Clean() || err != nil || summary.Kills == 0 || summary.Committed == 0 {
		t.Errorf("%+v, %v", summary, err)
	}
}

// Ctrl-C is no reason to leave something behind, nor not to know what became of it.
func TestDemoDrainsWhenItIsStopped(t *testing.T) {
	alone(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log output
	summary, err := demo.Run(ctx, demo.Options{
		Rate: 500, Run: run, Err: &log,
		Out: writerFunc(func(p []byte) (int, error) {
			if bytes.Contains(p, []byte("writing")) {
				cancel()
			}
			return len(p), nil
		}),
	})
	if err != nil || !summary.Clean() || summary.Committed == 0 {
		t.Errorf("%+v, %v\n%s", summary, err, log.String())
	}
}

func TestDemoStopsWhileItStarts(t *testing.T) {
	alone(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out output
	summary, err := demo.Run(ctx, demo.Options{Rate: 500, Run: run, Out: &out, Err: &out})
	if err != nil || summary != (demo.Summary{}) || !strings.Contains(out.String(), "stopped before it began") {
		t.Errorf("%+v, %v\n%s", summary, err, out.String())
	}
}

func TestDemoTellsWhyTheRelayFailed(t *testing.T) {
	alone(t)
	var out, log output
	_, err := demo.Run(t.Context(), demo.Options{
		Rate: 500, Out: &out, Err: &log,
		Run: func(_ context.Context, _, _ []string, log io.Writer) int {
			_, _ = io.WriteString(log, "the reason\n")
			return 3
		},
	})
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(log.String(), "the reason") {
		t.Errorf("%v, and the log\n%s", err, log.String())
	}
}

// alone gives the test a temporary directory of its own, and in the end looks whether it is empty and nothing that was
// started for it is running. Its path is short because a unix socket's has to be, and open to Postgres's account.
func alone(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "demo") //nolint:usetesting // t.TempDir's is long, and closed
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	t.Cleanup(func() {
		left, err := os.ReadDir(dir)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		for _, process := range processesOf(t, dir) {
			t.Errorf("left running: %s", process)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
}

// processesOf returns the command lines of the other processes that have dir in their command line or environment; none
// where there is no /proc.
func processesOf(t *testing.T, dir string) (found []string) {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range commands {
		at := filepath.Dir(name)
		if filepath.Base(at) == strconv.Itoa(os.Getpid()) {
			continue
		}
		command, errCommand := os.ReadFile(name)
		environ, errEnviron := os.ReadFile(filepath.Join(at, "environ"))
		if errors.Join(errCommand, errEnviron) != nil && len(command)+len(environ) == 0 {
			continue // ended meanwhile, or somebody else's
		}
		if bytes.Contains(append(command, environ...), []byte(dir)) {
			found = append(found, string(bytes.ReplaceAll(command, []byte{0}, []byte(" "))))
		}
	}
	return found
}

// output is a buffer that several goroutines may write to.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
