package decode

import (
	"testing"
)

func TestExistingRowsBecomeTheEventsOfInsertedOnes(t *testing.T) {
	t.Parallel()
	options := goldenOptions()
	d, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	columns := []Column{
		{"Id", oidInt8}, {"topic", 25}, {"key", oidBytea}, {"kind", 99999}, {"payload", oidBytea}, {"part", 23}, {"at_ms", oidInt8},
	}
	rows := [][]string{
		{"1", "sales", `\x00ff`, "sold", `\xdead`, "3", "1795341600123"},
		{"2", "sales", null, null, null, null, null},
		{null, "", `\xz`, "", "", "x", "x"},
	}
	feed(t, d, relationMessage(1, "Sales", "Outbox", columns...), beginMessage(0x20, 7))
	x, err := d.Existing("Sales.Outbox", columns)
	if err != nil {
		t.Fatal(err)
	}
	clear(columns) // the mapping has its own
	for i, row := range rows {
		inserted := feed(t, d, insertMessage(1, row...))[0]
		values := make([][]byte, len(row))
		for j, v := range row {
			if v != null {
				values[j] = []byte(v)
			}
		}
		var existing Event
		x.Event(values, inserted.Position, commitTime(), &existing)
		for _, v := range values {
			for j := range v {
				v[j] = '!'
			}
		}
		if got, want := renderEvent(&existing), renderEvent(&inserted); got != want {
			t.Errorf("row %d: read by SQL it is\n%sinserted\n%s", i, got, want)
		}
	}

	var ev Event
	x.Event(make([][]byte, 3), Position{}, commitTime(), &ev)
	wantError(t, ev.Poison, "3 columns", "7")
	_, err = d.Existing("public.nowhere", columns)
	wantError(t, err, "public.nowhere", "not under outbox")
}
