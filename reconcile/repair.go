package reconcile

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/wal"
)

// repairIndex is where the indexes of repaired events begin: behind those of the transaction whose commit they borrow.
const repairIndex = 1 << 31

// verdict is what is known of a row when its turn comes in the order of the table.
type verdict struct {
	fate   Fate
	reason string        // why it is Undecidable
	after  pglogrepl.LSN // commit of the nearest row before it that is in Kafka
	behind bool          // an earlier row of its key is parked
}

// walk goes over the rows in their order and says of each what became of it; of those outside the sample nothing. Next is
// called before the first row of each table.
func (v *verifier) walk(ctx context.Context, next func() error, row func(t *table, n uint32, r wal.Row, ev *decode.Event, k verdict) error) error {
	for _, t := range v.tables {
		t.selection.NullOf = t.config.Columns.Payload
		for _, topic := range v.topics {
			if topic.compacted && len(t.routing.Place) > 0 {
				t.selection.NewestOf = t.routing.Place
			}
		}
	}
	var current *table
	var passed time.Time // by then the rows before had been published
	var k verdict
	var behind map[mark]bool
	return v.scan(ctx, func(t *table, n uint32, r wal.Row, ev *decode.Event) error {
		if t != current {
			if err := next(); err != nil {
				return err
			}
			current, passed, k, behind = t, time.Time{}, verdict{}, map[mark]bool{}
		}
		k.reason, k.behind = "", false
		switch v.known[n] {
		case leftOut:
			return nil
		case published:
			k.fate = Published
			if v.times != nil {
				if at := time.Unix(int64(v.times[n]), 0); at.After(passed) {
					passed = at
				}
			}
			if v.commits != nil && v.commits[n] != 0 {
				k.after = pglogrepl.LSN(v.commits[n])
			}
		case deadLettered:
			k.fate = DeadLettered
		case parked:
			k.fate = Parked
			behind[v.lane(ev)] = true
		case coming:
			k.fate = NotYetPublished
		default:
			own := passed
			if t.config.Columns.Timestamp != "" && ev.Timestamp.After(own) {
				own = ev.Timestamp
			}
			k.fate = Missing
			if k.reason = v.undecidable(ev, r.Newest && !r.Null, own); k.reason != "" {
				k.fate = Undecidable
			}
		}
		k.behind = ev.Key != nil && behind[v.lane(ev)]
		return row(t, n, r, ev, k)
	})
}

// conclude counts what became of the rows, and repairs.
func (v *verifier) conclude(ctx context.Context) error {
	r := republishing{v: v, mark: "verify", done: func(one *republished) { v.found(one.table, one.finding) }}
	defer r.close()
	var count uint32
	var last pglogrepl.LSN // the commit that the last repaired one got
	err := v.walk(ctx, func() error { return r.flush(ctx) }, func(t *table, _ uint32, row wal.Row, ev *decode.Event, k verdict) error {
		if k.fate != Missing && k.fate != Undecidable {
			t.count(v.report, k.fate)
			return nil
		}
		f := findingOf(t, ev, k)
		switch {
		case !v.Repair, k.fate == Undecidable && !v.RepairUndecidable:
			if k.fate == Undecidable {
				t.count(v.report, Undecidable)
				return nil
			}
		case k.behind:
			f.Fate, f.Reason = Missing, "an earlier event of its key is parked: release or discard that one, then repair again"
		default:
			// Its true position is in log that is gone. It gets the commit of the nearest row before it in the table that is in
			// Kafka, and an index behind all of that transaction: later than what was published before it, and earlier than
			// what was published after it, as far as the table's order tells.
			last = max(last, k.after)
			pos := decode.Position{Commit: last, Index: repairIndex + count}
			count++
			return r.add(ctx, &republished{table: t, place: row.Place, finding: f, pos: pos})
		}
		v.found(t, f)
		return nil
	})
	if err != nil {
		return err
	}
	return r.flush(ctx)
}

func findingOf(t *table, ev *decode.Event, k verdict) Finding {
	return Finding{Table: t.config.Name, ID: strings.Clone(ev.ID), Topic: strings.Clone(ev.Topic), Fate: k.fate, Reason: k.reason}
}

func (t *table) count(r *Report, fate Fate) {
	r.Rows++
	r.Counts[fate]++
	t.report.Counts[fate]++
}

// found enters a row that is missing, or was.
func (v *verifier) found(t *table, f Finding) {
	t.count(v.report, f.Fate)
	if v.Examples > 0 && len(v.report.Found) >= v.Examples {
		v.report.Left++
		return
	}
	v.report.Found = append(v.report.Found, f)
}

// lane is what an order holds for: the key in its topic.
func (v *verifier) lane(ev *decode.Event) mark { return v.marks.of(ev.Topic, string(ev.Key)) }
