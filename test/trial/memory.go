package trial

import (
	"fmt"
	"os"
	"strings"
)

// Memory is what a process holds of the machine's memory, in bytes.
type Memory struct {
	Resident int64 // now
	Peak     int64 // the most it has ever held
}

// Memory asks the kernel. It works on Linux alone, and while the process runs.
func (r *Relay) Memory() (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		return Memory{}, fmt.Errorf("ask for the memory of tidemark: %w", err)
	}
	m, err := parseMemory(string(text))
	if err != nil {
		return Memory{}, fmt.Errorf("ask for the memory of tidemark: %w", err)
	}
	return m, nil
}

// parseMemory reads /proc/PID/status (https://man7.org/linux/man-pages/man5/proc_pid_status.5.html). A process that has
// ended, and is not waited for yet, has these lines no more.
func parseMemory(status string) (m Memory, err error) {
	for _, field := range []struct {
		name string
		to   *int64
	}{{"VmRSS", &m.Resident}, {"VmHWM", &m.Peak}} {
		_, rest, ok := strings.Cut(status, "\n"+field.name+":")
		var kilobytes int64
		if ok {
			_, err = fmt.Sscanf(rest, "%d kB\n", &kilobytes)
		}
		if !ok || err != nil {
			return Memory{}, fmt.Errorf("the status has no %s", field.name)
		}
		*field.to = kilobytes << 10
	}
	return m, nil
}
