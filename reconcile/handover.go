package reconcile

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// HandoverOptions say what another relay has left.
type HandoverOptions struct {
	Options                   // Source, SourceName, Tables, Kafka and Log
	From        pglogrepl.LSN // the position of tidemark's slot
	MostRows    int           // in the log behind From; more are an error
	ClockMargin time.Duration // by how much the other relay's clock may be behind that of Postgres
}

// HandoverReport says where the other relay has stopped.
type HandoverReport struct {
	LSN          pglogrepl.LSN // every event that was committed before is in Kafka, and none that is committed behind it
	Transactions int           // with rows, in the log behind From
	Rows         int
	Present      int // rows that were in Kafka
	Published    int // rows that were not, before the last one that was; they are now
}

// Handover finds where another relay, which has been stopped, has stopped: it reads the log from the position of tidemark's
// own slot, which is older than the stop, looks up each row's topic and id in Kafka, and returns the end of the last
// transaction that has a row there. Rows before it that are not there (of a transaction that was cut short, or of a partition that was
// slower than others) it publishes, in the order of the log. Interrupted, it can be run again.
func Handover(ctx context.Context, o HandoverOptions) (*HandoverReport, error) {
	h := handover{HandoverOptions: o, rows: map[mark]*handed{}, topics: map[string]bool{}, said: time.Now()}
	snapshot, end, _, err := wal.OpenNow(ctx, o.Source, "")
	if err != nil {
		return nil, err
	}
	snapshot.Close()
	h.end = end
	if err := h.read(ctx, h.enter); err != nil {
		return nil, err
	}
	if err := h.lookUp(ctx); err != nil {
		return nil, err
	}
	report := h.judge()
	if report.Published == 0 {
		return report, nil
	}
	return report, h.publish(ctx, report.LSN)
}

// handover is one under way.
type handover struct {
	HandoverOptions
	end    pglogrepl.LSN
	marks  marker
	ends   []pglogrepl.LSN // of the transactions with rows
	rows   map[mark]*handed
	order  []*handed
	topics map[string]bool
	first  time.Time // commit of the first row
	said   time.Time
}

// handed is a row of the log.
type handed struct {
	transaction int // index in ends
	present     bool
	like        *handed // one before it with the same topic and id, whose record stands for both
}

func (r *handed) there() bool { return r.present || r.like != nil && r.like.present }

// enter notes a row; the end of its transaction comes with the commit.
func (h *handover) enter(_ context.Context, ev *decode.Event, commit pglogrepl.LSN) error {
	if ev == nil {
		if n := len(h.order); n > 0 && h.order[n-1].transaction == len(h.ends) {
			h.ends = append(h.ends, commit)
		}
		return nil
	}
	if len(h.order) >= h.MostRows {
		return fmt.Errorf("the log behind %s has more than %d rows: the slot is too old for this; drop it, create it anew (tidemark init) while the other relay runs, and hand over within minutes", h.From, h.MostRows)
	}
	if h.first.IsZero() {
		h.first = ev.CommitTime
	}
	m := h.marks.of(ev.Topic, ev.ID)
	row := &handed{transaction: len(h.ends), like: h.rows[m]}
	if row.like == nil {
		h.rows[m] = row
	}
	h.order = append(h.order, row)
	h.topics[ev.Topic] = true
	return nil
}

// read is readLog from the slot's position to the end, with a connection of its own.
func (h *handover) read(ctx context.Context, each func(context.Context, *decode.Event, pglogrepl.LSN) error) error {
	conn, err := wal.Connect(ctx, h.Source)
	if err != nil {
		return err
	}
	defer conn.Close()
	domains, err := conn.Domains(ctx)
	if err != nil {
		return err
	}
	decoder, err := decode.New(decode.Options{Tables: h.Tables, Domains: domains, Source: h.SourceName(conn.System)})
	if err != nil {
		return err
	}
	reader, err := h.start(ctx, conn)
	if err != nil {
		return err
	}
	defer reader.Close()
	rows := 0
	return readLog(ctx, reader, decoder, h.end, func(ev *decode.Event, commit pglogrepl.LSN) error {
		if ev != nil {
			rows++
		}
		h.say(rows)
		return each(ctx, ev, commit)
	})
}

// start begins to stream. A walsender that has lost its client, as that of the reading before, holds the slot for a moment.
func (h *handover) start(ctx context.Context, conn *wal.Conn) (*wal.Reader, error) {
	const patience, between = 20 * time.Second, 50 * time.Millisecond
	for began := time.Now(); ; {
		reader, err := conn.Start(ctx, h.From, func() pglogrepl.LSN { return h.From })
		if err == nil || !wal.IsSlotActive(err) || time.Since(began) > patience {
			return reader, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(between):
		}
	}
}

