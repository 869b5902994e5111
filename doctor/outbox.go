package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// route is what leads from the rows that were looked at to one topic.
type route struct {
	topic    string
	rows     int
	stored   []candidate // the rows of the table at hand that take the most room, the largest first
	largest  int         // bytes of the largest record
	id       string      // of that event
	nullKeys bool
	mapped   bool      // a column holds the records' timestamps:
	oldest   time.Time // zero if no column does
	newest   time.Time
}

// candidate is a row that may be the largest.
type candidate struct {
	at     wal.Place
	stored int64
}

// How much of each table is looked at.
const (
	sampleRows    = 20_000
	maxRoutes     = 500
	maxCandidates = 2 // of a topic: of values that are compressed the larger one may take less room
	maxFetched    = 100
)

// columns holds the tables' columns against the mapping, as the relay's decoder does, and then the newest rows.
func (s *source) columns(ctx context.Context) {
	decoder, err := s.decoder(ctx)
	if err != nil {
		s.fail(checkTables, err.Error(), "correct outbox in the configuration")
		s.skip(checkRows, "because "+checkTables+" failed")
		return
	}
	s.messages()
	sampled, rows, bad := 0, 0, 0
	for i, table := range s.Tables {
		f := s.facts.Tables[i]
		switch {
		case f.Kind == "":
			s.fail(checkTables, fmt.Sprintf("table %s does not exist in database %s", table.Name, s.facts.Database), "create it (tidemark init does), or name the right one under outbox in the configuration")
			continue
		case f.Kind != "r" && f.Kind != "p":
			s.fail(checkTables, fmt.Sprintf("%s is no table (relkind %s)", table.Name, f.Kind), "name a table under outbox in the configuration")
			continue
		case f.Persistence == "u":
			s.fail(checkTables, fmt.Sprintf("table %s is unlogged: its rows are in no log", table.Name), "run the statement", "alter table "+table.Name+" set logged")
			continue
		case !f.Select || !f.Usage:
			s.skip(checkTables, table.Name+": because "+checkRole+" failed")
			continue
		}
		n, wrong, ok := s.sample(ctx, decoder, table)
		rows, bad = rows+n, bad+wrong
		if ok {
			sampled++
			s.sampled = true
		}
	}
	switch {
	case len(s.Tables) == 0:
		s.skip(checkRows, "because there are none: only logical messages are read")
		return
	case sampled == 0:
		s.skip(checkRows, "because "+checkTables+" did not succeed")
		return
	}
	if bad == 0 {
		s.ok(checkRows, "%d rows at the end of %d tables were looked at: they lead to %d topics", rows, sampled, len(s.routes))
	}
}

// messages says what takes the place of a table.
func (s *source) messages() {
	if len(s.Messages) == 0 {
		return
	}
	prefixes := make([]string, len(s.Messages))
	for i, m := range s.Messages {
		prefixes[i] = m.Prefix
	}
	list := strings.Join(prefixes, ", ")
	if s.facts.Version < wal.MessagesSince {
		s.fail(checkTables, fmt.Sprintf("logical messages (%s) are configured, and pgoutput of Postgres %s sends none", list, s.facts.VersionText),
			"upgrade to 14 or later, or write to an outbox table and remove messages from the configuration")
		return
	}
	s.ok(checkTables, "logical messages are read, with the prefixes %s; they leave no row to look at", list)
}

func (s *source) decoder(ctx context.Context) (*decode.Decoder, error) {
	o := decode.Options{Tables: s.Tables, Messages: s.Messages, Source: "doctor"}
	if s.conn != nil {
		var err error
		o.Source = s.SourceName(s.conn.System)
		if o.Domains, err = s.conn.Domains(ctx); err != nil {
			return nil, err
		}
	}
	return decode.New(o)
}

