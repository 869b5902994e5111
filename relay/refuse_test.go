package relay_test

import (
	"errors"
	"testing"

	"github.com/tidemark/tidemark/relay"
)

// TestNothingOvertakesARejectedEvent has the broker refuse an event of a key while more of them come in without a pause.
// The client takes what it is given after a refusal as a new beginning, and so does the broker.
func TestNothingOvertakesARejectedEvent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.OnPoison, b.options.ResumeDedupe = relay.Stop, true
	b.rejects("POISON")
	const before, after = 2000, 30_000
	r := b.start()
	b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload)
		select 'good', 'k', 'placed', to_jsonb(case g when $1 then 'POISON' else g::text end) from generate_series(0, $2) g`, before, before+after)
	var poisoned *relay.PoisonError
	if err := r.wait(); !errors.As(err, &poisoned) {
		t.Fatalf("Run returned %v, want the event that cannot be published", err)
	}
	b.records("outbox.event.good", before)
}
