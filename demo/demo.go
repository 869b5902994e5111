// Package demo shows the whole path on one screen: an embedded Postgres, an in-process Kafka, writers that commit and
// roll back, the relay as `tidemark run` runs it, and a reader that holds what arrives against what was committed.
//
// The one rule: it tells the truth. It judges by what it has seen at the two ends, in Postgres and in Kafka, and never by
// what the relay says of itself, because a demo that believes what it demonstrates shows nothing.
package demo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/devstack"
)

// Options say what is shown, and how.
type Options struct {
	For       time.Duration // how long is written; 0: until ctx is done
	Rate      int           // committed rows a second
	KillEvery time.Duration // kill the relay about that often; 0: never

	// Run runs a command of tidemark in this process: the relay, unless it is to be killed. The environment is the
	// command's whole one, and what it has to say goes to log.
	Run func(ctx context.Context, args, environ []string, log io.Writer) (status int)
	// Executable is a tidemark, to run the relay where it can be killed.
	Executable string

	Out      io.Writer
	Terminal *Terminal // what Out is; nil if it is none
	Err      io.Writer // gets the end of the relay's log, if something went wrong,
	Verbose  bool      // or all of it at once
}

// Summary is how it went.
type Summary struct {
	Counts
	Kills int
}

// demo is one run.
type demo struct {
	Options
	screen *screen
	rates  rates
	shown  []record // the newest first
	phase  atomic.Pointer[string]
	began  atomic.Pointer[time.Time] // when the writers began; nil before
	ended  atomic.Pointer[time.Time] // when they had ended; nil before

	postgres *devstack.Postgres
	kafka    *devstack.FakeKafka
	dsn      string
	store    *checkpoint.File
	log      *os.File // the relay's; nil if Verbose

	ledger *ledger
	keys   []*key
	reader *reader
	relay  *relay
}

const (
	database = "shop"
	tooEarly = "stopped before it began"
)

// Run shows it until For has passed or ctx is done, which is no error, then has everything drained, prints a summary and
// returns it. Unless the summary is clean there is an error. Nothing is left behind in any case.
func Run(ctx context.Context, o Options) (s Summary, err error) {
	d := &demo{Options: o, screen: &screen{out: o.Out, terminal: o.Terminal}, keys: newKeys()}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx); err != nil {
		if ctx.Err() != nil {
			d.screen.say(tooEarly)
			return Summary{}, nil
		}
		return Summary{}, err
	}
	err = d.perform(ctx)
	if err == nil && d.began.Load() == nil {
		d.screen.say(tooEarly)
		return Summary{}, nil
	}
	if o.Terminal != nil {
		d.screen.draw(d.frame(d.look(context.WithoutCancel(ctx))))
	}
	s.Counts, _ = d.ledger.findings(time.Now())
	s.Kills = int(d.relay.kills.Load())
	if err == nil {
		d.screen.say(d.summaryLines(s)...)
		if !s.Clean() {
			err = errors.New("what arrived is not what was committed")
		}
	}
	if err != nil {
		d.quoteLog()
	}
	return s, err
}

// open starts the servers and what looks at them.
func (d *demo) open(ctx context.Context) error {
	d.screen.progress("starting Postgres and Kafka…")
	var err error
	d.postgres, err = devstack.StartPostgres(ctx, devstack.PostgresOptions{
		Settings: map[string]string{"max_wal_size": "128MB"}, // the disk may be small
		Progress: d.screen.progress,
	})
	if err != nil {
		return err
	}
	if err := d.postgres.CreateDatabase(ctx, database); err != nil {
		return err
	}
	d.dsn = d.postgres.SocketDSN(database)
	if err := execute(ctx, d.dsn, createOutbox); err != nil {
		return fmt.Errorf("create the outbox table: %w", err)
	}
	d.kafka, err = devstack.StartFakeKafka(devstack.FakeKafkaOptions{
		Settings: map[string]string{"log.cleaner.backoff.ms": "10000"}, // see retentionBytes
	})
	if err != nil {
		return err
	}
	run := make([]byte, 4)
	_, _ = rand.Read(run) // never fails
	d.ledger = newLedger(hex.EncodeToString(run), d.keys)
	d.reader, err = openReader(ctx, d.kafka.Brokers(), d.ledger)
	if err != nil {
		return err
	}
	return d.openRelay()
}

// openRelay prepares the relay. Its files lie where the server's do: however we end, devstack removes them, if need be
// at the next start.
func (d *demo) openRelay() error {
	dir := filepath.Join(d.postgres.Dir(), "relay")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the relay's directory: %w", err)
	}
	path := filepath.Join(dir, "checkpoint")
	d.store = checkpoint.NewFile(path)
	d.relay = &relay{
		settings: []string{
			"TIDEMARK_SOURCE_DSN=" + d.dsn,
			"TIDEMARK_KAFKA_BROKERS=" + strings.Join(d.kafka.Brokers(), ","),
			"TIDEMARK_CHECKPOINT_PATH=" + path,
			"TIDEMARK_HTTP_LISTEN=",
			"TIDEMARK_LOG_FORMAT=console",
		},
		run: d.Run, executable: d.Executable, killEvery: d.KillEvery, log: d.Err,
	}
	if d.Verbose {
		return nil
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open the relay's log: %w", err)
	}
	d.log, d.relay.log = log, log
	return nil
}

