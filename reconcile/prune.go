package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/wal"
)

// PruneOptions say which rows are deleted: those that are older than Before, and surely in Kafka.
type PruneOptions struct {
	Options // of which Since, Sample, Repair, RepairUndecidable and Examples are not used
	Before  time.Time
	DryRun  bool
	// Undecidable deletes also rows that are not in Kafka any more and may have been: retention or compaction has deleted
	// records of their topic since, and the relay is past them. They may also be rows that a gap has left out.
	Undecidable bool
	// Patience is how long the relay may take to get past the snapshot; 0: as long as it likes.
	Patience time.Duration
	// Deleted, if set, is told how many rows were deleted, as it happens.
	Deleted func(rows int64)
}

// PruneReport is what was deleted, or would be.
type PruneReport struct {
	Source   string        `json:"source"`
	Snapshot string        `json:"snapshot_lsn"`
	TakenAt  time.Time     `json:"taken_at"`
	Before   time.Time     `json:"before"`
	DryRun   bool          `json:"dry_run"`
	Tables   []*PruneTable `json:"tables"`
	Remarks  []string      `json:"remarks"`
}

// PruneTable is a table's part of it.
type PruneTable struct {
	Table   string           `json:"table"`
	Old     int64            `json:"old"`     // rows older than was asked
	Deleted int64            `json:"deleted"` // those of dropped partitions included; with DryRun: that would be
	Dropped []string         `json:"dropped_partitions"`
	Kept    map[string]int64 `json:"kept"` // why: how many
}

// Kept is why an old row stays, if it is not its Fate.
const (
	KeptShared = "shares topic and id with another row"
	KeptBusy   = "changed or locked meanwhile"
)

// Deleted is how many rows were deleted, or would be.
func (r *PruneReport) Deleted() (n int64) {
	for _, t := range r.Tables {
		n += t.Deleted
	}
	return n
}

const (
	// pruneBatch rows are deleted in one transaction: some 10 ms of work.
	pruneBatch = 500
	// pruneTries is how often a batch is tried whose rows somebody has locked.
	pruneTries = 5
	pruneAgain = 200 * time.Millisecond
)

// pruner is one run.
type pruner struct {
	PruneOptions
	v       *verifier
	deleter *wal.Deleter
	report  *PruneReport
	batch   []wal.Doomed
	of      *PruneTable
	table   *table
	past    map[uint32]partition   // by OID: partitions that can be dropped, if all their rows can be deleted
	whole   map[uint32]wal.Content // those of which they can
}

type partition struct {
	wal.Partition
	table *table
}

// Prune deletes rows that are older than o.Before, that are in Kafka, read committed, that the relay is past, and that are not
// parked. All of it is known by a verification of these rows: the age alone deletes nothing. What it returns with an error is
// what was done by then, or nil.
func Prune(ctx context.Context, o PruneOptions) (*PruneReport, error) {
	o.Repair, o.RepairUndecidable, o.Sample, o.Since = false, false, 1, time.Time{}
	p := &pruner{PruneOptions: o, v: newVerifier(o.Options), past: map[uint32]partition{}, whole: map[uint32]wal.Content{}}
	p.v.early, p.v.patience = true, o.Patience
	p.v.choose = func(t *table) error {
		t.selection.Before, t.selection.WithTime = o.Before, true
		return nil
	}
	defer p.v.close()
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if p.deleter != nil {
			p.deleter.Close()
		}
	}()
	if err := p.v.passes(ctx); err != nil {
		return p.report, err
	}
	return p.report, p.conclude(ctx)
}

func (p *pruner) open(ctx context.Context) error {
	if err := p.v.open(ctx); err != nil {
		return err
	}
	p.report = &PruneReport{
		Source: p.v.report.Source, Snapshot: p.v.report.Snapshot, TakenAt: p.v.report.TakenAt, Before: p.Before.UTC(), DryRun: p.DryRun,
		Tables: []*PruneTable{}, Remarks: []string{},
	}
	for _, t := range p.v.tables {
		p.report.Tables = append(p.report.Tables, &PruneTable{Table: t.config.Name, Dropped: []string{}, Kept: map[string]int64{}})
	}
	if p.DryRun {
		return nil
	}
	var names []string
	for _, t := range p.v.tables {
		names = append(names, t.config.Name)
	}
	var err error
	p.deleter, err = wal.OpenDeleter(ctx, p.Source, names)
	return err
}

// conclude deletes. It goes over the rows once more before that where partitions may be dropped as a whole.
func (p *pruner) conclude(ctx context.Context) error {
	if err := p.findWhole(ctx); err != nil {
		return err
	}
	err := p.walk(ctx, func(t *table, row wal.Row, _ *decode.Event, why string) error {
		of := p.tableReport(t)
		of.Old++
		if why != "" {
			of.Kept[why]++
			return nil
		}
		if _, dropped := p.whole[row.Place.Table]; dropped || p.DryRun {
			if p.DryRun {
				of.Deleted++
			}
			return nil
		}
		return p.add(ctx, t, of, row.Place, string(t.existing.RowID(row.Values)))
	})
	if err == nil {
		err = p.flush(ctx)
	}
	p.report.Remarks = append(p.report.Remarks, p.v.report.Remarks...)
	if err != nil || p.DryRun {
		return err
	}
	return p.drop(ctx)
}

