// Package trial holds the pieces of an end-to-end trial: the built binary as a child process, writers that commit in
// every way that has cost some relay its rows, and the table, slot, topics and ledger that belong together. The tests of
// test/ and the fault suite of test/trials put them together.
//
// The one rule: tidemark is driven from outside, as a user or a service manager drives it: configuration, signals, exit
// status, output and HTTP.
package trial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// BinaryEnv names a tidemark that is to be tried instead of one that is built from the checkout.
	BinaryEnv = "TIDEMARK_TEST_BINARY"
	// RaceEnv, if it is not empty, has the binary built with the race detector.
	RaceEnv = "TIDEMARK_TEST_RACE"
)

// Build builds tidemark and returns the path of the binary, in a directory that vanishes with this process, however it
// ends.
func Build(ctx context.Context) (string, error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		return filepath.Abs(path)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	var args []string
	if os.Getenv(RaceEnv) != "" {
		args = append(args, "-race")
	}
	return build(ctx, root, args...)
}

// BuildPackages builds main packages of the checkout, named as from its root, and returns the directory of their binaries, which
// vanishes with this process.
func BuildPackages(ctx context.Context, packages ...string) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	return buildInto(ctx, root, "", packages...)
}

func moduleRoot(ctx context.Context) (string, error) {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/tidemark/tidemark").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w", err)
	}
	return strings.TrimSpace(string(root)), nil
}

// build builds the module at root into a directory that goes when we do.
func build(ctx context.Context, root string, args ...string) (string, error) {
	dir, err := buildInto(ctx, root, "tidemark", append(args, ".")...)
	return filepath.Join(dir, "tidemark"), err
}

// buildInto builds into the file of that name in a directory that goes when we do, or into files of the packages' names.
func buildInto(ctx context.Context, root, name string, args ...string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "tidemark-binary-"); err != nil {
		return "", fmt.Errorf("build: %w", err)
	}
	if err := removeAfterUs(ctx, dir); err != nil {
		return "", errors.Join(err, os.RemoveAll(dir))
	}
	build := exec.CommandContext(ctx, "go", slices.Concat([]string{"build", "-o", dir + "/" + name}, args)...) //nolint:gosec // ours
	build.Dir = root
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", strings.Join(args, " "), err, output)
	}
	return dir, nil
}

// removeAfterUs starts a process that waits until we are gone and then removes dir. Nothing in this process could do it
// after a SIGKILL, and nothing in a test binary after its last test.
func removeAfterUs(ctx context.Context, dir string) error {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	// The shell must outlive ctx, and a Ctrl-C.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "/bin/sh", "-c", `trap '' INT TERM HUP; read _; rm -rf -- "$0"`, dir)
	cmd.Stdin = ours
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start the remover of %s: %w", dir, err), ours.Close(), theirs.Close())
	}
	// A copy that no garbage collection closes, and no other child inherits.
	if _, err := unix.FcntlInt(theirs.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return errors.Join(fmt.Errorf("keep the pipe of the remover of %s: %w", dir, err), ours.Close(), theirs.Close())
	}
	return errors.Join(ours.Close(), theirs.Close(), cmd.Process.Release())
}
