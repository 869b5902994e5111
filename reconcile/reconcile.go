// Package reconcile holds the outbox tables against the topics: which committed rows are not in Kafka, and how they get
// there. The one rule: it never guesses. A row is missing only if nothing can bring it any more; what cannot be decided is
// counted apart and left alone.
//
// The argument. Take a snapshot of the tables, and then the end L of the log: the commit of every row that is visible lies
// before L, because a commit is in the log before it is visible. Wait until the relay has confirmed a position of at least L, which it stores before.
// Then every row of the snapshot is in Kafka, or in the table of parked events, or in the dead-letter topic, since nothing
// is stored before that; and what is not is missing for good, since nothing before a stored position is ever read again.
// Where no relay runs, the log from the stored position to L says what is still to come.
//
// Repairing does not race with a relay, for the same reason: rows behind L are not in the snapshot, those that the relay has
// still to publish are known as such, and the missing ones it will never publish. Two repairs at a time would; the second
// is refused.
package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/rs/zerolog"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// Options say what is verified.
type Options struct {
	Source          wal.Options
	SourceName      func(wal.System) string // text of the tidemark-source header
	Tables          []decode.Table
	Messages        []decode.LogicalMessage // which leave no row: the report says so
	Kafka           publish.Options
	DeadLetterTopic string
	// Stored returns the relay's stored position; 0 if it has not begun to stream.
	Stored func(context.Context, wal.System) (pglogrepl.LSN, error)
	// Parked calls each with topic and id of every parked event.
	Parked func(ctx context.Context, each func(topic, id string)) error

	Only   []string  // names of the tables to verify; nil: all
	Since  time.Time // only rows from then on; zero: all
	Sample float64   // the share of rows to verify, chosen by their ids; 1: all

	Repair bool
	// RepairUndecidable repairs also rows that may have been in Kafka and been deleted there.
	RepairUndecidable bool
	// LongestTransaction is how long a transaction that writes to the tables may take. Rows within this time of where
	// retention has cut a topic are not decidable.
	LongestTransaction time.Duration
	Examples           int // how many rows the report names; 0: all
	// PassRows bounds the memory: how many rows are held against the topics at a time, at 20 bytes each; 0 is 4 million.
	// More rows take more passes over table and topics.
	PassRows int
	// Gentle has it rest for as long as it works, so that it takes half of what it could.
	Gentle bool

	Log zerolog.Logger
}

// aloneAs begins the text by which repairs and replays of a source exclude each other.
const aloneAs = "tidemark repair "

const defaultPassRows = 4 << 20

// aheadLimit is more than the header of a page, which the end of a snapshot leaves out.
const aheadLimit = 64

// Fate is what became of a row.
type Fate string

// The fates.
const (
	Published       Fate = "published"
	DeadLettered    Fate = "dead_lettered"
	Parked          Fate = "parked"
	NotYetPublished Fate = "not_yet_published" // a relay will publish it
	Missing         Fate = "missing"
	Undecidable     Fate = "undecidable"   // it is not in Kafka, and may have been: retention or compaction has deleted records
	Repaired        Fate = "repaired"      // it was missing and has been published
	Unpublishable   Fate = "unpublishable" // it is missing and cannot be published
)

func noCounts() map[Fate]int64 {
	return map[Fate]int64{
		Published: 0, DeadLettered: 0, Parked: 0, NotYetPublished: 0, Missing: 0, Undecidable: 0, Repaired: 0, Unpublishable: 0,
	}
}

// Report is what was found.
type Report struct {
	Source string `json:"source"`
	// Relay is how it is known what is still to come: "published" (a relay has stored a position behind the snapshot),
	// "stopped" (none runs; the log says what it will publish), "no slot" (nothing will be published).
	Relay     string         `json:"relay"`
	Snapshot  string         `json:"snapshot_lsn"` // every row that was looked at was committed before
	TakenAt   time.Time      `json:"taken_at"`
	Passes    int            `json:"passes"`
	Records   int64          `json:"records"` // that were read, in all passes
	Rows      int64          `json:"rows"`
	Counts    map[Fate]int64 `json:"counts"`
	Tables    []*TableReport `json:"tables"`
	SharedIDs int64          `json:"shared_ids"` // rows with topic and id of another row: one record stands for all
	Found     []Finding      `json:"found"`      // rows that are missing or were, in table order
	Left      int64          `json:"left_out"`   // how many more there are than Found names
	Remarks   []string       `json:"remarks"`
}

