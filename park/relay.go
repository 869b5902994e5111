package park

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/decode"
)

// Park stores events, durably when it returns nil, and all or none. An event whose position is parked already stays as
// it is there, whatever has become of it. Events must come with the position under which they are decoded again.
func (s *Store) Park(ctx context.Context, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	return s.write(ctx, fmt.Sprintf("park %d events", len(events)), func(ctx context.Context, tx pgx.Tx) error {
		fresh, err := s.fresh(ctx, tx, events)
		if err != nil || len(fresh) == 0 {
			return err
		}
		var behind [][]byte
		rows := pgx.CopyFromSlice(len(fresh), func(i int) ([]any, error) {
			if fresh[i].Behind {
				behind = append(behind, laneOf(&fresh[i].Event))
			}
			return s.row(fresh[i])
		})
		if _, err := tx.CopyFrom(ctx, strings.Split(tableName, "."), parkedColumns(), rows); err != nil {
			return err
		}
		return s.promote(ctx, tx, behind)
	})
}

// fresh returns the events that are not in the table.
func (s *Store) fresh(ctx context.Context, tx pgx.Tx, events []Event) ([]*Event, error) {
	positions := make([]string, len(events))
	for i := range events {
		positions[i] = events[i].Event.Position.String()
	}
	rows, _ := tx.Query(ctx, "select position from "+tableName+" where source = $1 and position = any($2)", s.text(s.source), positions)
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool, len(events))
	for _, position := range there {
		known[position] = true
	}
	fresh := make([]*Event, 0, len(events))
	for i, position := range positions {
		if !known[position] {
			known[position] = true
			fresh = append(fresh, &events[i])
		}
	}
	return fresh, nil
}

// promoteSQL releases the events that lead their lanes and are only Behind. So an event that may go either has a state
// that says so, or comes after one of its lane that has, and Due need not look at those that wait.
const promoteSQL = `update ` + tableName + ` set state = 'released' where source = $1 and position = any(array(
	select h.position from unnest($2::bytea[]) l(lane) cross join lateral
		(select position, state, behind from ` + tableName + ` where source = $1 and lane = l.lane order by position limit 1) h
	where h.state = 'waiting' and h.behind))`

func (s *Store) promote(ctx context.Context, tx pgx.Tx, lanes [][]byte) error {
	if len(lanes) == 0 {
		return nil
	}
	_, err := tx.Exec(ctx, promoteSQL, s.text(s.source), lanes)
	return err
}

// headsSQL finds the first event of each lane in one step of the index a lane, however many wait there.
const headsSQL = `heads as (
	(select lane, position, state, behind, topic, key from ` + tableName + ` where source = $1 order by lane, position limit 1)
	union all
	select n.* from heads h cross join lateral
		(select lane, position, state, behind, topic, key from ` + tableName + ` where source = $1 and lane > h.lane order by lane, position limit 1) n
)`

const mendSQL = `with recursive ` + headsSQL + ` update ` + tableName + ` set state = 'released'
	where source = $1 and position = any(array(select position from heads where state = 'waiting' and behind))`

// Keys returns the keys that have parked events, in no order. It takes some ten microseconds a key, so it is not for
// every second: between two calls keys are only added by Park, and only go with events that Due has returned or that
// an operator has discarded.
func (s *Store) Keys(ctx context.Context) (keys []Key, err error) {
	err = s.call(ctx, "look up the keys of parked events", func(ctx context.Context, conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, "with recursive "+headsSQL+" select distinct topic, key from heads", s.text(s.source))
		keys, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Key, error) {
			var topic string
			var key []byte
			err := row.Scan(&topic, &key)
			return Key{Topic: plain(topic), Key: string(key), Null: key == nil}, err
		})
		return err
	})
	return keys, err
}

// dueSQL takes the lanes of the first events that are free to go, from each what comes before the first event that
// blocks it, and of all that the first by position. The subqueries with min and limit are there for the planner, who
// cannot turn them into a join that reads the whole table. '~' is behind every position.
const dueSQL = `with lanes as materialized (
	select distinct lane from (
		select g.lane from ` + tableName + ` g cross join lateral
			(select min(position) as position from ` + tableName + ` where source = $1 and lane = g.lane and ` + blocking + `) b
		where g.source = $1 and g.state <> 'waiting' and g.position < coalesce(b.position, '~')
		order by g.position limit $2
	) first
), due as (
	select d.position, d.bytes from lanes l cross join lateral
		(select min(position) as position from ` + tableName + ` where source = $1 and lane = l.lane and ` + blocking + `) b cross join lateral
		(select position, bytes from ` + tableName + ` where source = $1 and lane = l.lane and position < coalesce(b.position, '~') order by position limit $2) d
	order by d.position limit $2
), counted as (
	select position, sum(bytes) over sofar as bytes, row_number() over sofar as n from due window sofar as (order by position)
)
select ` + eventColumns + `value from ` + tableName + `
	where source = $1 and position = any(array(select position from counted where n = 1 or bytes <= $3)) order by position`

