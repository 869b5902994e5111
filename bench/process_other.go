//go:build !linux

package bench

import (
	"syscall"
	"time"
)

// Only Linux tells these of a process that runs.

func dieWithParent(*syscall.SysProcAttr) {}

func cpuOf(int) time.Duration { return 0 }

func peakOf(int) int64 { return 0 }
