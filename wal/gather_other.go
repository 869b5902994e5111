//go:build !linux

package wal

import "syscall"

// setLowWater does nothing: every message wakes the reader.
func setLowWater(syscall.RawConn, int) error { return nil }
