package park

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/decode"
)

// List returns parked events without their values: first those that wait for a decision, then the others, both in
// commit order, so that what is to be done is not buried under what waits behind it. A limit of 0 is none.
func (s *Store) List(ctx context.Context, limit int) (events []Event, err error) {
	var most *int
	if limit > 0 {
		most = &limit
	}
	const from = "(select * from " + tableName + " where source = $1 and "
	err = s.call(ctx, "list the parked events", func(ctx context.Context, conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, "select "+eventColumns+"null::bytea from ("+
			from+blocking+" order by position limit $2) union all "+
			from+"not ("+blocking+") order by position limit $2)) both_parts order by ("+blocking+") desc, position limit $2",
			s.text(s.source), most)
		events, err = pgx.CollectRows(rows, scanEvent)
		return err
	})
	return events, err
}

// Tally is how many events are parked, by what they wait for.
type Tally struct {
	Waiting    int64 `json:"waiting"`    // for a decision
	Behind     int64 `json:"behind"`     // behind an earlier event of their key
	Released   int64 `json:"released"`   // for the relay
	Publishing int64 `json:"publishing"` // for Kafka
}

// Total is how many there are.
func (t Tally) Total() int64 { return t.Waiting + t.Behind + t.Released + t.Publishing }

// Tally counts the parked events.
func (s *Store) Tally(ctx context.Context) (t Tally, err error) {
	err = s.call(ctx, "count the parked events", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `select count(*) filter (where `+blocking+`), count(*) filter (where state = 'waiting' and behind),
			count(*) filter (where state = 'released'), count(*) filter (where state = 'publishing') from `+tableName+` where source = $1`,
			s.text(s.source)).Scan(&t.Waiting, &t.Behind, &t.Released, &t.Publishing)
	})
	return t, err
}

// Others returns the other sources that have events in the table, with their number. Nobody publishes these until a
// relay of that source runs: a cluster that was upgraded or restored has another name than before.
func (s *Store) Others(ctx context.Context) (others map[string]int64, err error) {
	err = s.call(ctx, "look for parked events of other sources", func(ctx context.Context, conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, "select source, count(*) from "+tableName+" where source <> $1 group by source", s.text(s.source))
		var source string
		var n int64
		others = map[string]int64{}
		_, err := pgx.ForEachRow(rows, []any{&source, &n}, func() error {
			others[plain(source)] = n
			return nil
		})
		return err
	})
	return others, err
}

// Show returns the parked events with this id, with everything; several, if rows of several tables share it. The text of
// a position stands for the event there. If there is none, IsNotFound is true of the error.
func (s *Store) Show(ctx context.Context, id string) (events []Event, err error) {
	err = s.call(ctx, "show parked event "+id, func(ctx context.Context, conn *pgx.Conn) error {
		events, err = s.find(ctx, conn, id, "value")
		return err
	})
	return events, err
}

// querier is a connection or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// find returns the event at that position or else, in commit order, those of that id: at least one.
func (s *Store) find(ctx context.Context, q querier, id, value string) ([]Event, error) {
	look := func(column, what string) ([]Event, error) {
		rows, _ := q.Query(ctx, "select "+eventColumns+value+" from "+tableName+" where source = $1 and "+column+" = $2 order by position", s.text(s.source), what)
		return pgx.CollectRows(rows, scanEvent)
	}
	if position, err := decode.ParsePosition(id); err == nil {
		if events, err := look("position", position.String()); err != nil || len(events) > 0 {
			return events, err
		}
	}
	events, err := look("id", s.text(id))
	if err == nil && len(events) == 0 {
		err = &failure{notFound, errors.New("no such event is parked"), "tidemark parked list shows those that are"}
	}
	return events, err
}

// findOne is find for a change, which must not hit an event that was not meant.
func (s *Store) findOne(ctx context.Context, tx pgx.Tx, id string) (*Event, error) {
	events, err := s.find(ctx, tx, id, "null::bytea")
	if err != nil {
		return nil, err
	}
	if len(events) > 1 {
		const most = 20
		var which []string
		for i := range events[:min(len(events), most)] {
			e := &events[i]
			which = append(which, fmt.Sprintf("%s (%s, topic %q)", e.Event.Position, e.Event.Table, e.Event.Topic))
		}
		if len(events) > most {
			which = append(which, "…")
		}
		return nil, &failure{
			conflict, fmt.Errorf("%d parked events have this id", len(events)),
			"give the position of the one that is meant: " + strings.Join(which, ", "),
		}
	}
	return &events[0], nil
}

