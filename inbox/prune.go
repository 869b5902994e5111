package inbox

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Limit says of one partition which records cannot be delivered any more.
type Limit struct {
	Topic     string
	Partition int32
	// Before is the offset before which nothing is delivered again: not beyond the start of the partition's log, nor beyond
	// what the group has committed.
	Before int64
	// Age is how long after an event was handled another copy of it may come, at another offset: the time for which
	// the topic keeps a record, and a margin. More than 0.
	Age time.Duration
}

// pruneBatch is how many rows one statement deletes at most, so that none of them runs for long.
const pruneBatch = 2000

// pruneSQL deletes from a table the rows for which both hold: the offset and the age.
const pruneSQL = `delete from %[1]s where ctid = any(array(
  select i.ctid from %[1]s i
  join unnest($2::text[], $3::integer[], $4::bigint[], $5::bigint[]) as l (topic, number, before, microseconds)
    on i.kafka_topic = l.topic and i.kafka_partition = l.number and i.kafka_offset < l.before
  where i.consumer = $1 and i.%[2]s < now() - l.microseconds * interval '1 microsecond' and i.%[2]s < now() - $6 * interval '1 microsecond'
  order by i.%[2]s limit $7
))`

// Prune deletes what the inbox knows about events that cannot come again, in batches, and returns how many rows. It
// needs to be told per partition what cannot (consumer.PruneLimits asks Kafka). A row is deleted if its record lies
// before Limit.Before, and was handled longer than Limit.Age ago; both are needed:
//
//   - The record itself is gone when the log of its partition starts behind it. Nothing brings it back, no reset of a group
//     either. Its age alone does not say so: a segment is deleted as a whole, long after its first records are due.
//   - Another copy of the event may have been written later (by a producer that was restarted), and lie at an offset that the
//     inbox has never seen. It is gone when the topic has kept it as long as it keeps anything: hence the age, with
//     a margin for the time between the two.
//
// Rows of partitions without a Limit stay, as do those of events without a topic. An event that somebody publishes again
// after its row is deleted (tidemark replay) has its effect again: its record has the header tidemark-replay.
func Prune(ctx context.Context, db Execer, consumer string, limits ...Limit) (int64, error) {
	if len(limits) == 0 {
		return 0, nil
	}
	var topics []string
	var partitions []int32
	var before, ages []int64
	youngest := limits[0].Age
	for _, l := range limits {
		if l.Age <= 0 {
			return 0, errors.New("prune the inbox: a limit has no age")
		}
		topics, partitions = append(topics, l.Topic), append(partitions, l.Partition)
		before, ages = append(before, l.Before), append(ages, l.Age.Microseconds())
		youngest = min(youngest, l.Age)
	}
	var deleted int64
	for _, table := range [][2]string{{"inbox", "handled_at"}, {"inbox_positions", "seen_at"}} {
		sql := fmt.Sprintf(pruneSQL, table[0], table[1])
		for more := true; more; {
			tag, err := db.Exec(ctx, sql, consumer, topics, partitions, before, ages, youngest.Microseconds(), pruneBatch)
			if err != nil {
				return deleted, fmt.Errorf("prune the inbox: %w", err)
			}
			deleted += tag.RowsAffected()
			more = tag.RowsAffected() == pruneBatch
		}
	}
	return deleted, nil
}