func (p *pruner) tableReport(t *table) *PruneTable {
	return p.report.Tables[slices.Index(p.v.tables, t)]
}

// walk goes over the rows and says why each is kept; "" if it can be deleted.
func (p *pruner) walk(ctx context.Context, each func(t *table, row wal.Row, ev *decode.Event, why string) error) error {
	next := func() error { return p.flush(ctx) } // a batch is of one table
	return p.v.walk(ctx, next, func(t *table, n uint32, row wal.Row, ev *decode.Event, k verdict) error {
		why := string(k.fate)
		switch {
		case p.v.shared[n]:
			why = KeptShared
		case k.fate == Published, k.fate == Undecidable && p.Undecidable && p.v.report.Relay != "no slot":
			why = ""
		}
		return each(t, row, ev, why)
	})
}

func (p *pruner) add(ctx context.Context, t *table, of *PruneTable, place wal.Place, id string) error {
	if len(p.batch) > 0 && p.batch[0].Place.Table != place.Table {
		if err := p.flush(ctx); err != nil {
			return err
		}
	}
	p.table, p.of = t, of
	p.batch = append(p.batch, wal.Doomed{Place: place, ID: id})
	if len(p.batch) < pruneBatch {
		return nil
	}
	return p.flush(ctx)
}

// flush deletes the batch, and rests for as long as that took: whoever shares the disk with it gets half of it.
func (p *pruner) flush(ctx context.Context) error {
	if len(p.batch) == 0 {
		return nil
	}
	batch := p.batch
	p.batch = p.batch[:0]
	began := time.Now()
	var n int64
	var err error
	for try := 1; ; try++ {
		n, err = p.deleter.Delete(ctx, p.table.config.Name, p.table.routing.ID, batch)
		if !wal.IsLocked(err) || try == pruneTries {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pruneAgain):
		}
	}
	if err != nil && !wal.IsLocked(err) {
		return err
	}
	p.of.Deleted += n
	if left := int64(len(batch)) - n; left > 0 {
		p.of.Kept[KeptBusy] += left
	}
	if p.Deleted != nil {
		p.Deleted(n)
	}
	if p.v.due() {
		p.v.Log.Info().Str("table", p.table.config.Name).Int64("rows", p.of.Deleted).Int64("of", p.v.report.Rows).Msg("deleting rows that are in Kafka")
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(min(time.Since(began), time.Second)):
		return nil
	}
}

// findWhole learns which partitions hold nothing but rows that can be deleted.
func (p *pruner) findWhole(ctx context.Context) error {
	if p.DryRun {
		return nil
	}
	for _, t := range p.v.tables {
		past, why, err := p.deleter.Past(ctx, t.config.Name, p.Before)
		if err != nil {
			return err
		}
		if why != "" {
			p.v.remark(why)
		}
		for _, one := range past {
			p.past[one.OID] = partition{one, t}
		}
	}
	if len(p.past) == 0 {
		return nil
	}
	free := map[uint32]int64{}
	err := p.walk(ctx, func(_ *table, row wal.Row, _ *decode.Event, why string) error {
		if _, past := p.past[row.Place.Table]; past && why == "" {
			free[row.Place.Table]++
		}
		return nil
	})
	if err != nil {
		return err
	}
	for oid, n := range free {
		one := p.past[oid]
		content, err := p.v.snapshot.Content(ctx, one.Partition, one.table.routing.ID)
		if err != nil {
			return err
		}
		if content.Rows == n {
			p.whole[oid] = content
		}
	}
	return nil
}

// drop drops the partitions of which every row can go. It ends the snapshot, which would be in the way.
func (p *pruner) drop(ctx context.Context) error {
	if len(p.whole) == 0 {
		return nil
	}
	p.v.snapshot.Close()
	p.v.snapshot = nil
	var errs []error
	for oid, content := range p.whole {
		one := p.past[oid]
		of := p.tableReport(one.table)
		dropped, err := p.deleter.Drop(ctx, one.Partition, one.table.routing.ID, content)
		switch {
		case wal.IsLocked(err):
			of.Kept[KeptBusy] += content.Rows
		case err != nil:
			errs = append(errs, err)
		case !dropped:
			of.Kept[KeptBusy] += content.Rows
		default:
			of.Deleted += content.Rows
			of.Dropped = append(of.Dropped, one.Name)
			if p.Deleted != nil {
				p.Deleted(content.Rows)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("drop partitions: %w", err)
	}
	return nil
}
