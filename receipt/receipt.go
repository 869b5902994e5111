// Package receipt answers where one event is: in the table, in Kafka and at which offset, parked, or nowhere that was looked
// at. The one rule: it says what it has searched, and takes nothing that it has not seen for absent.
//
// Nothing is stored for it. The row says topic, key and time; topic and key say the partition, the time says the offset from
// which on the record has to be, and from there a short piece of the partition is read.
package receipt

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// Options say where an event may be.
type Options struct {
	Source          wal.Options
	SourceName      func(wal.System) string // text of the tidemark-source header
	Tables          []decode.Table
	Messages        []decode.LogicalMessage // which leave no row, and lead to topics all the same
	Kafka           publish.Options
	DeadLetterTopic string
	// Stored returns the relay's stored position; 0 if it has not begun to stream.
	Stored func(context.Context, wal.System) (pglogrepl.LSN, error)
	// Parked returns why and since when the events of that id are parked.
	Parked func(ctx context.Context, source, id string) ([]Parked, error)

	Only  []string // names of the tables to look into; nil: all
	Topic string   // where to look for an event whose row is gone; "": every topic that the tables can lead to
	Key   string   // its key, which tells the partition; "": all partitions
	// Depth is how many records are read at most where the time of the event is not known; 0: no limit but the time.
	Depth   int64
	Timeout time.Duration // of everything
}

// State is where an event is.
type State string

// The states.
const (
	Published    State = "published"
	ParkedAway   State = "parked"
	DeadLettered State = "dead_lettered"
	NotYet       State = "not_yet_published" // in the table, and the relay has not got so far
	Missing      State = "missing"           // in the table, and nothing will bring it
	Unknown      State = "unknown"           // in the table, and not found in what could be searched
	Ignored      State = "ignored"           // in the table, marked as one that nobody is to publish, and not found in Kafka
	NotFound     State = "not_found"         // neither in the table nor found in Kafka
)

// Receipt is what is known of an event.
type Receipt struct {
	ID          string   `json:"id"`
	State       State    `json:"state"`
	Text        string   `json:"text"` // the state as a sentence, with what to do
	Records     []Record `json:"records"`
	Rows        []Row    `json:"rows"`
	Parked      []Parked `json:"parked"`
	Stored      string   `json:"stored_lsn"` // "" if nothing is stored
	LagBytes    *int64   `json:"lag_bytes"`  // of log, from there to the end
	Searched    []string `json:"searched"`
	NotSearched []string `json:"not_searched"`
}

// Record is a record in Kafka, of a transaction that is committed if it is of any.
type Record struct {
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Offset    int64     `json:"offset"`
	Timestamp time.Time `json:"timestamp"`
	Position  string    `json:"position"` // "" if it is not tidemark's
	Source    string    `json:"source"`   // the same
	// Replayed: published again by replay, or late by verify --repair. DeadLetter: in the dead-letter topic. Duplicate: an
	// earlier one of the same position is there.
	Replayed   bool `json:"replayed"`
	DeadLetter bool `json:"dead_letter"`
	Duplicate  bool `json:"duplicate"`
}

// Row is a row of an outbox table.
type Row struct {
	Table     string     `json:"table"`
	Topic     string     `json:"topic"`
	Key       *string    `json:"key"`       // null is a null key
	Committed *time.Time `json:"committed"` // null if the server does not track it
	Poison    string     `json:"poison,omitempty"`
}

// Parked is an event in the table of parked events.
type Parked struct {
	Position string    `json:"position"`
	Topic    string    `json:"topic"`
	Reason   string    `json:"reason"`
	State    string    `json:"state"`
	Since    time.Time `json:"since"`
}

// maxRows is how many rows of one id and table are looked at.
const maxRows = 10

// event is a row as an event, with what is known of when its record was written.
type event struct {
	decode.Event
	since time.Time // its record's timestamp is not before; zero if that is not known
}

// finder is one look-up.
type finder struct {
	Options
	system   wal.System
	source   string
	end      pglogrepl.LSN // behind the commits of all rows that were seen
	stored   pglogrepl.LSN
	active   bool // somebody streams from the slot
	events   []event
	receipt  *Receipt
	complete bool // if a record of the rows is in Kafka, it was seen
}

// Find looks for the event of that id, for at most o.Timeout. That the database cannot be asked is an error; that Kafka
// cannot is in the receipt.
func Find(ctx context.Context, o Options, id string) (*Receipt, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	f := &finder{Options: o, complete: true, receipt: &Receipt{
		ID: id, Records: []Record{}, Rows: []Row{}, Parked: []Parked{}, Searched: []string{}, NotSearched: []string{},
	}}
	if err := f.askSource(ctx); err != nil {
		return nil, fmt.Errorf("look up event %s: %w", id, err)
	}
	f.askKafka(ctx)
	if len(f.events) > 0 && len(f.receipt.Records) == 0 && len(f.receipt.Parked) == 0 {
		f.awaitStored(ctx)
	}
	f.conclude()
	return f.receipt, nil
}

