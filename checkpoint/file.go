package checkpoint

import (
	"context"
	"crypto/rand"
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
type File struct {
	path  string
	tmp   string // this File's own: a process that was stopped while it wrote must not write into another's
	swept bool
}

// NewFile returns a store at path, whose folder must exist.
func NewFile(path string) *File { return &File{path: path, tmp: path + ".tmp-" + rand.Text()} }

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
		return nil, fmt.Errorf("load checkpoint: %w", explainFile(err))
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
	lock, err := acquire(ctx, f.path+".lock")
	if err != nil {
		return fmt.Errorf("save checkpoint %s: %w", f.path, explainFile(err))
	}
	defer lock.release()
	f.sweep()
	stored, err := f.Load(ctx)
	if err != nil {
		return err
	}
	if err := heldBy(stored, c, holder); err != nil {
		return fmt.Errorf("save checkpoint %s: %w", f.path, err)
	}
	if err := f.write(c, lock); err != nil {
		return fmt.Errorf("save checkpoint %s: %w", f.path, explainFile(err))
	}
	return nil
}

// explainFile adds what to do where the path itself is wrong. It may be mended while the process waits, so trying again is
// right.
func explainFile(err error) error {
	for _, wrong := range []error{fs.ErrNotExist, fs.ErrPermission, syscall.ENOTDIR, syscall.EISDIR, syscall.EROFS} {
		if errors.Is(err, wrong) {
			return fmt.Errorf("%w: checkpoint.path has to name a file in a directory that exists and that this user may write to", err)
		}
	}
	return err
}

// sweep removes, once, what crashes have left of temporary files.
func (f *File) sweep() {
	if f.swept {
		return
	}
	f.swept = true
	left, _ := filepath.Glob(f.path + ".tmp-*") // a pattern that cannot be read has nothing to sweep
	for _, name := range left {
		_ = os.Remove(name) // whoever still writes it has lost the lock
	}
}

// Replace stores c in the place of whatever is there, and whoever holds it. What was there is kept in another file, whose
// name is returned; "" if nothing was.
func (f *File) Replace(ctx context.Context, c *Checkpoint, now time.Time) (kept string, err error) {
	kept = aside(f.path, now)
	err = os.Rename(f.path, kept)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kept = ""
	case err != nil:
		return "", fmt.Errorf("set the checkpoint aside: %w", err)
	}
	return kept, f.Save(ctx, c, "") // which makes the renaming durable, too
}

// Close does nothing: a file is open only while it is saved or loaded.
func (f *File) Close() {}

func (f *File) write(c *Checkpoint, lock *fileLock) (err error) {
	b, err := Encode(c)
	if err != nil {
		return err
	}
	tmp, err := os.OpenFile(f.tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.tmp)
		}
	}()
	_, err = tmp.Write(b)
	if err == nil {
		err = tmp.Sync()
	}
	if errClose := tmp.Close(); err == nil {
		err = errClose
	}
	if err == nil && !lock.held() { // what took long is done: from here to the rename there is nothing to wait for
		err = errTakenOver
	}
	if err == nil {
		err = os.Rename(f.tmp, f.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(f.path))
	}
	return err
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
