package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/wal"
)

// errEnough is what ends readLog early, without an error.
var errEnough = errors.New("what was looked for in the log is found")

// readLog shows each row of the log that was committed before end, and behind those of a transaction, with a nil event, its
// end LSN. The event is each's until it returns. Nothing is confirmed but what the reader was started with. Messages are
// passed over: they leave no row, and no relay of tables has published them.
func readLog(ctx context.Context, reader *wal.Reader, decoder *decode.Decoder, end pglogrepl.LSN, each func(*decode.Event, pglogrepl.LSN) error) error {
	var ev decode.Event
	for {
		msg, err := reader.Receive(ctx, time.Time{})
		if err != nil {
			return err
		}
		switch msg.Kind {
		case wal.Quiet:
		case wal.Keepalive:
			if msg.WALEnd >= end {
				return nil
			}
		case wal.Data:
			kind, err := decoder.Decode(msg.Data, &ev)
			if err != nil {
				return fmt.Errorf("read the log: %w", err)
			}
			transaction := decoder.Transaction()
			switch kind {
			case decode.Row:
				err = each(&ev, 0)
			case decode.Commit:
				if err = each(nil, transaction.End); err == nil && transaction.End >= end {
					return nil
				}
			case decode.Begin:
				if transaction.Commit >= end {
					return nil
				}
			case decode.Skip, decode.Lone, decode.Ignored:
			}
			if errors.Is(err, errEnough) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}
}