func (d *demo) close() error {
	var errs []error
	if d.reader != nil {
		d.reader.close()
	}
	if d.kafka != nil {
		errs = append(errs, d.kafka.Close())
	}
	if d.log != nil {
		errs = append(errs, d.log.Close())
	}
	if d.postgres != nil {
		errs = append(errs, d.postgres.Close())
	}
	return errors.Join(errs...)
}

// perform runs everything. When ctx is done, only the writers end at once; the others go on until all has been drained.
func (d *demo) perform(ctx context.Context) error {
	d.enter(phaseStarting)
	group, alive := errgroup.WithContext(context.WithoutCancel(ctx))
	alive, finish := context.WithCancel(alive)
	defer finish()
	serving, stopRelay := context.WithCancel(alive)
	defer stopRelay()
	calm, ended := make(chan struct{}), make(chan struct{})

	group.Go(func() error { return d.reader.run(alive) })
	group.Go(func() error { return d.show(alive) })
	group.Go(func() error {
		defer close(ended)
		return d.relay.serve(serving, calm)
	})
	group.Go(func() error { // the play
		defer finish()
		writing, stopWriting := context.WithCancel(ctx)
		defer stopWriting()
		defer context.AfterFunc(alive, stopWriting)() // if something fails
		if ok, err := d.awaitStreaming(writing); !ok {
			return err
		}
		d.enter(phaseWriting)
		if err := d.write(writing); err != nil {
			return err
		}
		d.enter(phaseDraining)
		close(calm)
		if err := d.drain(alive); err != nil {
			return err
		}
		d.enter(phaseStopping)
		stopRelay()
		select {
		case <-ended:
		case <-alive.Done():
			return nil
		}
		if err := d.reader.awaitEnd(alive); err != nil {
			return err
		}
		d.enter(phaseDone)
		return nil
	})
	return group.Wait()
}

// The phases, as they are shown.
const (
	phaseStarting = "starting"
	phaseWriting  = "writing"
	phaseDraining = "draining"
	phaseStopping = "stopping"
	phaseDone     = "done"
)

func (d *demo) enter(phase string) { d.phase.Store(&phase) }

// awaitStreaming waits until the relay has created the slot. It returns false if ctx is done before.
func (d *demo) awaitStreaming(ctx context.Context) (bool, error) {
	const limit = time.Minute
	for begin := time.Now(); time.Since(begin) < limit; {
		if c := d.stored(ctx); c != nil && c.State == checkpoint.Streaming {
			return true, nil
		}
		if !wait(ctx, 10*time.Millisecond) {
			return false, nil
		}
	}
	return false, fmt.Errorf("the relay has not begun to stream after %v", limit)
}

// stored returns the relay's checkpoint, nil if there is none.
func (d *demo) stored(ctx context.Context) *checkpoint.Checkpoint {
	c, err := d.store.Load(ctx)
	if err != nil {
		return nil // the relay's own business; it ends of it
	}
	return c
}

// write has the writers write for as long as they are to.
func (d *demo) write(ctx context.Context) error {
	if d.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.For)
		defer cancel()
	}
	d.began.Store(new(time.Now()))
	defer func() { d.ended.Store(new(time.Now())) }()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return clean(ctx, d.dsn) })
	for _, w := range newWriters(d.dsn, d.keys, d.Rate, d.ledger) {
		group.Go(func() error { return w.run(ctx) })
	}
	return group.Wait()
}

// drain waits until all that is committed has arrived and the relay has stored that, as long as there is some progress.
// Whatever is missing then is lost.
func (d *demo) drain(ctx context.Context) error {
	const limit = 20 * time.Second
	since, last := time.Now(), Counts{}
	for {
		if d.ledger.done(d.stored(ctx)) {
			return nil
		}
		counts, _ := d.ledger.findings(time.Now())
		if counts != last {
			since, last = time.Now(), counts
		}
		if time.Since(since) > limit {
			if counts.Lost > 0 {
				return nil // as the summary tells
			}
			return fmt.Errorf("all that is committed has arrived, but after %v the relay has not stored that", limit)
		}
		if !wait(ctx, 10*time.Millisecond) {
			return nil // the cause is returned by whom it happened to
		}
	}
}

// quoteLog prints the end of the relay's log.
func (d *demo) quoteLog() {
	const lines = 15
	if d.log == nil {
		return
	}
	text, err := os.ReadFile(d.log.Name())
	if err != nil || len(text) == 0 {
		return
	}
	all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	all = all[max(len(all)-lines, 0):]
	_, _ = fmt.Fprintf(d.Err, "the end of the relay's log:\n  %s\n", strings.Join(all, "\n  ")) // there is no other place to tell
}

func execute(ctx context.Context, dsn, sql string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}
