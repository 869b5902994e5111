package checkpoint_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tidemark/tidemark/checkpoint"
)

// A kill leaves the page cache alone, and only a power cut would show what was not synced. The kernel tells as well: of
// a file that is on the disk, no page is dirty.
func TestFileIsOnTheDiskWhenSaveReturns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	control := filepath.Join(dir, "control")
	if err := os.WriteFile(control, []byte("not synced"), 0o600); err != nil {
		t.Fatal(err)
	}
	if dirty(t, control) == 0 {
		t.Skipf("the file system of %s does not show what it has not written yet", dir)
	}
	path := filepath.Join(dir, "checkpoint")
	for n := range uint64(3) {
		save(t, checkpoint.NewFile(path), example(n))
		if n := dirty(t, path); n != 0 {
			t.Fatalf("%d pages are not on the disk", n)
		}
	}
}

// dirty returns how many pages of the file are in memory only.
func dirty(t *testing.T, path string) uint64 {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // read only
	var stat unix.Cachestat_t
	if err := unix.Cachestat(uint(file.Fd()), &unix.CachestatRange{}, &stat, 0); err != nil {
		t.Skipf("cachestat (Linux 6.5): %v", err)
	}
	return stat.Dirty + stat.Writeback
}