// TableReport is a table's part of a report.
type TableReport struct {
	Table  string         `json:"table"`
	Rows   int64          `json:"rows"`
	Counts map[Fate]int64 `json:"counts"`
}

// Finding is a row that is not where it should be, or was not.
type Finding struct {
	Table  string `json:"table"`
	ID     string `json:"id"`
	Topic  string `json:"topic"`
	Fate   Fate   `json:"fate"`
	Reason string `json:"reason,omitempty"`
}

// Missing is how many rows are missing after all that was done.
func (r *Report) Missing() int64 { return r.Counts[Missing] + r.Counts[Unpublishable] }

// What is known of a row, the better the larger. Zero is nothing.
const (
	unseen uint8 = iota
	coming       // in the log, behind what is stored
	parked
	deadLettered
	published
	leftOut // of the sample
)

// verifier is one run.
type verifier struct {
	Options
	conn     *wal.Conn
	snapshot *wal.Snapshot
	end      pglogrepl.LSN
	decoder  *decode.Decoder
	marks    marker
	tables   []*table
	topics   map[string]*topic
	lastMark uint64 // of the sample
	report   *Report
	said     time.Time
	worked   time.Time // since when there was no rest, see rest

	// What replay and prune add to a verification; zero for verify itself.
	choose    func(*table) error       // changes what is selected of a table
	skip      func(*decode.Event) bool // of the selected rows, those that are not meant
	early     bool                     // the topics are read from the time of the oldest row, and no further than to the last one that is found
	oldest    time.Time                // with early: of the rows; zero if nothing tells
	unseen    int                      // with early: rows of which nothing is known yet
	positions bool                     // the positions of the records are kept
	mostRow   int                      // more rows than that are an error; 0: none
	patience  time.Duration            // for the relay to get past the snapshot; 0: no end

	// By row, in the order of the tables.
	known   []uint8
	times   []uint32        // of the published ones' records, in seconds; not kept where nothing is trimmed
	commits []uint64        // of the published ones; kept for a repair
	indexes []uint32        // in those transactions, and one more; kept for a replay
	shared  map[uint32]bool // with early: rows that share topic and id with another
}

// table is an outbox table.
type table struct {
	config    decode.Table
	routing   decode.Routing
	selection wal.Selection
	existing  *decode.Existing
	report    *TableReport
}

// Verify looks at every row once, and repairs where that is asked for. What it returns with an error is what it knew by
// then, or nil.
func Verify(ctx context.Context, o Options) (*Report, error) {
	v := newVerifier(o)
	defer v.close()
	if err := v.open(ctx); err != nil {
		return nil, err
	}
	if err := v.passes(ctx); err != nil {
		return nil, err
	}
	return v.report, v.conclude(ctx)
}

// passes looks for all rows, some of them at a time.
func (v *verifier) passes(ctx context.Context) error {
	for from := uint64(0); ; {
		last, err := v.pass(ctx, from)
		if err != nil {
			return err
		}
		v.report.Passes++
		if last >= v.lastMark {
			return nil
		}
		from = last + 1
	}
}

func newVerifier(o Options) *verifier {
	if o.PassRows == 0 {
		o.PassRows = defaultPassRows
	}
	v := &verifier{Options: o, topics: map[string]*topic{}, lastMark: math.MaxUint64, said: time.Now()}
	if o.Sample < 1 {
		v.lastMark = uint64(o.Sample * math.MaxUint64)
	}
	return v
}

