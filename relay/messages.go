package relay

import (
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// everyMessage is the LSN from which messages are read where the stream has published nothing yet.
const everyMessage pglogrepl.LSN = 1

// readMessages returns from which commit on logical messages are read, 0 for not at all, and prepares the connection.
//
// A message takes an index in its transaction, and so moves the rows behind it. What a predecessor without messages has
// published has positions without them, which have to stay: so messages count from where the log ended when they were first
// configured, which is in the checkpoint before any of them is published. For the same reason they go on to be counted when
// they are configured no more.
func (r *Relay) readMessages(conn *wal.Conn, d decision, stored *checkpoint.Checkpoint, history wal.History) (pglogrepl.LSN, error) {
	var from pglogrepl.LSN
	switch configured := len(r.Messages) > 0; {
	case d == resume && stored.MessagesFrom > 0:
		from = pglogrepl.LSN(stored.MessagesFrom)
		if left, ok := history[stored.Timeline]; ok { // what commits from there on is new, whatever bore its LSN before
			from = min(from, left)
		}
	case !configured:
		return 0, nil
	case d == resume:
		from = conn.System.Flushed
		r.Log.Info().Stringer("lsn", from).Msg("logical messages are configured for the first time: those that commit from here on are events")
	default:
		from = everyMessage
	}
	return from, conn.WithMessages()
}

// lone takes a message that belongs to no transaction as one of its own. When it was emitted the log does not say.
func (p *path) lone(d *publish.Delivery) error {
	if d.Event.CommitTime = time.Now(); d.Event.Timestamp.IsZero() {
		d.Event.Timestamp = d.Event.CommitTime
	}
	if err := p.begin(); err != nil {
		return err
	}
	if err := p.row(d); err != nil {
		return err
	}
	p.commit()
	return nil
}

// ignored counts a message that is no event as it is configured.
func (p *path) ignored(ev *decode.Event) {
	if p.begun >= ev.Position.Commit { // it came before the connection was lost
		return
	}
	p.Metrics.messagesSkipped.WithLabelValues(ev.Table).Inc()
	p.skippedLog.Warn().Str("table", ev.Table).Stringer("position", ev.Position).
		Msg("a message that belongs to no transaction is left out, as messages[].non_transactional says")
}
