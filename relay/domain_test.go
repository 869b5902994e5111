package relay_test

import (
	"slices"
	"testing"
)

func TestRowBecomesTheSameRecordFromTheTableAndFromTheLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.exec(`create domain raw as bytea`)
	b.exec(`create domain rawer as raw`)
	b.exec(`alter table outbox alter payload type rawer using null, add at timestamptz, add n numeric`)
	b.options.Tables[0].Columns.Timestamp = "at"
	row := func() {
		b.exec(`insert into outbox (aggregatetype, aggregateid, type, payload, at, n) values ('order', 'ключ', 'placed', '\x00ff10', '2026-01-02 03:04:05.678901+02', 1.50)`)
	}
	row()
	r := b.start()
	b.records("outbox.event.order", 1)
	row()
	records := b.records("outbox.event.order", 2)
	for i, record := range records {
		if !slices.Equal(record.Value, []byte{0, 0xff, 0x10}) || string(record.Key) != "ключ" || record.Timestamp.UnixMilli() != 1767315845678 {
			t.Errorf("record %d: %q = %x at %s", i, record.Key, record.Value, record.Timestamp)
		}
	}
	r.stop()
}