// open connects and takes the snapshot.
func (v *verifier) open(ctx context.Context) (err error) {
	if v.conn, err = wal.Connect(ctx, v.Source); err != nil {
		return err
	}
	if v.decoder, err = v.newDecoder(ctx); err != nil {
		return err
	}
	stored, err := v.Stored(ctx, v.conn.System)
	if err != nil {
		return err
	}
	if stored == 0 {
		return errors.New("no relay has begun to stream from this source yet, so there is nothing to hold the tables against: start tidemark run")
	}
	alone := ""
	if v.Repair {
		alone = aloneAs + v.SourceName(v.conn.System)
	}
	var busy bool
	if v.snapshot, v.end, busy, err = wal.OpenNow(ctx, v.Source, alone); err != nil {
		return err
	}
	if busy {
		return errors.New("another repair or replay of this source is running (or was killed a moment ago): wait for its end, and run this again")
	}
	if stored > v.end+aheadLimit && !v.conn.System.Standby {
		return fmt.Errorf("the stored position %s is ahead of the server's log, which ends at %s: the server has lost its newest part; tidemark run says what to do", stored, v.end)
	}
	v.report = &Report{
		Source: v.SourceName(v.conn.System), Snapshot: v.end.String(), TakenAt: time.Now().UTC(),
		Counts: noCounts(), Found: []Finding{}, Remarks: []string{},
	}
	for _, m := range v.Messages {
		v.report.Remarks = append(v.report.Remarks, fmt.Sprintf("logical messages with the prefix %s are not decidable: they leave no row", m.Prefix))
	}
	return v.prepareTables(ctx)
}

func (v *verifier) close() {
	if v.snapshot != nil {
		v.snapshot.Close()
	}
	if v.conn != nil {
		v.conn.Close()
	}
}

func (v *verifier) newDecoder(ctx context.Context) (*decode.Decoder, error) {
	domains, err := v.conn.Domains(ctx)
	if err != nil {
		return nil, err
	}
	return decode.New(decode.Options{Tables: v.Tables, Domains: domains, Source: v.SourceName(v.conn.System)})
}

func (v *verifier) prepareTables(ctx context.Context) error {
	for _, name := range v.Only {
		if !slices.ContainsFunc(v.Tables, func(t decode.Table) bool { return t.Name == name }) {
			return fmt.Errorf("table %s is not under outbox in the configuration", name)
		}
	}
	for _, config := range v.Tables {
		if len(v.Only) > 0 && !slices.Contains(v.Only, config.Name) {
			continue
		}
		routing, err := config.Routing()
		if err != nil {
			return err
		}
		t := &table{config: config, routing: routing, report: &TableReport{Table: config.Name, Counts: noCounts()}}
		t.selection = wal.Selection{
			Table: config.Name, ID: routing.ID, Columns: routing.All, Since: v.Since, Time: config.Columns.Timestamp,
		}
		if config.Columns.Timestamp != "" {
			t.selection.Columns = append(slices.Clone(routing.All), config.Columns.Timestamp)
		}
		if v.choose != nil {
			if err := v.choose(t); err != nil {
				return err
			}
		}
		if err := v.tellTime(ctx, t); err != nil {
			return err
		}
		v.tables = append(v.tables, t)
		v.report.Tables = append(v.report.Tables, t.report)
	}
	return nil
}

// tellTime looks whether something tells the time of a table's rows, and fails if it has to.
func (v *verifier) tellTime(ctx context.Context, t *table) error {
	if t.selection.Time != "" {
		return nil
	}
	tracks, err := v.snapshot.TracksCommitTimes(ctx)
	if err != nil || tracks {
		return err
	}
	t.selection.WithTime = false
	if t.selection.Since.IsZero() && t.selection.Before.IsZero() {
		return nil
	}
	return fmt.Errorf("nothing tells when a row of %s was written: name its column under outbox[].columns.timestamp, or switch track_commit_timestamp on (which tells it of rows from then on)", t.config.Name)
}