// Release frees the event of that id, or at that position, to go, and with it what waits behind it. It is refused while an
// earlier event of its key waits for a decision, IsConflict is true of that error. To release an event twice is none.
func (s *Store) Release(ctx context.Context, id string) error {
	return s.write(ctx, "release "+id, func(ctx context.Context, tx pgx.Tx) error {
		e, err := s.findOne(ctx, tx, id)
		if err != nil || e.State == Publishing || e.State == Released && !e.Behind {
			return err
		}
		// One that is Behind may have been let go already, and an earlier one parked since: it does not go before that.
		rows, _ := tx.Query(ctx, "select "+eventColumns+"null::bytea from "+tableName+" where source = $1 and lane = $2 and position < $3 and "+blocking+" order by position limit 1",
			s.text(s.source), laneOf(&e.Event), e.Event.Position.String())
		earlier, err := pgx.CollectRows(rows, scanEvent)
		if err != nil {
			return err
		}
		if len(earlier) > 0 {
			first := &earlier[0]
			return &failure{
				conflict, fmt.Errorf("it would overtake an earlier event of its key, id %q at position %s, that cannot be published (%s)",
					first.Event.ID, first.Event.Position, first.Reason),
				fmt.Sprintf("first `tidemark parked release %[1]s` or `tidemark parked discard %[1]s --yes`, or release all of the key with --key", first.Event.Position),
			}
		}
		_, err = tx.Exec(ctx, "update "+tableName+" set state = 'released' where source = $1 and position = $2", s.text(s.source), e.Event.Position.String())
		return err
	})
}

// ReleaseKey frees all events of that key to go, in every topic, in their order. The key is its text, or \x and hex
// digits, which are never taken for text. It returns how many of them waited for a decision. If the key has no parked
// event, IsNotFound is true of the error.
func (s *Store) ReleaseKey(ctx context.Context, key string) (n int64, err error) {
	raw := []byte(plain(key))
	err = s.write(ctx, fmt.Sprintf("release key %q", key), func(ctx context.Context, tx pgx.Tx) error {
		done, err := tx.Exec(ctx, "update "+tableName+" set state = 'released' where source = $1 and key = $2 and "+blocking, s.text(s.source), raw)
		if n = done.RowsAffected(); err != nil || n > 0 {
			return err
		}
		var parked bool
		err = tx.QueryRow(ctx, "select exists (select from "+tableName+" where source = $1 and key = $2)", s.text(s.source), raw).Scan(&parked)
		if err == nil && !parked {
			err = &failure{notFound, errors.New("no event of this key is parked"), "tidemark parked list shows those that are"}
		}
		return err
	})
	return n, err
}

const releaseAllSQL = `with batch as (
	select position from ` + tableName + ` where source = $1 and position > $2 and ` + blocking + ` order by position limit $3
), released as (
	update ` + tableName + ` set state = 'released' where source = $1 and position = any(array(select position from batch)) returning position
) select count(*), coalesce(max(position), '') from released`

// releaseBatch is how many events one transaction of ReleaseAll frees: the relay must not wait long.
const releaseBatch = 5000

// ReleaseAll frees all events to go and returns how many of them waited for a decision. After an error some may be free.
func (s *Store) ReleaseAll(ctx context.Context) (n int64, err error) {
	// From position to position, so that what the running relay finds to be still impossible is not released again.
	for last, some := "", int64(1); some > 0; n += some {
		err = s.write(ctx, "release all parked events", func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, releaseAllSQL, s.text(s.source), last, releaseBatch).Scan(&some, &last)
		})
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Discard removes the event of that id, or at that position, for good. What waited behind it alone may go then. An event
// that was handed over cannot be discarded, IsConflict is true of that error: it may be in Kafka by now.
func (s *Store) Discard(ctx context.Context, id string) error {
	return s.write(ctx, "discard "+id, func(ctx context.Context, tx pgx.Tx) error {
		e, err := s.findOne(ctx, tx, id)
		if err != nil {
			return err
		}
		if e.State == Publishing {
			return &failure{
				conflict, errors.New("it was handed over to Kafka, and may be there"),
				"a running relay finds that out, and removes it or parks it again",
			}
		}
		return s.remove(ctx, tx, []string{e.Event.Position.String()})
	})
}

// Routes calls each with topic and id of every parked event, of all sources: what another source has parked is not lost
// either.
func (s *Store) Routes(ctx context.Context, each func(topic, id string)) error {
	return s.call(ctx, "list the parked events", func(ctx context.Context, conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, "select topic, id from "+tableName)
		var topic, id string
		_, err := pgx.ForEachRow(rows, []any{&topic, &id}, func() error {
			each(plain(topic), plain(id))
			return nil
		})
		return err
	})
}