// askSource looks into the tables and at how far the relay is.
func (f *finder) askSource(ctx context.Context) error {
	conn, err := wal.Connect(ctx, f.Source)
	if err != nil {
		return err
	}
	defer conn.Close()
	f.system, f.source = conn.System, f.SourceName(conn.System)
	domains, err := conn.Domains(ctx)
	if err != nil {
		return err
	}
	decoder, err := decode.New(decode.Options{Tables: f.Tables, Domains: domains, Source: f.source})
	if err != nil {
		return err
	}
	slot, err := conn.Slot(ctx)
	if err != nil {
		return err
	}
	f.active = slot != nil && slot.Active
	if err := f.findRows(ctx, decoder); err != nil {
		return err
	}
	if f.receipt.Parked, err = f.Parked(ctx, f.source, f.receipt.ID); err != nil {
		return err
	}
	return f.lookStored(ctx)
}

func (f *finder) lookStored(ctx context.Context) (err error) {
	if f.stored, err = f.Stored(ctx, f.system); err != nil || f.stored == 0 {
		return err
	}
	lag := max(int64(f.end)-int64(f.stored), 0) //nolint:gosec // a log of 8 EiB is out of reach
	f.receipt.Stored, f.receipt.LagBytes = f.stored.String(), &lag
	return nil
}

// findRows looks for the id in the tables.
func (f *finder) findRows(ctx context.Context, decoder *decode.Decoder) error {
	snapshot, end, _, err := wal.OpenNow(ctx, f.Source, "")
	if err != nil {
		return err
	}
	defer snapshot.Close()
	f.end = end
	for _, name := range f.Only {
		if !slices.ContainsFunc(f.Tables, func(t decode.Table) bool { return t.Name == name }) {
			return fmt.Errorf("table %s is not under outbox in the configuration", name)
		}
	}
	for _, table := range f.Tables {
		if len(f.Only) > 0 && !slices.Contains(f.Only, table.Name) {
			f.notSearched("table " + table.Name)
			continue
		}
		texts := table.RowIDs(f.receipt.ID)
		if len(texts) == 0 { // none of its rows has such an id
			f.searched("table " + table.Name)
			continue
		}
		search := wal.Search{Table: table.Name, Column: table.Columns.ID, Text: texts[0], Limit: maxRows, Patience: f.patience(ctx)}
		var existing *decode.Existing
		columns := func(list []wal.Column) (err error) {
			out := make([]decode.Column, len(list))
			for i, c := range list {
				out[i] = decode.Column(c)
			}
			existing, err = decoder.Existing(table.Name, out)
			return err
		}
		err := snapshot.Find(ctx, search, columns, func(values [][]byte, committed time.Time) error {
			f.found(existing, values, committed)
			return nil
		})
		if wal.IsTimeout(err) {
			f.notSearched(fmt.Sprintf("table %s: no answer within %s; has column %s an index? (--table and --topic narrow the search, --timeout extends it)",
				table.Name, search.Patience.Round(time.Millisecond), table.Columns.ID))
			continue
		}
		if err != nil {
			return err
		}
		f.searched("table " + table.Name)
	}
	for _, m := range f.Messages {
		f.notSearched(fmt.Sprintf("logical messages with the prefix %s: they leave no row, so only a record of one can be found", m.Prefix))
	}
	return nil
}

// patience is for one statement: something has to be left for Kafka.
func (f *finder) patience(ctx context.Context) time.Duration {
	deadline, _ := ctx.Deadline()
	return max(time.Until(deadline)*2/3, time.Millisecond)
}

func (f *finder) found(existing *decode.Existing, values [][]byte, committed time.Time) {
	e := event{}
	existing.Event(values, decode.Position{}, committed, &e.Event)
	e.since = e.Timestamp // the mapped column's, else the commit's
	if e.since.IsZero() {
		e.since = uuidTime(e.ID)
	}
	row := Row{Table: e.Table, Topic: e.Topic}
	if e.Key != nil {
		key := strings.ToValidUTF8(string(e.Key), "\uFFFD")
		row.Key = &key
	}
	if !committed.IsZero() {
		row.Committed = &committed
	}
	if e.Poison != nil {
		row.Poison = e.Poison.Error()
	}
	f.receipt.Rows = append(f.receipt.Rows, row)
	f.events = append(f.events, e)
}

