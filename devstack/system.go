package devstack

import (
	"os"
	"runtime"
	"strings"
)

// System names the operating system and the architecture for a report, as well as they are known without asking for them
// with a command: "linux/amd64, Debian GNU/Linux 13 (trixie), kernel 6.12.48".
func System() string {
	parts := []string{runtime.GOOS + "/" + runtime.GOARCH}
	release, _ := os.ReadFile("/etc/os-release") // not everywhere
	for line := range strings.Lines(string(release)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			parts = append(parts, strings.Trim(name, `"`))
		}
	}
	if kernel, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		parts = append(parts, "kernel "+strings.TrimSpace(string(kernel)))
	}
	return strings.Join(parts, ", ")
}
