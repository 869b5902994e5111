package decode

import (
	"encoding/binary"
	"time"

	"github.com/jackc/pglogrepl"
)

// Messages made by hand, for what no real server sends on request. What real ones sent is in testdata.

// commitTime is the time of all their transactions.
func commitTime() time.Time { return time.Date(2026, 11, 22, 10, 0, 0, 123456000, time.UTC) }

func beginMessage(lsn pglogrepl.LSN, xid uint32) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'B'}, uint64(lsn))
	b = binary.BigEndian.AppendUint64(b, wireTime(commitTime()))
	return binary.BigEndian.AppendUint32(b, xid)
}

func commitMessage(lsn, end pglogrepl.LSN) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'C', 0}, uint64(lsn))
	b = binary.BigEndian.AppendUint64(b, uint64(end))
	return binary.BigEndian.AppendUint64(b, wireTime(commitTime()))
}

func wireTime(t time.Time) uint64 {
	return uint64(t.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds())
}

func relationMessage(oid uint32, schema, name string, columns ...Column) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'R'}, oid)
	b = append(append(b, schema...), 0)
	b = append(append(b, name...), 0, 'd')
	b = binary.BigEndian.AppendUint16(b, uint16(len(columns)))
	for _, c := range columns {
		b = append(append(append(b, 0), c.Name...), 0)
		b = binary.BigEndian.AppendUint32(b, c.Type)
		b = binary.BigEndian.AppendUint32(b, 0xffffffff)
	}
	return b
}

// null is a null column of insertMessage.
const null = "\x00null"

func insertMessage(oid uint32, values ...string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'I'}, oid)
	b = binary.BigEndian.AppendUint16(append(b, 'N'), uint16(len(values)))
	for _, v := range values {
		if v == null {
			b = append(b, 'n')
			continue
		}
		b = binary.BigEndian.AppendUint32(append(b, 't'), uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

func logicalMessage(flags byte, end pglogrepl.LSN, prefix, content string) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'M', flags}, uint64(end))
	b = append(append(b, prefix...), 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(content)))
	return append(b, content...)
}