// scan reads the narrow part of every row that is in question, in the order of the tables, which is the same each time.
// The event has ID, Topic, Key and Partition, and Timestamp where a column holds it.
func (v *verifier) scan(ctx context.Context, row func(t *table, n uint32, r wal.Row, ev *decode.Event) error) error {
	n := 0
	var ev decode.Event
	for _, t := range v.tables {
		columns := func(columns []wal.Column) (err error) {
			list := make([]decode.Column, len(columns))
			for i, c := range columns {
				list[i] = decode.Column(c)
			}
			t.existing, err = v.decoder.Existing(t.config.Name, list)
			return err
		}
		err := v.snapshot.Scan(ctx, t.selection, columns, func(r wal.Row) error {
			if n == math.MaxUint32 {
				return errors.New("more rows than can be counted here: choose some with --table or --since")
			}
			t.existing.Event(r.Values, decode.Position{}, time.Time{}, &ev)
			if ev.Ignored || v.skip != nil && v.skip(&ev) {
				return nil
			}
			if n++; v.mostRow > 0 && n > v.mostRow {
				return &tooMany{v.mostRow}
			}
			v.rest(ctx)
			if v.due() {
				v.Log.Info().Str("table", t.config.Name).Int("rows", n).Msg("reading the tables")
			}
			return row(t, uint32(n-1), r, &ev) //nolint:gosec // compared above
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// tooMany is the error for more rows than may be.
type tooMany struct{ most int }

func (e *tooMany) Error() string { return fmt.Sprintf("these are more than %d rows", e.most) }

// IsTooMany reports whether err says that more rows were chosen than may be.
func IsTooMany(err error) bool { _, ok := errors.AsType[*tooMany](err); return ok }

// rest stands still for as long as was worked since the last time, if this is to be gentle.
func (v *verifier) rest(ctx context.Context) {
	const often = 50 * time.Millisecond
	if !v.Gentle {
		return
	}
	if v.worked.IsZero() {
		v.worked = time.Now()
	}
	took := time.Since(v.worked)
	if took < often {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(min(took, time.Second)):
	}
	v.worked = time.Now()
}

// due reports whether it is time to say how far we are.
func (v *verifier) due() bool {
	const often = 5 * time.Second
	if time.Since(v.said) < often {
		return false
	}
	v.said = time.Now()
	return true
}

// pass looks for the rows whose marks begin at from, for as many as there is room, and returns the last mark that it has
// looked for.
func (v *verifier) pass(ctx context.Context, from uint64) (last uint64, err error) {
	first := v.known == nil
	set := newExpected(from, v.lastMark, v.PassRows)
	timeless := false
	err = v.scan(ctx, func(t *table, n uint32, row wal.Row, ev *decode.Event) error {
		if row.Time.IsZero() {
			timeless = true
		} else if v.oldest.IsZero() || row.Time.Before(v.oldest) {
			v.oldest = row.Time
		}
		m := v.marks.of(ev.Topic, ev.ID)
		set.add(m, n)
		if first {
			t.report.Rows++
			state := unseen
			if m.high() > v.lastMark {
				state = leftOut
			}
			v.known = append(v.known, state)
			if ev.Topic != "" && v.topics[ev.Topic] == nil {
				v.topics[strings.Clone(ev.Topic)] = newTopic(strings.Clone(ev.Topic))
			}
			if t.config.Format == decode.Eventuate && ev.Topic != "" {
				v.topics[ev.Topic].eventuate = true
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	if timeless {
		v.oldest = time.Time{}
	}
	set.seal(v.share)
	v.report.SharedIDs += set.doubles
	if v.known == nil {
		v.known = []uint8{}
	}
	// The order matters. What is parked and goes meanwhile is in the topics before it leaves the table of parked events,
	// and the topics' ends are looked up behind that.
	if err := v.settle(ctx, set); err != nil {
		return 0, err
	}
	err = v.Parked(ctx, func(topic, id string) { v.learn(set, v.marks.of(topic, id), parked) })
	if err != nil {
		return 0, err
	}
	return set.last, v.readTopics(ctx, set)
}

// position returns that of a row's first record that is in Kafka.
func (v *verifier) position(row uint32) decode.Position {
	return decode.Position{Commit: pglogrepl.LSN(v.commits[row]), Index: v.indexes[row] - 1}
}

// placed reports whether the position of a row's record is known. A commit of zero does not say that it is not: rows that
// were there before the slot have such positions.
func (v *verifier) placed(row uint32) bool { return v.indexes[row] != 0 }

// share remembers that a row shares topic and id with another, where that matters.
func (v *verifier) share(row uint32) {
	if v.early {
		if v.shared == nil {
			v.shared = map[uint32]bool{}
		}
		v.shared[row] = true
	}
}

// learn enters that the rows with this mark are known to be somewhere.
func (v *verifier) learn(set *expected, m mark, as uint8) {
	set.each(m, func(row uint32) { v.known[row] = max(v.known[row], as) })
}
