package cli

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tidemark/tidemark/checkpoint"
)

// TestOnceLeavesAloneWhatIsBehindItsEnd has writers go on meanwhile. Whoever takes over from the checkpoint must not find
// published what is behind it.
func TestOnceLeavesAloneWhatIsBehindItsEnd(t *testing.T) {
	b := newCheckpointBench(t)
	b.run("file", 0, "init")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 3)
	for range cap(done) {
		go func() { // ends with ctx
			conn, err := pgx.Connect(t.Context(), b.dsn)
			for err == nil && ctx.Err() == nil {
				_, err = conn.Exec(t.Context(), "insert into outbox (aggregatetype, aggregateid, type, payload) select 'order', '1', 'made', '1' from generate_series(1, 20)")
			}
			if conn != nil {
				_ = conn.Close(context.WithoutCancel(t.Context()))
			}
			done <- err
		}()
	}
	var stored *checkpoint.Checkpoint
	records := 0
	for range 3 {
		b.run("file", 0, "run --once")
		stored = b.show("file")
		records = b.recordsBehind(stored.LSN)
		if records > 0 {
			break
		}
	}
	cancel()
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if records > 0 {
		t.Errorf("%d records are of commits behind the checkpoint at %s", records, stored.LSN)
	}
	if stored.LSN == 0 {
		t.Error("nothing is stored")
	}
}

// recordsBehind counts the records of commits at or behind lsn.
func (b *checkpointBench) recordsBehind(lsn checkpoint.LSN) (n int) {
	b.t.Helper()
	for _, r := range b.records() {
		for _, h := range r.Headers {
			if h.Key == "tidemark-position" && string(h.Value) >= hex16(uint64(lsn)) {
				n++
			}
		}
	}
	return n
}

func hex16(n uint64) string { return fmt.Sprintf("%016x", n) }
