package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/tidemark/tidemark/test/trial"
)

// messageFaults have logical messages among the rows.
func messageFaults() []fault {
	return []fault{{
		Name: "messages", Quick: true, Short: time.Second, Alone: true,
		What: "logical messages among the rows, and some that belong to no transaction, with non_transactional: publish; " +
			"SIGKILL within the first half second of a start or later",
		Prepare: readMessages, Load: emitMessages, Inject: killAtAnyMoment, Finish: flushMessages,
	}}
}

func readMessages(ctx context.Context, s *stack) error {
	path := filepath.Join(filepath.Dir(s.Config.Checkpoint), "messages.yaml")
	text := fmt.Sprintf("messages:\n  - prefix: %s\n    non_transactional: publish\n", trial.MessagePrefix)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	s.Config.Args = []string{"run", "--config", path}
	return s.Exec(ctx, trial.EmittedSQL)
}

func emitMessages(_ *stack, l *trial.Load) {
	l.Messages = 0.6
	l.Kinds = append(trial.Mixed(), trial.Alone, trial.Alone, trial.Alone)
}

func killAtAnyMoment(ctx context.Context, s *stack) (func() error, error) {
	i, err := s.active(ctx)
	if err != nil {
		return nil, err
	}
	for range 1 + s.rng.IntN(3) {
		if err := i.kill(); err != nil {
			return nil, err
		}
		s.done["kills"]++
		s.hold(ctx, s.between(0, 700*time.Millisecond))
	}
	return nil, nil
}

// flushMessages commits something: a message without a transaction is read when something else flushes the log.
func flushMessages(ctx context.Context, s *stack) error {
	return s.Exec(ctx, "select pg_logical_emit_message(true, 'trial', 'the end')")
}