// Due returns the first events that may go now, by position, at most limit of them and at most about 4 MiB unless the
// first alone is larger. Of each key that is a prefix: nothing is left out or waits before an event that is returned.
// Events that were handed over come too, their State is Publishing: a caller finishes with what it was given
// (Published, Rejected) before it asks again.
func (s *Store) Due(ctx context.Context, limit int) (events []Event, err error) {
	err = s.call(ctx, "look up the parked events that are due", func(ctx context.Context, conn *pgx.Conn) error {
		rows, _ := conn.Query(ctx, dueSQL, s.text(s.source), limit, s.dueBytes)
		events, err = pgx.CollectRows(rows, scanEvent)
		return err
	})
	return events, err
}

const publishingSQL = `update ` + tableName + ` p set state = 'publishing', floor = f.floor
	from unnest($2::text[], $3::jsonb[]) f(position, floor)
	where p.source = $1 and p.position = f.position and p.position < coalesce(
		(select min(b.position) from ` + tableName + ` b where b.source = $1 and b.lane = p.lane and b.state = 'waiting' and not b.behind), '~')`

// Publishing notes, durably, that the events are about to be handed over, and each one's Floor. Only then may they be.
// If IsConflict is true of the error, one of them is gone or waits by now (somebody has discarded it): nothing was
// noted, none may be handed over, and Due tells what may go instead.
func (s *Store) Publishing(ctx context.Context, events []Event) error {
	if len(events) == 0 {
		return nil
	}
	positions := make([]string, len(events))
	floors := make([]*string, len(events))
	for i := range events {
		positions[i] = events[i].Event.Position.String()
		if events[i].Floor == nil {
			continue
		}
		text, err := json.Marshal(events[i].Floor)
		if err != nil {
			return fmt.Errorf("encode the floor of %s: %w", positions[i], err)
		}
		floor := string(text)
		floors[i] = &floor
	}
	doing := fmt.Sprintf("note that %d parked events are handed over", len(events))
	return s.write(ctx, doing, func(ctx context.Context, tx pgx.Tx) error {
		done, err := tx.Exec(ctx, publishingSQL, s.text(s.source), positions, floors)
		if err != nil {
			return err
		}
		if done.RowsAffected() != int64(len(events)) {
			return &failure{conflict, fmt.Errorf("only %d of them may still go", done.RowsAffected()), ""}
		}
		return nil
	})
}

// Published removes events that are in Kafka. Those that are gone already are no error.
func (s *Store) Published(ctx context.Context, positions []decode.Position) error {
	if len(positions) == 0 {
		return nil
	}
	return s.write(ctx, fmt.Sprintf("remove %d parked events that are published", len(positions)), func(ctx context.Context, tx pgx.Tx) error {
		return s.remove(ctx, tx, positionTexts(positions))
	})
}

// remove deletes events, and lets those go that are first of their keys now.
func (s *Store) remove(ctx context.Context, tx pgx.Tx, positions []string) error {
	rows, _ := tx.Query(ctx, "with gone as (delete from "+tableName+" where source = $1 and position = any($2) returning lane) select distinct lane from gone",
		s.text(s.source), positions)
	lanes, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil {
		return err
	}
	return s.promote(ctx, tx, lanes)
}

// Rejected notes that an event still cannot be published, and why: it waits for a decision again, and with it what is
// behind it. One that is gone is no error.
func (s *Store) Rejected(ctx context.Context, position decode.Position, reason string) error {
	return s.write(ctx, fmt.Sprintf("park %s again", position), func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "update "+tableName+" set state = 'waiting', floor = null, behind = false, reason = $3 where source = $1 and position = $2",
			s.text(s.source), position.String(), s.text(shortened(reason)))
		return err
	})
}

// Newest returns the last position that has a parked event; the zero one if nothing is parked.
func (s *Store) Newest(ctx context.Context) (newest decode.Position, err error) {
	err = s.call(ctx, "look up the newest parked event", func(ctx context.Context, conn *pgx.Conn) error {
		var text string
		err := conn.QueryRow(ctx, "select coalesce(max(position), '') from "+tableName+" where source = $1", s.text(s.source)).Scan(&text)
		if err == nil && text != "" {
			newest, err = decode.ParsePosition(text)
		}
		return err
	})
	return newest, err
}

// Count returns how many events are parked.
func (s *Store) Count(ctx context.Context) (n int64, err error) {
	err = s.call(ctx, "count the parked events", func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "select count(*) from "+tableName+" where source = $1", s.text(s.source)).Scan(&n)
	})
	return n, err
}
