package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/wal"
)

// ReplayOptions say which rows are published again. What is set has to hold together.
type ReplayOptions struct {
	Options // of which Since, Sample, Repair, RepairUndecidable and Examples are not used

	IDs      []string
	Key      *string // as text
	Type     *string
	From, To time.Time // written at From or later, and before To; zero: no bound
	// After and Before choose by the positions of the records that are in Kafka, both included; nil: no bound.
	After, Before *decode.Position

	Topic   string  // where they go; "": where they belong
	Rate    float64 // rows a second; 0: as many as Kafka takes
	DryRun  bool
	MostRow int // more rows than that are an error with IsTooMany; 0: none
	Example int // how many rows the report names
	// Patience is how long the relay may take to get past the snapshot; 0: as long as it likes.
	Patience time.Duration
}

// Chooses reports whether any filter is set: without one, every row is meant.
func (o *ReplayOptions) Chooses() bool {
	return len(o.IDs) > 0 || o.Key != nil || o.Type != nil || !o.From.IsZero() || !o.To.IsZero() || o.After != nil || o.Before != nil
}

// ReplayReport is what was published, or would be.
type ReplayReport struct {
	Source   string    `json:"source"`
	Snapshot string    `json:"snapshot_lsn"`
	TakenAt  time.Time `json:"taken_at"`
	DryRun   bool      `json:"dry_run"`
	Topic    string    `json:"topic,omitempty"` // if not where they belong
	Chosen   int64     `json:"chosen"`          // rows
	Replayed int64     `json:"replayed"`        // with DryRun: that would be
	// Left are the chosen rows that were not published, by reason.
	Left     map[string]int64 `json:"left"`
	Examples []Replayed       `json:"examples"`
	Remarks  []string         `json:"remarks"`
}

// Replayed is a row that was published again, or would be.
type Replayed struct {
	Table    string `json:"table"`
	ID       string `json:"id"`
	Topic    string `json:"topic"`
	Key      string `json:"key"`
	Position string `json:"position"` // that of its record; of none in Kafka: a late one, as a repair gives it
}

// Replay publishes rows again, in the order of the table, which is that of each key. The records carry the header
// tidemark-replay, and the position of the first record of the row, if that is in Kafka; they are told by the header from
// what the relay has published, so that nothing that resumes takes them for that.
//
// What the relay has still to publish, and what is parked, is left to it. What it returns with an error is what was done by
// then, or nil.
func Replay(ctx context.Context, o ReplayOptions) (*ReplayReport, error) {
	o.Sample, o.Since, o.RepairUndecidable = 1, time.Time{}, false
	o.Repair = !o.DryRun // which has it alone, and the positions kept
	p := &replaying{ReplayOptions: o, v: newVerifier(o.Options)}
	p.v.early, p.v.positions, p.v.patience, p.v.mostRow = true, true, o.Patience, o.MostRow
	p.v.choose, p.v.skip = p.choose, p.skip
	defer p.v.close()
	if err := p.v.open(ctx); err != nil {
		return nil, err
	}
	if err := p.v.passes(ctx); err != nil {
		return nil, err
	}
	p.report = &ReplayReport{
		Source: p.v.report.Source, Snapshot: p.v.report.Snapshot, TakenAt: p.v.report.TakenAt, DryRun: o.DryRun, Topic: o.Topic,
		Left: map[string]int64{}, Examples: []Replayed{}, Remarks: p.v.report.Remarks,
	}
	p.warn()
	return p.report, p.publish(ctx)
}

// warn says what a replay does to a topic of which consumers want each key's last record alone.
func (p *replaying) warn() {
	for _, name := range slices.Sorted(maps.Keys(p.v.topics)) {
		if p.Topic == "" && p.v.topics[name].compacted {
			p.report.Remarks = append(p.report.Remarks, "topic "+name+" is compacted: an event that is published again becomes the newest of its key, "+
				"also if a later one was: replay all of a key, to its last event, or to another topic (--to-topic)")
		}
	}
}

