package devstack

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// removeSharedMemory removes the System V segment of a Postgres that was killed and will not be started again on data.
// Postgres itself would reuse it at its next start there; without one it stays until the machine is rebooted, and a system
// has few (macOS: 32). After a clean stop there is none, and nothing to do.
func removeSharedMemory(data string) {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return
	}
	lines := strings.Split(string(text), "\n")
	const shmLine = 6 // LOCK_FILE_LINE_SHMEM_KEY of miscadmin.h, counted from 0: "key id"
	if len(lines) <= shmLine {
		return
	}
	_, text2, _ := strings.Cut(strings.TrimSpace(lines[shmLine]), " ")
	id, err := strconv.Atoi(strings.TrimSpace(text2))
	if err != nil {
		return
	}
	// The file may be old and the number another's by now: what somebody is attached to is not ours.
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil || desc.Nattch != 0 {
		return
	}
	_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
}