// sample reads the end of one table, and notes where its rows lead.
func (s *source) sample(ctx context.Context, decoder *decode.Decoder, table decode.Table) (rows, bad int, ok bool) {
	routing, err := table.Routing()
	if err != nil {
		s.fail(checkTables, err.Error(), "correct outbox in the configuration")
		return 0, 0, false
	}
	wanted := wal.Sample{Table: table.Name, Columns: slices.Clone(routing.All), Size: table.Columns.Payload, Rows: sampleRows}
	if table.Columns.Timestamp != "" {
		wanted.Columns = append(wanted.Columns, table.Columns.Timestamp)
	}
	var existing *decode.Existing
	mapped := true
	columns := func(columns []wal.Column) (err error) {
		list := make([]decode.Column, len(columns))
		for i, c := range columns {
			list[i] = decode.Column(c)
		}
		existing, err = decoder.Existing(table.Name, list)
		mapped = err == nil
		return err
	}
	now := time.Now()
	var ev decode.Event
	var first error // why a row is poison
	row := func(at wal.Place, stored int64, values [][]byte) {
		existing.Event(values, decode.Position{}, now, &ev)
		if ev.Ignored {
			return
		}
		rows++
		if (ev.ID == "" || ev.Topic == "") && ev.Poison != nil {
			bad++
			if first == nil {
				first = fmt.Errorf("event %q: %w", ev.ID, ev.Poison)
			}
			return
		}
		s.note(&ev, candidate{at, stored}, table.Columns.Timestamp != "")
	}
	if err := s.look.Sample(ctx, wanted, columns, row); err != nil {
		if mapped {
			s.fail(checkRows, err.Error(), "see that the role can read the table, and that nobody holds a lock on it")
			return rows, bad, true
		}
		var sql []string
		for _, name := range decode.MissingColumns(err) {
			sql = append(sql, wal.AddColumnSQL(table.Name, name))
		}
		s.fail(checkTables, err.Error(), "name an existing column under outbox[].columns or in the templates, or add the column", sql...)
		return 0, 0, false
	}
	s.ok(checkTables, "%s has the columns that are mapped", table.Name)
	err = s.look.Fetch(ctx, table.Name, s.candidates(), func(values [][]byte) {
		existing.Event(values, decode.Position{}, now, &ev)
		if r := s.route(ev.Topic); r != nil {
			if n := publish.RecordBytes(&ev); n > r.largest {
				r.largest, r.id = n, strings.Clone(ev.ID)
			}
		}
	})
	if err != nil {
		s.warn(checkRows, fmt.Sprintf("how large the records of %s are could not be looked at: %v", table.Name, err), "try again in a quiet moment")
		return rows, bad + 1, true
	}
	if bad > 0 {
		s.warn(checkRows, fmt.Sprintf("%d of the %d rows at the end of %s cannot become records, such as %v", bad, rows, table.Name, first),
			"mend what writes them; with delivery.on_poison: "+s.OnPoison+" "+poisonText(s.OnPoison))
	}
	return rows, bad, true
}

func poisonText(policy string) string {
	switch policy {
	case "park":
		return "they are parked (tidemark parked list)"
	case "dead_letter":
		return "they go to the dead letter topic"
	default:
		return "the relay stops at the first of them (park or dead_letter let it go on)"
	}
}

// note enters where an event leads.
func (s *source) note(ev *decode.Event, row candidate, mapped bool) {
	r := s.route(ev.Topic)
	if r == nil {
		return
	}
	r.rows++
	r.stored = append(r.stored, row)
	slices.SortFunc(r.stored, func(a, b candidate) int { return cmp.Compare(b.stored, a.stored) })
	r.stored = r.stored[:min(len(r.stored), maxCandidates)]
	r.nullKeys = r.nullKeys || ev.Key == nil
	if !mapped {
		return
	}
	r.mapped = true
	if r.oldest.IsZero() || ev.Timestamp.Before(r.oldest) {
		r.oldest = ev.Timestamp
	}
	if ev.Timestamp.After(r.newest) {
		r.newest = ev.Timestamp
	}
}

// candidates returns the rows that are worth being read whole, and forgets them.
func (s *source) candidates() []wal.Place {
	var all []candidate
	for _, r := range s.routes {
		all = append(all, r.stored...)
		r.stored = nil
	}
	slices.SortFunc(all, func(a, b candidate) int { return cmp.Compare(b.stored, a.stored) })
	var places []wal.Place
	for _, c := range all[:min(len(all), maxFetched)] {
		places = append(places, c.at)
	}
	return places
}

// route returns what is known of a topic, nil if there are too many of them or the event has none.
func (s *source) route(topic string) *route {
	for _, r := range s.routes {
		if r.topic == topic {
			return r
		}
	}
	if topic == "" || len(s.routes) >= maxRoutes {
		return nil
	}
	r := &route{topic: strings.Clone(topic)}
	s.routes = append(s.routes, r)
	return r
}
