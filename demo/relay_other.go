//go:build !linux

package demo

import "syscall"

// dieWithParent does nothing: only Linux can. A relay whose demo is killed goes on looking for its Postgres.
func dieWithParent(*syscall.SysProcAttr) {}
