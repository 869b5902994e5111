package wal

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// setLowWater sets how many bytes must be there before the kernel wakes whoever waits to read.
func setLowWater(conn syscall.RawConn, bytes int) error {
	var err error
	if errControl := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, bytes)
	}); errControl != nil {
		err = errControl
	}
	if err != nil {
		return fmt.Errorf("set the low-water mark of the connection: %w", err)
	}
	return nil
}
