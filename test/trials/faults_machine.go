package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/test/trial"
)

// machineFaults are those of the machine that tidemark runs on.
func machineFaults() []fault {
	return []fault{
		{
			Name: "checkpoint_disk_full", What: "the disk of the checkpoint file is full for 5 s, and tidemark is killed meanwhile, every other time", Hold: 5 * time.Second,
			Prepare: smallDisk, Inject: fillDisk,
		},
		{
			Name: "checkpoint_refused", What: "the server that keeps the checkpoint takes none for 5 s: somebody has locked the table, or the topic takes no record that large; tidemark is killed meanwhile, every other time", Hold: 5 * time.Second,
			Prepare: func(_ context.Context, s *stack) error {
				if s.store == inFile {
					return skip("the checkpoint is in a file, whose disk checkpoint_disk_full fills")
				}
				return nil
			},
			Inject: refuseCheckpoints,
		},
		{
			Name: "clock_jump", What: "the clock of tidemark's machine jumps by an hour, forward or back, and tidemark is killed then, every other time",
			Alone: true, Prepare: ownClock, Inject: jumpClock,
		},
	}
}

// ownClock has tidemark built with a clock that can be set.
func ownClock(ctx context.Context, s *stack) error {
	binary, err := trial.BuildWithClock(ctx)
	if err != nil {
		return skip(err.Error())
	}
	s.Config.Binary = binary
	return nil
}

func jumpClock(ctx context.Context, s *stack) (func() error, error) {
	active, err := s.active(ctx)
	if err != nil {
		return nil, err
	}
	jump := trial.ClockForward
	if s.rng.IntN(2) == 0 {
		jump = trial.ClockBack
	}
	if err := active.signal(jump); err != nil || s.rng.IntN(2) == 0 {
		return nil, err
	}
	s.hold(ctx, time.Second)
	return nil, active.kill()
}

// smallDisk puts the checkpoint on a file system of its own, of a few pages.
func smallDisk(_ context.Context, s *stack) error {
	if s.store != inFile {
		return skip("the checkpoint is in no file; checkpoint_refused is what comes close to it")
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
	return s.whileUnstored(ctx, func() (func() error, error) {
		return fillUp(filepath.Join(filepath.Dir(s.Config.Checkpoint), "filler"))
	})
}

// whileUnstored has begin keep the checkpoint from being stored, and kills tidemark then, every other time.
func (s *stack) whileUnstored(ctx context.Context, begin func() (heal func() error, err error)) (func() error, error) {
	active, err := s.active(ctx) // before, since none is ready then
	if err != nil {
		return nil, err
	}
	heal, err := begin()
	if err != nil || s.rng.IntN(2) == 0 {
		return heal, err
	}
	s.hold(ctx, time.Second)
	return heal, active.kill()
}

func fillUp(path string) (func() error, error) {
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
	return func() error { return os.Remove(path) }, nil
}

// checkpointTopic is the default of checkpoint.topic, and checkpointLimit what tidemark creates it with.
const (
	checkpointTopic = "tidemark.checkpoints"
	checkpointLimit = "16777216"
)

// refuseCheckpoints has the server that keeps the checkpoint take none.
func refuseCheckpoints(ctx context.Context, s *stack) (func() error, error) {
	return s.whileUnstored(ctx, func() (func() error, error) {
		if s.store == inKafka {
			return func() error { return s.setLimit(ctx, checkpointLimit, checkpointTopic) }, s.setLimit(ctx, "100", checkpointTopic)
		}
		conn, err := pgx.Connect(ctx, s.DSN)
		if err != nil {
			return nil, err
		}
		_, err = conn.Exec(ctx, "begin; lock table tidemark_checkpoint in access exclusive mode")
		return func() error { return conn.Close(ctx) }, err
	})
}