func (h *handover) say(rows int) {
	if time.Since(h.said) > 5*time.Second {
		h.said = time.Now()
		h.Log.Info().Int("rows", rows).Stringer("until", h.end).Msg("reading the log")
	}
}

// lookUp reads the topics of the rows, from where a record of the first could be.
func (h *handover) lookUp(ctx context.Context) error {
	if len(h.order) == 0 {
		return nil
	}
	client, err := h.Kafka.Client(kgo.MetadataMinAge(10 * time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	spans, err := h.spans(ctx, kadm.NewClient(client))
	if err != nil {
		return err
	}
	return h.Kafka.Scan(ctx, publish.Scan{
		Spans: spans, Committed: true,
		Each: func(r *kgo.Record) {
			stamp := publish.ReadStamp(r.Headers)
			if row := h.rows[h.marks.of(r.Topic, stamp.ID)]; row != nil && stamp.Any {
				row.present = true
			}
		},
		Progress: func(read, of int64) { h.Log.Info().Int64("read", read).Int64("of", of).Msg("reading the topics") },
	})
}

// spans is what has to be read of the topics. A record is not older than its row's commit, unless the row says its time itself.
func (h *handover) spans(ctx context.Context, admin *kadm.Client) ([]publish.Span, error) {
	metadata, err := admin.Metadata(ctx)
	if err != nil {
		return nil, fmt.Errorf("look up the topics: %w", err)
	}
	var names []string
	for name := range h.topics {
		if metadata.Topics.Has(name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	look := func(what string, list func(context.Context, ...string) (kadm.ListedOffsets, error)) (kadm.ListedOffsets, error) {
		offsets, err := list(ctx, names...)
		if err == nil {
			err = offsets.Error()
		}
		if err != nil {
			return nil, fmt.Errorf("look up where the topics %s: %w", what, err)
		}
		return offsets, nil
	}
	begin := admin.ListStartOffsets
	timed := false
	for i := range h.Tables {
		timed = timed || h.Tables[i].Columns.Timestamp != ""
	}
	if since := h.first.Add(-h.ClockMargin); !timed && since.UnixMilli() > 0 {
		begin = func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return admin.ListOffsetsAfterMilli(ctx, since.UnixMilli(), topics...)
		}
	}
	starts, err := look("begin", begin)
	if err != nil {
		return nil, err
	}
	ends, err := look("end", admin.ListEndOffsets)
	if err != nil {
		return nil, err
	}
	var spans []publish.Span
	ends.Each(func(end kadm.ListedOffset) {
		if start, ok := starts.Lookup(end.Topic, end.Partition); ok && start.Offset < end.Offset {
			spans = append(spans, publish.Span{Topic: end.Topic, Partition: end.Partition, From: max(start.Offset, 0), End: end.Offset})
		}
	})
	return spans, nil
}

// judge finds the end of the last transaction that has a row in Kafka, and counts what is missing before it.
func (h *handover) judge() *HandoverReport {
	r := &HandoverReport{LSN: h.From, Transactions: len(h.ends), Rows: len(h.order)}
	last := -1
	for _, row := range h.order {
		if row.there() {
			last = row.transaction
			r.Present++
		}
	}
	if last < 0 {
		return r
	}
	r.LSN = h.ends[last]
	for _, row := range h.order {
		if !row.there() && row.transaction <= last {
			r.Published++
		}
	}
	return r
}

// publish brings what is missing before end, in the order of the log, one after the other: there are few, and what cannot be
// published must not be overtaken.
func (h *handover) publish(ctx context.Context, end pglogrepl.LSN) error {
	back := make(chan error, 1)
	pub, err := publish.Open(h.Kafka, func(d *publish.Delivery, err error) {
		d.Release()
		back <- err // there is room for the one
	})
	if err != nil {
		return err
	}
	defer pub.Close()
	at := 0
	return h.read(ctx, func(ctx context.Context, ev *decode.Event, commit pglogrepl.LSN) error {
		if ev == nil {
			if commit >= end {
				return errEnough
			}
			return nil
		}
		row := h.order[at] // the same log, the same rows
		at++
		if row.there() {
			return nil
		}
		if err := h.publishOne(ctx, pub, ev, back); err != nil {
			return fmt.Errorf("row %s of %s is not in Kafka, and later ones are; publish it: %w", ev.ID, ev.Table, err)
		}
		return nil
	})
}

func (h *handover) publishOne(ctx context.Context, pub *publish.Publisher, ev *decode.Event, back <-chan error) error {
	if ev.Poison == nil && !pub.Known(ev.Topic) {
		if err := pub.Prepare(ctx, []string{ev.Topic}); err != nil {
			return err
		}
	}
	batch := []publish.Delivery{{Event: *ev}}
	if err := pub.Check(&batch[0]); err != nil {
		return err
	}
	pub.Publish(batch)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-back:
		return err
	}
}