// replaying is one replay.
type replaying struct {
	ReplayOptions
	v      *verifier
	report *ReplayReport
}

// choose has the server leave out what it can.
func (p *replaying) choose(t *table) error {
	s := &t.selection
	s.Since, s.Before, s.WithTime = p.From, p.To, true
	if len(p.IDs) > 0 {
		s.Equal = append(s.Equal, wal.Equal{Column: t.routing.ID, Texts: t.config.RowIDs(p.IDs...)})
	}
	if p.Type != nil {
		if t.config.Columns.Type == "" {
			return fmt.Errorf("table %s has no type: no column is named under outbox[].columns.type", t.config.Name)
		}
		s.Equal = append(s.Equal, wal.Equal{Column: t.config.Columns.Type, Texts: []string{*p.Type}})
	}
	if p.Key != nil && (t.config.Key == "" || t.config.Key == "{"+t.config.Columns.Key+"}") && t.config.Columns.Key != "" {
		s.Equal = append(s.Equal, wal.Equal{Column: t.config.Columns.Key, Texts: []string{*p.Key}})
	}
	return nil
}

// skip leaves out the rest: a key may be made of several columns.
func (p *replaying) skip(ev *decode.Event) bool {
	return p.Key != nil && (ev.Key == nil || string(ev.Key) != *p.Key)
}

// within reports whether the position of a row's record is in the range that was asked for.
func (p *replaying) within(pos decode.Position, known bool) bool {
	switch {
	case p.After == nil && p.Before == nil:
		return true
	case !known:
		return false
	default:
		return (p.After == nil || pos.Compare(*p.After) >= 0) && (p.Before == nil || pos.Compare(*p.Before) <= 0)
	}
}

// Why a chosen row is left.
const (
	leftComing   = "the relay has still to publish it"
	leftParked   = "it is parked, or waits behind a parked event of its key"
	leftUnplaced = "no record of it in Kafka tells its position"
)

func (p *replaying) publish(ctx context.Context) error {
	r := republishing{v: p.v, mark: "replay", topic: p.Topic, rate: p.Rate, done: p.done}
	defer r.close()
	var count uint32
	err := p.v.walk(ctx, func() error { return r.flush(ctx) }, func(t *table, n uint32, row wal.Row, ev *decode.Event, k verdict) error {
		pos := decode.Position{Commit: k.after, Index: repairIndex + count}
		known := p.v.placed(n)
		if known {
			pos = p.v.position(n)
		}
		if !p.within(pos, known) {
			if !known {
				p.report.Left[leftUnplaced]++
			}
			return nil
		}
		p.report.Chosen++
		switch {
		case k.fate == NotYetPublished:
			p.report.Left[leftComing]++
			return nil
		case k.fate == Parked, k.behind && k.fate != Published:
			p.report.Left[leftParked]++
			return nil
		}
		if !known {
			count++
		}
		one := &republished{table: t, place: row.Place, finding: findingOf(t, ev, k), pos: pos}
		p.example(ev, one)
		if p.DryRun {
			p.report.Replayed++
			return nil
		}
		return r.add(ctx, one)
	})
	if err == nil {
		err = r.flush(ctx)
	}
	return err
}

func (p *replaying) example(ev *decode.Event, one *republished) {
	if len(p.report.Examples) < p.Example {
		p.report.Examples = append(p.report.Examples, Replayed{
			Table: one.finding.Table, ID: one.finding.ID, Topic: one.finding.Topic, Key: strings.ToValidUTF8(string(ev.Key), "\uFFFD"), Position: one.pos.String(),
		})
	}
}

func (p *replaying) done(one *republished) {
	if one.finding.Fate == Repaired {
		p.report.Replayed++
		return
	}
	p.report.Left[one.finding.Reason]++
}
