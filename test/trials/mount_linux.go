package main

import "syscall"

// mountSmall mounts a file system of a few pages.
func mountSmall(dir string) (unmount func(), err error) {
	if err := syscall.Mount("tidemark-trials", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		return nil, err
	}
	return func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }, nil // with the directory it goes anyway
}
