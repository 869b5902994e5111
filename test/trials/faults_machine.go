package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// machineFaults are those of the machine that tidemark runs on.
func machineFaults() []fault {
	return []fault{
		{
			Name: "checkpoint_disk_full", What: "the disk of the checkpoint file is full for 5 s, and tidemark is killed meanwhile, every other time", Hold: 5 * time.Second,
			Prepare: smallDisk, Inject: fillDisk,
		},
		{
			Name: "clock_jump", What: "the clock jumps while tidemark runs", Alone: true,
			Prepare: func(context.Context, *stack) error {
				return skip("the clock of one process cannot be set: Go asks the kernel without libc, so libfaketime does not reach it, and setting the machine's would hit all others; " +
					"what a clock that jumps forward does to timers, stop_cont and pause do")
			},
		},
	}
}

// smallDisk puts the checkpoint on a file system of its own, of a few pages.
func smallDisk(_ context.Context, s *stack) error {
	if s.mode == exactlyOnce {
		return skip("with exactly_once the checkpoint is in Kafka")
	}
	dir := filepath.Join(filepath.Dir(s.Config.Checkpoint), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	unmount, err := mountSmall(dir)
	if err != nil {
		return skip(fmt.Sprintf("no small file system can be mounted here: %v", err))
	}
	s.cleanup = append(s.cleanup, unmount)
	s.Config.Checkpoint = filepath.Join(dir, "checkpoint")
	return nil
}

// fillDisk takes what is left of it.
func fillDisk(ctx context.Context, s *stack) (func() error, error) {
	active, err := s.active(ctx) // now: with a full disk none is ready
	if err != nil {
		return nil, err
	}
	path := filepath.Join(filepath.Dir(s.Config.Checkpoint), "filler")
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	page := make([]byte, 512)
	for err == nil {
		_, err = file.Write(page) // until the disk is full
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	heal := func() error { return os.Remove(path) }
	if s.rng.IntN(2) == 0 {
		return heal, nil
	}
	s.hold(ctx, time.Second)
	return heal, active.kill()
}
