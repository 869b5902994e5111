package checkpoint

import (
	"path/filepath"
	"testing"
)

// TestLockOfAStoppedProcessIsBroken: a process that is stopped in the middle of a save must neither keep its successor from
// taking over, nor put its old position above the successor's when it wakes.
func TestLockOfAStoppedProcessIsBroken(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "checkpoint")
	stopped, successor := NewFile(path), NewFile(path)
	old := &Checkpoint{Version: Version, SystemIdentifier: "7", Database: "d", Slot: "s", LSN: 100, Writer: "stopped"}
	if err := stopped.Save(t.Context(), old, ""); err != nil {
		t.Fatal(err)
	}
	lock, err := acquire(t.Context(), path+".lock") // it has looked at the holder, and is stopped while it writes
	if err != nil {
		t.Fatal(err)
	}
	defer lock.release()

	next := *old
	next.LSN, next.Writer = 200, "successor"
	if err := successor.Save(t.Context(), &next, "stopped"); err != nil {
		t.Fatalf("the successor cannot take over: %v", err)
	}
	if err := stopped.write(old, lock); !IsTakenOver(err) {
		t.Errorf("the stopped process wakes and saves: %v", err)
	}
	stored, err := successor.Load(t.Context())
	if err != nil || stored.LSN != 200 || stored.Writer != "successor" {
		t.Errorf("stored is %+v, %v", stored, err)
	}
	if err := successor.Save(t.Context(), &next, "successor"); err != nil {
		t.Errorf("the successor's next save: %v", err)
	}
}
