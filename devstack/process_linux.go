package devstack

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// dieWithParent has the kernel send death to the process when the thread that starts it ends.
func dieWithParent(attr *syscall.SysProcAttr, death syscall.Signal) { attr.Pdeathsig = death }

// descendants lists the processes that were forked by pid or by one of these. What ends meanwhile may be among them.
func descendants(pid int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	parents := make(map[int]int)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + entry.Name() + "/stat")
		if err != nil {
			continue // ended meanwhile
		}
		// "pid (command) state parent …": the command may hold anything, a ')' too.
		_, rest := cutLast(stat, ')')
		fields := bytes.Fields(rest)
		if len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(string(fields[1])); err == nil {
			parents[pid] = parent
		}
	}
	return below(pid, parents)
}

func cutLast(b []byte, sep byte) (before, after []byte) {
	if i := bytes.LastIndexByte(b, sep); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}
