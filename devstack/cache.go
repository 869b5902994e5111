package devstack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CacheEnv names the environment variable that says where fetched servers are kept, in place of the user's cache directory.
const CacheEnv = "TIDEMARK_CACHE"

// cacheDir returns an existing, writable directory for what is fetched once: $TIDEMARK_CACHE, else the user's cache
// directory, else (no home, or not writable: containers, CI accounts) a directory of this user under the temporary directory.
// Root's cache is not in its home, which the unprivileged account that runs Postgres cannot enter.
func cacheDir() (string, error) {
	if dir := os.Getenv(CacheEnv); dir != "" {
		dir, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("resolve $%s: %w", CacheEnv, err)
		}
		if err := usableCache(dir); err != nil {
			return "", fmt.Errorf("use $%s as the cache: %w", CacheEnv, err)
		}
		return dir, nil
	}
	if dir := standardCache(); dir != "" && usableCache(dir) == nil {
		return dir, nil
	}
	// The name can be guessed, so somebody else may have made it and put programs of theirs into it.
	dir := filepath.Join(os.TempDir(), "tidemark-cache-"+strconv.Itoa(os.Geteuid()))
	if err := usableCache(dir); err != nil {
		return "", fmt.Errorf("find a cache directory: %w; set %s to a directory that this user can write", err, CacheEnv)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return "", fmt.Errorf("check cache directory: %w", err)
	}
	if !ours(info) || info.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("use cache directory %s: it is not a directory that only this user can write; remove it, or set %s", dir, CacheEnv)
	}
	return dir, nil
}

// standardCache is the platform's place for caches, or "" if this user has none.
func standardCache() string {
	if os.Geteuid() == 0 {
		return "/var/cache/tidemark"
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(base, "tidemark")
}

// usableCache makes dir and tells why it cannot be written, or cannot be read by the account that runs Postgres.
func usableCache(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make it: %w", err)
	}
	probe, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return fmt.Errorf("write to it: %w", err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return fmt.Errorf("write to it: %w", err)
	}
	return serverAccount().canReach(dir)
}

// cached returns the directory name of the cache; if there is none yet, it is filled by fill first.
//
// fill gets an empty directory, which becomes the cached one by a rename once fill has returned without error, so that
// neither a parallel process nor one that comes after a crash sees half of it. A lock file keeps parallel processes from
// doing the same work; waiting is told to progress.
func cached(ctx context.Context, name string, progress func(string), fill func(dir string) error) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	final := filepath.Join(cache, name)
	if exists(final) {
		return final, nil
	}

	lock, err := os.OpenFile(final+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", fmt.Errorf("open the cache's lock: %w", err)
	}
	defer lock.Close() //nolint:errcheck // nothing is written to it; closing gives up the lock
	if err := lockFile(ctx, lock, func() { progress("waiting for another process that fetches " + name) }); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	if exists(final) {
		return final, nil
	}

	// Whoever held the lock before and died in the middle left its part behind.
	leftovers, err := filepath.Glob(final + ".part-*")
	if err != nil {
		return "", fmt.Errorf("look for leftovers of %s: %w", final, err)
	}
	for _, leftover := range leftovers {
		if err := os.RemoveAll(leftover); err != nil {
			return "", fmt.Errorf("remove leftover: %w", err)
		}
	}

	part, err := os.MkdirTemp(cache, name+".part-")
	if err != nil {
		return "", fmt.Errorf("make a directory in the cache: %w", err)
	}
	defer os.RemoveAll(part) //nolint:errcheck // after the rename there is nothing to remove; before, the next run removes it
	if err := fill(part); err != nil {
		return "", err
	}
	// MkdirTemp's 0700 and a strict umask would keep the account that runs Postgres out.
	if err := makeReadable(part); err != nil {
		return "", fmt.Errorf("make %s readable: %w", part, err)
	}
	// Without this, a power failure can leave the name with empty files in it, and nothing would ever look at them again.
	unix.Sync()
	if err := os.Rename(part, final); err != nil {
		return "", fmt.Errorf("put %s into the cache: %w", name, err)
	}
	return final, nil
}

// lockFile takes the exclusive lock of file, calling waiting once if somebody else has it. It polls, because a blocking
// flock cannot be interrupted by ctx.
func lockFile(ctx context.Context, file *os.File, waiting func()) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for told := false; ; {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil || !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		if !told {
			told = true
			waiting()
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// makeReadable lets everybody read the tree, and enter and execute what its owner can.
func makeReadable(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o444
		if mode&0o100 != 0 {
			mode |= 0o111
		}
		return os.Chmod(path, mode)
	})
}

// ours says that info, of an Lstat, is a directory of this user.
func ours(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.IsDir() && int64(stat.Uid) == int64(os.Geteuid())
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
