package checkpoint

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// fileLock keeps other processes from saving between the look at the holder and the rename. A process that is stopped
// while it holds the lock (it spends most of that time waiting for the disk) would keep everybody from taking over, so
// the lock is broken after a while: a new file is put in its place. Whoever held the old one notices before its rename.
type fileLock struct {
	path string
	file *os.File
}

// breakAfter is how long a lock is respected. A save takes milliseconds; one on a disk that stalls for longer than this
// is given up by its process, which loses nothing by that.
const breakAfter = 3 * time.Second

func acquire(ctx context.Context, path string) (*fileLock, error) {
	began := time.Now()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		l, err := tryLock(path)
		if err == nil && l == nil && time.Since(began) > breakAfter {
			l, err = breakLock(path)
		}
		if err != nil {
			return nil, fmt.Errorf("lock: %w", err)
		}
		if l != nil {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock: another process holds %s: %w", path, ctx.Err())
		case <-ticker.C:
		}
	}
}

// tryLock returns nil if somebody else has the lock.
func tryLock(path string) (*fileLock, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	l := &fileLock{path, file}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // a file descriptor fits
	if err == nil && l.held() {
		return l, nil
	}
	l.release()
	if err == nil || errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, syscall.EINTR) {
		return nil, nil //nolint:nilnil // somebody else has it
	}
	return nil, err
}

// breakLock puts a lock of our own in the place of one that is held. It returns nil if somebody else was quicker.
func breakLock(path string) (*fileLock, error) {
	name := path + "-" + rand.Text()
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	l := &fileLock{path, file}
	if err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil { //nolint:gosec // a file descriptor fits
		err = os.Rename(name, path)
	}
	if err != nil {
		_ = os.Remove(name)
		l.release()
		return nil, err
	}
	if !l.held() {
		l.release()
		return nil, nil //nolint:nilnil // somebody else has broken it as well
	}
	return l, nil
}

// held reports whether the lock is still in its place.
func (l *fileLock) held() bool {
	ours, errOurs := l.file.Stat()
	there, errThere := os.Stat(l.path)
	return errOurs == nil && errThere == nil && os.SameFile(ours, there)
}

func (l *fileLock) release() { _ = l.file.Close() } // which unlocks
