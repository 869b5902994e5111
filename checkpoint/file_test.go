package checkpoint_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tidemark/tidemark/checkpoint"
)

func TestFileConforms(t *testing.T) {
	t.Parallel()
	conformance(t, func(t *testing.T) place {
		t.Helper()
		path := filepath.Join(t.TempDir(), "checkpoint")
		return place{
			open: func() Store { return checkpoint.NewFile(path) },
			plant: func(contents string) {
				if err := os.WriteFile(path, []byte(contents), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			kept: func(mark string) string {
				b, err := os.ReadFile(path + "." + mark)
				if err != nil {
					t.Fatal(err)
				}
				return string(b)
			},
		}
	})
}

func TestFileOutlivesItsStore(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "checkpoint")
	save(t, checkpoint.NewFile(path), example(7))
	mustLoad(t, checkpoint.NewFile(path), example(7))
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v, want 0600", info.Mode(), err)
	}
	if s := checkpoint.NewFile(path).String(); !strings.Contains(s, path) {
		t.Errorf("String() = %q does not name %s", s, path)
	}
}

func TestFileRefusesWhatIsTorn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "checkpoint")
	whole := bytes.TrimSuffix(encode(t, example(0)), []byte("\n"))
	for n := 0; n < len(whole); n += 41 { // TestDecodeRefusesEveryTruncation has them all
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := checkpoint.NewFile(path).Load(t.Context())
		if !checkpoint.IsCorrupt(err) || c != nil {
			t.Fatalf("Load() = %+v, %v of the first %d bytes, want an error that is corrupt", c, err, n)
		}
		if !strings.Contains(err.Error(), path) {
			t.Fatalf("the error %q does not name the file", err)
		}
	}
}

// A crash may leave the file behind that was to become the checkpoint. It is not looked at, it is in nobody's way, and
// it does not stay forever.
func TestFileIsNotDisturbedByWhatACrashLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "checkpoint")
	save(t, checkpoint.NewFile(path), example(1))
	if err := os.WriteFile(path+".tmp-left", bytes.Repeat([]byte("torn "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	s := checkpoint.NewFile(path)
	mustLoad(t, s, example(1))
	save(t, s, example(2))
	mustLoad(t, s, example(2))
	mustHoldOnly(t, dir, "checkpoint", "checkpoint.lock")
}

func mustHoldOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		t.Errorf("the folder holds %q, want %q", names, want)
	}
}

// Where the file system says no, the contents are not to blame: starting over from nothing would be wrong, and so would
// be the advice to restore the file.
func TestFileThatCannotBeReachedIsNotCorrupt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustHoldOnly(t, dir, "plain") })
	for name, c := range map[string]struct {
		path string
		want error // of Save
		load error
	}{
		"no such folder":      {filepath.Join(dir, "none", "checkpoint"), fs.ErrNotExist, nil},
		"a file for a folder": {filepath.Join(dir, "plain", "checkpoint"), syscall.ENOTDIR, syscall.ENOTDIR},
		"a folder for a file": {dir, nil, syscall.EISDIR},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := checkpoint.NewFile(c.path)
			got, err := s.Load(t.Context())
			if got != nil || !errors.Is(err, c.load) || checkpoint.IsCorrupt(err) {
				t.Errorf("Load() = %+v, %v, want %v", got, err, c.load)
			}
			err = s.Save(t.Context(), example(1), "")
			if err == nil || (c.want != nil && !errors.Is(err, c.want)) || checkpoint.IsCorrupt(err) {
				t.Errorf("Save: %v, want %v", err, c.want)
			}
			if err != nil && (!strings.Contains(err.Error(), c.path) || !strings.Contains(err.Error(), "checkpoint.path has to name a file")) {
				t.Errorf("the error %q does not name the file, or what is wrong with it", err)
			}
		})
	}
}

// As root nothing is forbidden, so another user tries.
func TestFileThatIsForbiddenIsNotCorrupt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "checkpoint")
	save(t, checkpoint.NewFile(path), example(1))
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // the other user has to get there
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o555); err != nil { //nolint:gosec // not writable is the point
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o755) }) //nolint:gosec // for its removal
	out := runChild(t, "forbidden", path)
	for _, line := range []string{"load: EACCES, corrupt false", "save: EACCES, corrupt false"} {
		if !strings.Contains(out, line) {
			t.Errorf("%q is missing in\n%s", line, out)
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	mustLoad(t, checkpoint.NewFile(path), example(1))
	mustHoldOnly(t, dir, "checkpoint", "checkpoint.lock")
}

// A process that is stopped in the middle of a save keeps the others out, or it could put its old position above theirs
// when it goes on. They wait for as long as they may, and say who is in the way.
func TestFileWaitsForAProcessThatIsStoppedWhileSaving(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "checkpoint")
	s := checkpoint.NewFile(path)
	save(t, s, example(1))
	lock, err := os.OpenFile(path+".lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lock.Close() })
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = s.Save(ctx, example(2), example(1).Writer)
	if !errors.Is(err, context.DeadlineExceeded) || checkpoint.IsTakenOver(err) || checkpoint.IsCorrupt(err) {
		t.Errorf("Save: %v, want the deadline", err)
	}
	if err == nil || !strings.Contains(err.Error(), path+".lock") {
		t.Errorf("the error %v does not name the lock", err)
	}
	mustLoad(t, s, example(1)) // reading needs no lock
	saved := make(chan error, 1)
	go func() { saved <- s.Save(t.Context(), example(2), example(1).Writer) }() // ends when the lock is free
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-saved; err != nil {
		t.Error(err)
	}
	mustLoad(t, s, example(2))
}

// A limit on the size of files stands for the full disk: the write ends in the middle with an error.
func TestFileOnAFullDiskKeepsTheOldContents(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "checkpoint")
	save(t, checkpoint.NewFile(path), example(1))
	out := runChild(t, "full", path)
	if want := "save: EFBIG, corrupt false"; !strings.Contains(out, want) {
		t.Errorf("%q is missing in\n%s", want, out)
	}
	mustLoad(t, checkpoint.NewFile(path), example(1))
	mustHoldOnly(t, dir, "checkpoint", "checkpoint.lock") // half a file would only take up room on that disk
}

