package devstack

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent does nothing: macOS has no such thing, and a server whose owner was killed with SIGKILL must be ended by hand.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}

// descendants lists the processes that were forked by pid or by one of these. What ends meanwhile may be among them.
func descendants(pid int) []int {
	all, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil
	}
	parents := make(map[int]int, len(all))
	for _, info := range all {
		parents[int(info.Proc.P_pid)] = int(info.Eproc.Ppid)
	}
	return below(pid, parents)
}
