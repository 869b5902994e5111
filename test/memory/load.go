package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tidemark/tidemark/test/ledger"
	"github.com/tidemark/tidemark/test/trial"
)

// target is a key that can be written to.
type target struct {
	aggregate, key string
	number         ledger.Key
}

func (s *stage) target(aggregate, key string) target {
	name := aggregate + "\x00" + key
	t, ok := s.targets[name]
	if !ok {
		t = target{aggregate, key, s.Ledger.Key(trial.TopicPrefix+aggregate, key)}
		s.targets[name] = t
	}
	return t
}

// row is one that is to be written.
type row struct {
	target
	bytes        int  // of the payload
	compressible bool // lz4 makes a fraction of it; otherwise nothing
}

// transaction commits n rows with one COPY. Nobody else writes meanwhile.
func (s *stage) transaction(ctx context.Context, n int, next func(i int) row) (err error) {
	conn, err := pgx.Connect(ctx, s.DSN)
	if err != nil {
		return fmt.Errorf("write %d rows: %w", n, err)
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	events := make([]ledger.Event, 0, n)
	columns := []string{"id", "aggregatetype", "aggregateid", "type", "payload"}
	_, err = conn.CopyFrom(ctx, pgx.Identifier{"outbox"}, columns, pgx.CopyFromFunc(func() ([]any, error) {
		if len(events) == n {
			return nil, nil
		}
		r := next(len(events))
		payload := s.payload(&r)
		e := s.Ledger.Register(r.number, payload)
		events = append(events, e)
		var id pgtype.UUID
		if err := id.Scan(s.Ledger.ID(e)); err != nil {
			return nil, err
		}
		return []any{id, r.aggregate, r.key, "written", payload}, nil
	}))
	if err != nil {
		return fmt.Errorf("write %d rows: %w", n, err)
	}
	s.Ledger.Tell(ledger.Committed, events...)
	return nil
}

const text = "the quick brown fox jumps over the lazy dog, and whoever watches it compresses well; "

// payload makes a JSON object in the form in which Postgres prints it, so that the record's value can be compared.
func (s *stage) payload(r *row) []byte {
	const digits = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ+/"
	b := make([]byte, 0, r.bytes+64)
	b = fmt.Appendf(b, `{"n": %d, "pad": "`, s.rng.Uint32())
	size := max(0, r.bytes-len(b)-2)
	if r.compressible {
		b = append(b, strings.Repeat(text, size/len(text)+1)[:size]...)
	} else {
		for ; size > 0; size -= 10 {
			for n, bits := min(size, 10), s.rng.Uint64(); n > 0; n, bits = n-1, bits>>6 {
				b = append(b, digits[bits&63])
			}
		}
	}
	return append(b, `"}`...)
}

// small is a row of about 300 B, of one of a thousand keys.
func (s *stage) small(i int) row {
	aggregate := s.Types[i%len(s.Types)]
	return row{target: s.target(aggregate, fmt.Sprintf("%s-%d", aggregate, s.rng.IntN(1000))), bytes: 150 + s.rng.IntN(100), compressible: i%2 == 0}
}

// steady is the load of an outage: 300 B to 4 KB, 2,000 rows a second.
func (s *stage) steady() trial.Load {
	return trial.Load{
		Writers: 6, Rate: 2000, Seed: s.rng.Uint64(),
		Size: func(rng *rand.Rand) int { return 300 + rng.IntN(3700) },
	}
}