// uuidTime returns the time in a UUID of version 7, less what a clock may be off; else zero.
func uuidTime(id string) time.Time {
	const slack = time.Minute
	if len(id) != 36 || id[14] != '7' || id[8] != '-' || id[13] != '-' || id[18] != '-' || id[23] != '-' {
		return time.Time{}
	}
	var ms int64
	if _, err := fmt.Sscanf(id[:8]+id[9:13], "%012x", &ms); err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms).Add(-slack)
}

func (f *finder) searched(what string) { f.receipt.Searched = append(f.receipt.Searched, what) }
func (f *finder) notSearched(what string) {
	f.receipt.NotSearched = append(f.receipt.NotSearched, what)
}

// storedPatience is how long a relay that works takes to store what is behind a row that was seen, several times over.
const storedPatience = 500 * time.Millisecond

// awaitStored gives a running relay the moment in which it may pass the row, and looks once more.
func (f *finder) awaitStored(ctx context.Context) {
	deadline := time.Now().Add(storedPatience)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	before := f.stored
	for f.active && f.stored < f.end && time.Now().Before(deadline) {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		stored, err := f.Stored(ctx, f.system)
		if err != nil {
			return // what is known stays true
		}
		f.stored = max(f.stored, stored)
	}
	if before < f.end && f.stored >= f.end {
		f.receipt.Searched = slices.DeleteFunc(f.receipt.Searched, func(s string) bool { return strings.HasPrefix(s, "topic ") })
		f.receipt.NotSearched = nil
		f.receipt.Stored, *f.receipt.LagBytes = f.stored.String(), 0
		f.complete = true
		f.askKafka(ctx)
	}
}

// conclude says what it comes to.
func (f *finder) conclude() {
	r := f.receipt
	live := slices.ContainsFunc(r.Records, func(x Record) bool { return !x.DeadLetter })
	switch {
	case live:
		r.State, r.Text = Published, "It is in Kafka."
	case len(r.Parked) > 0:
		p := r.Parked[0]
		r.State, r.Text = ParkedAway, fmt.Sprintf("It is parked (%s): %s. tidemark parked show %s says more.", p.State, p.Reason, p.Position)
		if p.Reason == "" {
			r.Text = fmt.Sprintf("It is parked (%s) behind an earlier event of its key. tidemark parked show %s says more.", p.State, p.Position)
		}
	case len(r.Records) > 0:
		r.State, r.Text = DeadLettered, "It could not be published and is in the dead-letter topic; the record's header tidemark-error says why."
	case len(f.events) == 0:
		r.State, r.Text = NotFound, "It is not in the table, and not in Kafka as far as was searched."
		if len(f.Messages) > 0 {
			r.Text += " If it was a logical message, it left no row: whether it was committed is not decidable."
		}
		if slices.ContainsFunc(r.NotSearched, func(s string) bool { return strings.HasPrefix(s, "table ") }) {
			r.State, r.Text = Unknown, "It was not found, and not every table could be searched."
		}
	case !slices.ContainsFunc(f.events, func(e event) bool { return !e.Ignored }):
		r.State, r.Text = Ignored, "It is in the table, marked there as published, so that nothing is to publish it; it was not found in what was searched of Kafka."
	case f.poison() != "" && f.stored < f.end:
		r.State, r.Text = NotYet, "It is in the table and not in Kafka, and it cannot be published ("+f.poison()+"): see delivery.on_poison."
	case f.stored == 0:
		r.State, r.Text = NotYet, "It is in the table, not yet in Kafka: no relay has begun to stream from this source (tidemark run)."
	case f.stored < f.end && f.active:
		r.State, r.Text = NotYet, fmt.Sprintf("It is in the table, not yet in Kafka: the relay is %s of log behind.", size(*r.LagBytes))
	case f.stored < f.end:
		r.State, r.Text = NotYet, fmt.Sprintf("It is in the table, not yet in Kafka: no relay runs, and %s of log are still to be published (tidemark run).", size(*r.LagBytes))
	case f.poison() != "":
		r.State, r.Text = Missing, "It is in the table and not in Kafka: it cannot be published ("+f.poison()+")."
	case !f.complete:
		r.State, r.Text = Unknown, "It is in the table, the relay is past it, and it was not found in what was searched."
	default:
		r.State, r.Text = Missing, "It is in the table, the relay is past it, and it is not in Kafka (or not any more): tidemark verify --repair publishes what is missing."
	}
}

func (f *finder) poison() string {
	for i := range f.events {
		if f.events[i].Poison == nil {
			return ""
		}
	}
	if len(f.events) == 0 {
		return ""
	}
	return f.events[0].Poison.Error()
}

func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < 4 {
		value /= unit
		prefix++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[prefix])
}

// InKafka reports whether Kafka has it, be it as a dead letter.
func (r *Receipt) InKafka() bool { return len(r.Records) > 0 }
