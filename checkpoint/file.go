package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// File keeps the checkpoint in a local file. It is written to a temporary file beside it, fsynced and renamed, and
// then the folder is fsynced, so that a crash or a power cut leaves either the old contents or the new.
type File struct{ path string }

// NewFile returns a store at path, whose folder must exist.
func NewFile(path string) *File { return &File{path: path} }

// String names the store for logs and errors.
func (f *File) String() string { return "file " + f.path }

// Load returns what is stored, or nil if there is no file. IsCorrupt tells contents that cannot be trusted from a file
// that cannot be read.
func (f *File) Load(context.Context) (*Checkpoint, error) {
	b, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing stored is no error, and a zero checkpoint would be one
	}
	if err != nil {
		return nil, fmt.Errorf("load checkpoint: %w", err)
	}
	c, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("load checkpoint %s: %w", f.path, err)
	}
	return c, nil
}

// Save replaces what is stored, durably: when it returns nil, c survives a power cut. What is stored must be held by
// holder (the Writer that it names; "" if nothing is stored or it names none), or else another process has taken over
// and IsTakenOver is true of the error: a process that was stopped for a while must not put its old position above
// that of its successor.
func (f *File) Save(ctx context.Context, c *Checkpoint, holder string) error {
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	stored, err := f.Load(ctx)
	if err != nil {
		return err
	}
	if err := heldBy(stored, holder); err != nil {
		return fmt.Errorf("save checkpoint %s: %w", f.path, err)
	}
	return f.write(c)
}

// SetAside renames what is stored, so that nothing is, and returns the new name; "" if nothing was.
func (f *File) SetAside(now time.Time) (string, error) {
	name := f.path + ".before-" + now.UTC().Format("20060102T150405Z")
	err := os.Rename(f.path, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("set the checkpoint aside: %w", err)
	}
	return name, syncDir(filepath.Dir(f.path))
}

// lock keeps other processes from saving between the look at the holder and the rename. Whoever is stopped in between
// still holds the lock, so that nobody can take over unseen.
func (f *File) lock(ctx context.Context) (unlock func(), err error) {
	file, err := os.OpenFile(f.path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("save checkpoint: %w", err)
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = file.Close() }, nil // which unlocks
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("lock checkpoint %s: %w", f.path, err)
		}
		select {
		case <-ctx.Done():
			_ = file.Close()
			return nil, fmt.Errorf("lock checkpoint %s: another process holds it, perhaps one that is stopped (fuser %s.lock names it): %w", f.path, f.path, ctx.Err())
		case <-ticker.C:
		}
	}
}

func (f *File) write(c *Checkpoint) (err error) {
	b, err := Encode(c)
	if err != nil {
		return err
	}
	// One name for the temporary file: what a crash leaves behind is overwritten, not collected.
	tmp, err := os.OpenFile(f.path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("save checkpoint: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
	if errClose := tmp.Close(); err == nil {
		err = errClose
	}
	if err == nil {
		err = os.Rename(tmp.Name(), f.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	if err != nil {
		return fmt.Errorf("save checkpoint %s: %w", f.path, err)
	}
	return nil
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errClose := d.Close(); err == nil {
		err = errClose
	}
	return err
}
