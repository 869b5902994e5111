package trial

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/test/ledger"
)

// Arena is what one trial is about: a database with an outbox table, topics of its own, the ledger over both, and the
// configuration of the tidemark between them.
type Arena struct {
	DSN     string // of the database, for the writers and the judge
	Brokers []string
	Types   []string // aggregate types; each has its topic
	Config  Config   // to start tidemark with; may be changed before that
	Ledger  *ledger.Ledger
	Reader  *ledger.Reader
}

// Options are what an Arena is made from. The servers must be there.
type Options struct {
	Binary  string
	DSN     string   // of an empty database
	Brokers []string // as the ledger reaches them, and tidemark too if Config is not changed
	Dir     string   // for the checkpoint
	Topics  int      // default 3
	Seed    uint64
	Reader  []kgo.Opt // for the ledger's way to Kafka
	// ExactlyOnce is delivery.mode: exactly_once, judged as a consumer of committed records sees it. It goes with the store
	// kafka alone, which is its default.
	ExactlyOnce bool
	Store       string // checkpoint.store; default file
}

// NewArena creates the outbox table and begins to read the topics, which do not exist yet.
func NewArena(ctx context.Context, o Options) (*Arena, error) {
	config, err := pgx.ParseConfig(o.DSN)
	if err != nil {
		return nil, err
	}
	name := config.Database
	a := &Arena{
		DSN: o.DSN, Brokers: o.Brokers,
		Ledger: ledger.New(o.Seed),
	}
	if o.ExactlyOnce {
		a.Ledger = ledger.NewExactlyOnce(o.Seed)
	}
	if o.Topics == 0 {
		o.Topics = 3
	}
	unique := rand.Uint32() //nolint:gosec // brokers are shared between trials; nothing depends on it
	a.Config = Config{
		Binary: o.Binary, DSN: o.DSN, Slot: name, Brokers: o.Brokers, Checkpoint: filepath.Join(o.Dir, "checkpoint"),
		DeadLetter: fmt.Sprintf("dead-%s-%08x", name, unique),
	}
	if o.ExactlyOnce {
		o.Store = cmp.Or(o.Store, "kafka")
		a.Config = a.Config.With("TIDEMARK_DELIVERY_MODE", "exactly_once")
	}
	a.Config = a.Config.With("TIDEMARK_CHECKPOINT_STORE", o.Store)
	a.Ledger.DeadLetters(a.Config.DeadLetter)
	for i := range o.Topics {
		a.Types = append(a.Types, fmt.Sprintf("%s-%08x-%d", name, unique, i))
	}
	if err := a.Exec(ctx, OutboxSQL); err != nil {
		return nil, err
	}
	a.Reader, err = ledger.Read(ctx, a.Ledger, o.Brokers, append(a.Topics(), a.Config.DeadLetter), o.Reader...)
	return a, err
}

// Close ends the reader.
func (a *Arena) Close() { a.Reader.Close() }

// Topics are the topics that the types lead to.
func (a *Arena) Topics() []string {
	var topics []string
	for _, t := range a.Types {
		topics = append(topics, TopicPrefix+t)
	}
	return topics
}

// Write starts writers.
func (a *Arena) Write(ctx context.Context, load Load) *Writers {
	return Write(ctx, a.Ledger, a.DSN, slices.Concat(a.Types, load.More), load)
}

// Start starts a tidemark.
func (a *Arena) Start(ctx context.Context) (*Relay, error) { return Start(ctx, a.Config) }

// Exec runs a statement in the database, on a connection of its own.
func (a *Arena) Exec(ctx context.Context, sql string, args ...any) error {
	return a.with(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql, args...)
		return err
	})
}

// Query runs a query that yields one row, on a connection of its own, and scans it.
func (a *Arena) Query(ctx context.Context, into []any, sql string, args ...any) error {
	return a.with(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, sql, args...).Scan(into...) })
}

func (a *Arena) with(ctx context.Context, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, a.DSN)
	if err != nil {
		return fmt.Errorf("ask the database: %w", err)
	}
	if err := errors.Join(do(conn), conn.Close(ctx)); err != nil {
		return fmt.Errorf("ask the database: %w", err)
	}
	return nil
}

// Judge waits until everything committed has arrived, or nothing has for as long as patience, then reads the topics to
// their ends and gives the verdict. It is called when no writer is left. An error is one of the trial, not of tidemark.
func (a *Arena) Judge(ctx context.Context, patience time.Duration) (ledger.Verdict, error) {
	if err := a.Settle(ctx); err != nil {
		return ledger.Verdict{}, err
	}
	a.Reader.AwaitAll(ctx, patience)
	if err := a.Reader.AwaitEnd(ctx, append(a.Topics(), a.Config.DeadLetter)...); err != nil {
		return ledger.Verdict{}, err
	}
	return a.Ledger.Verdict(), nil
}

// Settle tells the ledger what is in the table. Server processes whose writers are gone may still commit; they are waited
// for.
func (a *Arena) Settle(ctx context.Context) error {
	return a.with(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `select pg_terminate_backend(pid, 10000) from pg_stat_activity
			where datname = current_database() and application_name = $1`, WriterName)
		if err != nil {
			return err
		}
		return a.Ledger.Settle(func(yield func(string) error) error {
			sql := "select id::text from outbox"
			var emitted bool
			if err := conn.QueryRow(ctx, "select to_regclass('emitted') is not null").Scan(&emitted); err != nil {
				return err
			}
			if emitted {
				sql += " union all select id::text from emitted"
			}
			rows, err := conn.Query(ctx, sql)
			if err != nil {
				return err
			}
			defer rows.Close()
			var id string
			for rows.Next() {
				if err := rows.Scan(&id); err != nil {
					return err
				}
				if err := yield(id); err != nil {
					return err
				}
			}
			return rows.Err()
		})
	})
}

// Confirmed is the slot's confirmed position, as text, and whether somebody streams from it, with the server process that
// does.
func (a *Arena) Confirmed(ctx context.Context) (lsn string, pid int, err error) {
	err = a.Query(ctx, []any{&lsn, &pid},
		"select coalesce(confirmed_flush_lsn::text, ''), coalesce(active_pid, 0) from pg_replication_slots where slot_name = $1", a.Config.Slot)
	return lsn, pid, err
}

// Await calls ok every few milliseconds until it returns true or an error, or the limit has passed.
func Await(ctx context.Context, what string, limit time.Duration, ok func() (bool, error)) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		done, err := ok()
		if err != nil || done {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		case <-timer.C:
			return fmt.Errorf("waited %v in vain until %s", limit, what)
		case <-ticker.C:
		}
	}
}