// Whenever a process that saves is killed, what it leaves is a whole checkpoint, and none older than the last that Save
// has returned for.
func TestFileSurvivesSIGKILLAtAnyMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "checkpoint")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // no secret
	var inTheMiddle int
	for range 50 {
		saved := killWhileSaving(t, path, time.Duration(random.IntN(8000))*time.Microsecond)
		c, err := checkpoint.NewFile(path).Load(t.Context())
		if err != nil || c == nil {
			t.Fatalf("Load() = %+v, %v after a kill", c, err)
		}
		if got := uint64(c.LSN); got < saved {
			t.Fatalf("stored is %d, and Save had returned for %d", got, saved)
		}
		if left, err := filepath.Glob(path + ".tmp*"); err == nil && len(left) > 0 {
			inTheMiddle++
		}
	}
	t.Logf("%d of 50 kills came in the middle of a save", inTheMiddle)
	if inTheMiddle == 0 {
		t.Error("no kill came in the middle of a save")
	}
	save(t, checkpoint.NewFile(path), example(1))
	mustHoldOnly(t, dir, "checkpoint", "checkpoint.lock")
}

// killWhileSaving starts a child that saves again and again, kills it after a while, and returns the last LSN that it
// reported as saved.
func killWhileSaving(t *testing.T, path string, after time.Duration) uint64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], path) //nolint:gosec // ourselves
	cmd.Env = append(os.Environ(), childEnv+"=save")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	var saved uint64
	read := func() bool {
		if !lines.Scan() {
			return false
		}
		n, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil { // an error of its own, or a line that was cut by the kill
			t.Logf("the child says %q", lines.Text())
			return true
		}
		saved = n
		return true
	}
	if !read() {
		t.Fatal("the child says nothing")
	}
	time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	for read() {
	}
	_ = cmd.Wait() // it was killed
	return saved
}

func runChild(t *testing.T, part string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...) //nolint:gosec // ourselves
	cmd.Env = append(os.Environ(), childEnv+"="+part)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child %s: %v\n%s", part, err, out)
	}
	return string(out)
}

// child is what the test binary does as another process; its result is the exit status.
func child(part string, args []string) int {
	ctx := context.Background()
	store := checkpoint.NewFile(args[0])
	say := func(what string, err error) {
		name := fmt.Sprint(err)
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			name = unix.ErrnoName(errno)
		}
		fmt.Printf("%s: %s, corrupt %v\n", what, name, checkpoint.IsCorrupt(err))
	}
	switch part {
	case "save": // until killed; of different lengths, so that a mixture of two would show
		start, holder := uint64(1), ""
		if c, err := store.Load(ctx); err == nil && c != nil {
			start, holder = uint64(c.LSN)+1, c.Writer
		}
		for n := start; ; n++ {
			c := example(0)
			c.LSN = checkpoint.LSN(n)
			for i := range n * 37 % 200 {
				c.Offsets[fmt.Sprint("topic-", i)] = map[int32]int64{0: int64(i)} //nolint:gosec // small
			}
			if err := store.Save(ctx, c, holder); err != nil {
				fmt.Println(err)
				return 1
			}
			holder = c.Writer
			fmt.Println(n)
		}
	case "full":
		signal.Ignore(unix.SIGXFSZ) // so that write returns EFBIG
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 100, Max: 100}); err != nil {
			fmt.Println(err)
			return 1
		}
		say("save", store.Save(ctx, example(2), "somebody"))
		return 0
	case "forbidden":
		if os.Geteuid() == 0 {
			if err := syscall.Setuid(65534); err != nil {
				fmt.Println(err)
				return 1
			}
		}
		_, err := store.Load(ctx)
		say("load", err)
		say("save", store.Save(ctx, example(2), "somebody"))
		return 0
	default:
		fmt.Println("no such part:", part)
		return 1
	}
}
