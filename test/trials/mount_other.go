//go:build !linux

package main

import "errors"

// mountSmall needs Linux.
func mountSmall(string) (unmount func(), err error) { return nil, errors.New("only on Linux") }
