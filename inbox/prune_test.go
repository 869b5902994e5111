package inbox_test

import (
	"testing"
	"time"

	"github.com/tidemark/tidemark/inbox"
)

func TestPruneDeletesWhatIsBehindAndOldAndNothingElse(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	for n := range 10 {
		db.handle(t, "search", event(n, "key"), inbox.DropStale())
	}
	// Many, so that there is more than one batch.
	db.exec(t, `insert into inbox (consumer, id, kafka_topic, kafka_partition, kafka_offset) select 'search', 'many-' || n, 'orders', 1, n from generate_series(0, 4999) n`)
	elsewhere := event(2, "key")
	elsewhere.ID, elsewhere.Topic = "elsewhere", "payments"
	db.handle(t, "search", elsewhere)
	db.handle(t, "billing", event(2, "key"))
	db.exec(t, "update inbox set handled_at = now() - interval '3 days'")
	db.exec(t, "update inbox_positions set seen_at = now() - interval '3 days'")
	db.exec(t, "update inbox set handled_at = now() where id = 'id-1'")

	prune := func(want int64, limits ...inbox.Limit) {
		t.Helper()
		n, err := inbox.Prune(t.Context(), db.pool, "search", limits...)
		must(t, err)
		if n != want {
			t.Errorf("%d rows are deleted, want %d", n, want)
		}
	}
	const day = 24 * time.Hour
	prune(0)
	prune(0, inbox.Limit{Topic: "orders", Partition: 0, Before: 5, Age: 4 * day})                                                                   // too young
	prune(0, inbox.Limit{Topic: "orders", Partition: 0, Before: 0, Age: day})                                                                       // all of it may come again
	prune(4, inbox.Limit{Topic: "orders", Partition: 0, Before: 5, Age: day})                                                                       // 0, 2, 3, 4: 1 was handled a moment ago
	prune(4999, inbox.Limit{Topic: "orders", Partition: 1, Before: 4999, Age: day})                                                                 // in batches
	prune(6, inbox.Limit{Topic: "orders", Partition: 0, Before: 10, Age: day}, inbox.Limit{Topic: "orders", Partition: 1, Before: 1, Age: 5 * day}) // and the key's position
	if n := db.count(t, "inbox"); n != 4 {
		t.Errorf("%d rows are left", n)
	}
	if got := db.handle(t, "search", event(1, "key")); got != inbox.Duplicate {
		t.Errorf("what was handled a moment ago is %s", got)
	}
	if _, err := inbox.Prune(t.Context(), db.pool, "search", inbox.Limit{Topic: "orders", Before: 10}); err == nil {
		t.Error("a limit without an age is taken")
	}
}
