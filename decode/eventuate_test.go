package decode

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// eventuateTable is what the preset of the configuration makes of it.
func eventuateTable(change ...func(*Table)) Table {
	t := Table{
		Name:    "eventuate.message",
		Columns: Columns{ID: "id", Topic: "destination", Payload: "payload", Headers: "headers", Timestamp: "creation_time"},
		Topic:   "{destination}", Format: Eventuate, OnNull: PoisonNull,
	}
	for _, f := range change {
		f(&t)
	}
	return t
}

// eventuateColumns are those of Tram's own script for Postgres.
func eventuateColumns() []Column {
	return []Column{
		{"id", 1043}, {"destination", 25}, {"headers", 25}, {"payload", 25}, {"published", 21}, {"message_partition", 21}, {"creation_time", oidInt8},
	}
}

// message decodes one row of that table: id, destination, headers, payload, and more.
func message(tb testing.TB, values []string, change ...func(*Table)) Event {
	tb.Helper()
	values = append(values, []string{"0", null, "1790000000000"}[len(values)-4:]...)
	columns := eventuateColumns()
	table := eventuateTable(change...)
	if table.Columns.ID == "dbid" {
		columns[0] = Column{"dbid", oidInt8}
	}
	d := newDecoder(tb, table)
	feed(tb, d, relationMessage(1, "eventuate", "message", columns...), beginMessage(0x20, 7))
	var ev Event
	if _, err := d.Decode(insertMessage(1, values...), &ev); err != nil {
		tb.Fatal(err)
	}
	return ev
}

func databaseIDs(t *Table) { t.Columns.ID, t.OutboxID = "dbid", "7" }

const (
	tramID      = "0000018f2a3b4c5d-0242ac1100020000"
	tramHeaders = `{"PARTITION_ID":"4711","event-type":"OrderCreated","DATE":"Mon, 23 Nov 2026 10:00:00 GMT","ID":"` + tramID + `","DESTINATION":"Order"}`
)

// TestAMessageBecomesTramsRecord has the bytes of Eventuate's CDC service; test/eventuate_test.go asks it itself.
func TestAMessageBecomesTramsRecord(t *testing.T) {
	t.Parallel()
	ev := message(t, []string{tramID, "Order", tramHeaders, `{"total": "12.50", "text": "größer\n"}`})
	if ev.Poison != nil || ev.Ignored {
		t.Fatal(ev.Poison, ev.Ignored)
	}
	want := `{"payload":"{\"total\": \"12.50\", \"text\": \"größer\\n\"}","headers":` + tramHeaders + `}`
	if string(ev.Value) != want || ev.ID != tramID || string(ev.Key) != "4711" || ev.Topic != "Order" || ev.Partition != AnyPartition {
		t.Errorf("value %s\nwant  %s\nid %q key %q topic %q partition %d", ev.Value, want, ev.ID, ev.Key, ev.Topic, ev.Partition)
	}
	if ev.Timestamp.UnixMilli() != 1790000000000 {
		t.Errorf("the timestamp is %v", ev.Timestamp)
	}
	wantHeaders(t, &ev, "id="+tramID, "tidemark-position=0000000000000020-00000000", "tidemark-source=system/database/slot")
}

func TestIDAndKeyOfAMessage(t *testing.T) {
	t.Parallel()
	key := func(t *Table) { t.Key = "{destination}/{id}" }
	for name, c := range map[string]struct {
		own, headers string
		change       []func(*Table)
		id, key      string
		out          string
	}{
		"no partition id":               {"a", `{"ID":"a"}`, nil, "a", "a", `{"ID":"a"}`},
		"the headers' id wins":          {"a", `{"ID":"b"}`, nil, "b", "b", `{"ID":"b"}`},
		"none in the headers":           {"a\"", `{"x":"y"}`, nil, `a"`, `a"`, `{"x":"y","ID":"a\""}`},
		"no headers":                    {"a", ` { } `, nil, "a", "a", `{"ID":"a"}`},
		"null is none":                  {"a", `{"ID":null,"PARTITION_ID":null,"x":null}`, nil, "a", "a", `{"ID":"a"}`},
		"empty partition id":            {"a", `{"PARTITION_ID":"","ID":"a"}`, nil, "a", "", `{"PARTITION_ID":"","ID":"a"}`},
		"the last of several":           {"a", `{"ID":"a","ID":"b","PARTITION_ID":"1","PARTITION_ID":"2"}`, nil, "b", "2", `{"ID":"a","ID":"b","PARTITION_ID":"1","PARTITION_ID":"2"}`},
		"escaped":                       {"a", `{"\u0049D":"\u0061\"\/","PARTITION_ID":"\u00e4\ud83d\ude00"}`, nil, `a"/`, "ä😀", `{"ID":"a\"/","PARTITION_ID":"ä😀"}`},
		"numbers and words":             {"a", `{"ID" : 17, "PARTITION_ID":true , "n":-1.5e3}`, nil, "17", "true", `{"ID":17,"PARTITION_ID":true,"n":-1.5e3}`},
		"numbered by the database":      {"1667493938171", `{"PARTITION_ID":"x"}`, []func(*Table){databaseIDs}, "000001843e6243fb-0000000000000007", "x", `{"PARTITION_ID":"x","ID":"000001843e6243fb-0000000000000007"}`},
		"numbered below zero":           {"-2", `{}`, []func(*Table){databaseIDs}, "fffffffffffffffe-0000000000000007", "fffffffffffffffe-0000000000000007", `{"ID":"fffffffffffffffe-0000000000000007"}`},
		"numbered, from before the ids": {"5", `{"ID":"b"}`, []func(*Table){databaseIDs}, "b", "b", `{"ID":"b"}`},
		"a key of columns":              {"a", `{"ID":"b","PARTITION_ID":"x"}`, []func(*Table){key}, "b", "Order/a", `{"ID":"b","PARTITION_ID":"x"}`},
	} {
		ev := message(t, []string{c.own, "Order", c.headers, ""}, c.change...)
		if want := `{"payload":"","headers":` + c.out + `}`; string(ev.Value) != want || ev.Poison != nil {
			t.Errorf("%s: value %s, want %s (%v)", name, ev.Value, want, ev.Poison)
		}
		if ev.ID != c.id || string(ev.Key) != c.key || ev.Key == nil {
			t.Errorf("%s: id %q, key %q, want %q, %q", name, ev.ID, ev.Key, c.id, c.key)
		}
		if h := ev.Headers[0]; h.Key != HeaderID || string(h.Value) != c.id {
			t.Errorf("%s: header %s=%q", name, h.Key, h.Value)
		}
	}
}

// TestHeadersWithNulls: Eventuate's mapper leaves nulls out wherever they stand.
func TestHeadersWithNulls(t *testing.T) {
	t.Parallel()
	for _, headers := range []string{`{"a":null,"ID":"i","b":"c"}`, `{"ID":"i","a":null,"b":"c"}`, "\n{ \"ID\"\t: \"i\" ,\r\"b\":\"c\",\"a\":null}\n"} {
		ev := message(t, []string{"i", "Order", headers, "p"})
		if string(ev.Value) != `{"payload":"p","headers":{"ID":"i","b":"c"}}` || ev.Poison != nil {
			t.Errorf("%q becomes %s (%v)", headers, ev.Value, ev.Poison)
		}
	}
}

func TestMessagesThatAreNone(t *testing.T) {
	t.Parallel()
	good := []string{"i", "Order", `{"ID":"i"}`, "p"}
	with := func(at int, text string) []string {
		row := slices.Clone(good)
		row[at] = text
		return row
	}
	for name, c := range map[string]struct {
		row    []string
		change func(*Table)
		want   string
	}{
		"no destination":      {with(1, ""), nil, "topic: the name is empty"},
		"null destination":    {with(1, null), nil, `topic: column "destination" is null`},
		"destination":         {with(1, "a/b"), nil, "no topic name"},
		"null payload":        {with(3, null), nil, `payload: column "payload" is null`},
		"null headers":        {with(2, null), nil, `headers: column "headers": is no JSON object`},
		"empty headers":       {with(2, ""), nil, "is no JSON object"},
		"list":                {with(2, `["ID"]`), nil, "is no JSON object"},
		"null for an object":  {with(2, `null`), nil, "is no JSON object"},
		"more behind":         {with(2, `{"ID":"i"} x`), nil, "is no JSON object"},
		"not closed":          {with(2, `{"ID":"i"`), nil, "is no JSON object"},
		"comma":               {with(2, `{"ID":"i",}`), nil, "is no JSON object"},
		"no comma":            {with(2, `{"ID":"i" "a":"b"}`), nil, "is no JSON object"},
		"no colon":            {with(2, `{"ID" "i"}`), nil, "is no JSON object"},
		"name without quotes": {with(2, `{ID:"i"}`), nil, "is no JSON object"},
		"escape":              {with(2, `{"ID":"\x"}`), nil, "is no JSON object"},
		"escape in a name":    {with(2, `{"\x":null}`), nil, "is no JSON object"},
		"control character":   {with(2, "{\"ID\":\"\n\"}"), nil, "is no JSON object"},
		"number":              {with(2, `{"ID":01}`), nil, "is no JSON object"},
		"word":                {with(2, `{"ID":nul}`), nil, "is no JSON object"},
		"object":              {with(2, `{"ID":"i","a":{"b":"c"}}`), nil, `header "a" is no text but an object or a list`},
		"array":               {with(2, `{"ID":"i","a":[]}`), nil, `header "a" is no text but an object or a list`},
		"no id":               {[]string{"", "Order", `{}`, "p"}, nil, `id: the headers have no ID, and column "id" is null or empty`},
		"null id":             {[]string{null, "Order", `{}`, "p"}, nil, "id: the headers have no ID"},
		"empty id":            {with(2, `{"ID":""}`), nil, "id: the headers have no ID"},
		"id that is none":     {[]string{"x", "Order", `{}`, "p"}, databaseIDs, `id: column "dbid": "x" is no whole number of 64 bits`},
	} {
		var change []func(*Table)
		if c.change != nil {
			change = append(change, c.change)
		}
		ev := message(t, c.row, change...)
		if ev.Poison == nil || !strings.Contains(ev.Poison.Error(), c.want) {
			t.Errorf("%s: poison is %v, want %q", name, ev.Poison, c.want)
		}
		// Somebody may release it as it is.
		var record struct {
			Payload *string
			Headers map[string]string
		}
		if err := json.Unmarshal(ev.Value, &record); err != nil || record.Payload == nil || record.Headers == nil {
			t.Errorf("%s: the value is %s: %v", name, ev.Value, err)
		}
		if strings.HasPrefix(c.want, "header") && record.Headers["ID"] != "i" {
			t.Errorf("%s: the value %s has lost the id of its column", name, ev.Value)
		}
	}
}

func TestEmptyForANullPayload(t *testing.T) {
	t.Parallel()
	ev := message(t, []string{"i", "Order", `{"ID":"i"}`, null}, func(t *Table) { t.OnNull = Empty })
	if string(ev.Value) != `{"payload":"","headers":{"ID":"i"}}` || ev.Poison != nil {
		t.Errorf("%s (%v)", ev.Value, ev.Poison)
	}
}

// TestPublishedRowsAreLeftOut: so the CDC service does with rows that were inserted as published, and the position of what
// follows is the same.
func TestPublishedRowsAreLeftOut(t *testing.T) {
	t.Parallel()
	d := newDecoder(t, eventuateTable())
	feed(t, d, relationMessage(1, "eventuate", "message", eventuateColumns()...), beginMessage(0x20, 7))
	for i, published := range []string{"1", "0", null, "t", "f"} {
		var ev Event
		kind, err := d.Decode(insertMessage(1, "i", "CDC-IGNORED", `{}`, "p", published, null, null), &ev)
		want := Row
		if published == "1" || published == "t" {
			want = Skip
		}
		if err != nil || kind != want || ev.Ignored != (want == Skip) || ev.Position.Index != uint32(i) {
			t.Errorf("published %q: kind %d, %v, ignored %v at %s", published, kind, err, ev.Ignored, ev.Position)
		}
	}
}

func TestTablesThatAreNotTrams(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Table)
		want   string
	}{
		"no headers":    {func(t *Table) { t.Columns.Headers = "" }, "columns.headers: has to name the column"},
		"tombstones":    {func(t *Table) { t.OnNull = Tombstone }, "on_null: a tombstone is nothing for Tram"},
		"outbox id":     {func(t *Table) { t.OutboxID = "x" }, `outbox_id: "x" is no number from 0 to 281474976710655`},
		"too large":     {func(t *Table) { t.OutboxID = "281474976710656" }, "is no number from 0 to"},
		"of a debezium": {func(t *Table) { t.OutboxID, t.Format = "1", Plain }, "outbox_id: goes with the format Eventuate"},
	} {
		if _, err := New(Options{Tables: []Table{eventuateTable(c.change)}}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	typed := func(column string, typ uint32) []Column {
		columns := append(eventuateColumns(), Column{"dbid", oidInt8})
		for i := range columns {
			if columns[i].Name == column {
				columns[i].Type = typ
			}
		}
		return columns
	}
	for name, c := range map[string]struct {
		columns []Column
		change  func(*Table)
		want    string
	}{
		"bytea payload":       {typed("payload", oidBytea), nil, `column "payload" of table eventuate.message is bytea`},
		"bytea headers":       {typed("headers", oidBytea), nil, `column "headers" of table eventuate.message is bytea`},
		"numbers, no outbox":  {typed("", 0), func(t *Table) { t.Columns.ID = "dbid" }, "set outbox_id to what eventuate.outbox.id is"},
		"outbox, no numbers":  {typed("", 0), func(t *Table) { t.OutboxID = "7" }, "set columns.id to dbid"},
		"no headers":          {[]Column{{"id", 25}, {"destination", 25}, {"payload", 25}, {"creation_time", 20}}, nil, `column "headers" (columns.headers) is not in table`},
		"numbers of 32 bits":  {typed("dbid", oidInt4), databaseIDs, ""},
		"without the columns": {typed("", 0)[:4], func(t *Table) { t.Columns.Timestamp = "" }, ""},
	} {
		var change []func(*Table)
		if c.change != nil {
			change = append(change, c.change)
		}
		d := newDecoder(t, eventuateTable(change...))
		_, err := d.Existing("eventuate.message", c.columns)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestRoutingOfMessages(t *testing.T) {
	t.Parallel()
	r, err := eventuateTable(databaseIDs).Routing()
	if err != nil || r.ID != "dbid" || r.Place != nil || !slices.Equal(r.All, []string{"dbid", "destination", "headers", "published"}) {
		t.Errorf("%+v, %v", r, err)
	}
}

// FuzzEventuate holds the reading of a message's headers against encoding/json, and the writing of its record.
func FuzzEventuate(f *testing.F) {
	for _, headers := range []string{tramHeaders, `{}`, ` {"a" : null, "b":1e3,"\u0049D":"\ud83d\ude00\/\b"}`, `{"a":{}}`, `{"ID":"x",}`, "{\"a\":\"\x7f\xff\"}"} {
		f.Add([]byte(headers), []byte("pay\"load\\\n\x01ä"))
	}
	f.Fuzz(func(t *testing.T, headers, payload []byte) {
		if !utf8.Valid(headers) || !utf8.Valid(payload) {
			t.Skip("no text that Postgres sends")
		}
		given := slices.Concat(headers, payload)
		out, h, err := appendEventuateHeaders(nil, headers)
		var want map[string]any
		wrong := json.Unmarshal(headers, &want)
		nested := false
		for _, v := range want {
			switch v.(type) {
			case map[string]any, []any:
				nested = true
			}
		}
		if good := wrong == nil && want != nil; err == nil && !good || err != nil && good && !nested && !hasNested(headers) {
			t.Fatalf("headers %q: %v, encoding/json says %v", headers, err, wrong)
		}
		if err != nil {
			return
		}
		var got map[string]any
		if e := json.Unmarshal(slices.Concat([]byte("{"), out, []byte("}")), &got); e != nil {
			t.Fatalf("headers %q become %q: %v", headers, out, e)
		}
		for name, v := range want {
			if other, there := got[name]; v != nil && (!there || other != v) {
				t.Fatalf("header %q of %q is %v, was %v", name, headers, other, v)
			}
		}
		if v, ok := want["ID"].(string); ok && h.id != nil {
			b := newBuilder("")
			if id := string(b.eventuateText(h.id)); id != v {
				t.Fatalf("the id is %q, want %q", id, v)
			}
		}
		quoted := appendQuoted(nil, payload)
		var text string
		if e := json.Unmarshal(quoted, &text); e != nil || len(quoted) != quotedLen(payload) || text != string(payload) {
			t.Fatalf("payload %q becomes %q: %v", payload, quoted, e)
		}
		if !slices.Equal(given, slices.Concat(headers, payload)) {
			t.Fatal("the row was changed")
		}
	})
}

// hasNested reports whether any entry, of several with one name too, is an object or a list.
func hasNested(doc []byte) bool {
	s := jsonScanner{rest: doc}
	s.space()
	s.skip()
	for s.rest[0] != '}' {
		s.value()
		s.skip()
		if v := s.value(); v[0] == '{' || v[0] == '[' {
			return true
		}
		if s.rest[0] == ',' {
			s.skip()
		}
	}
	return false
}

func TestTheIDOfARecord(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`{"payload":"{\"headers\":{\"ID\":\"x\"}}","headers":{"id":"z","ID":"i\"","iD":"y"}}`: `i"`,
		`{"headers":{"ID":"i"}}`: "i",
		`{"headers":{"ID":""}}`:  "",
		`{"headers":{"ID":1}}`:   "",
		`{"headers":{}}`:         "",
		`{"headers":["ID"]}`:     "",
		`{"ID":"i"}`:             "",
		`["ID"]`:                 "",
		`{"headers":{"ID":"i"}`:  "",
		``:                       "",
	} {
		if id, ok := EventuateID([]byte(value)); id != want || ok != (want != "") {
			t.Errorf("%s: %q, %v, want %q", value, id, ok, want)
		}
	}
}

func TestRowsOfIDs(t *testing.T) {
	t.Parallel()
	own := []string{"000001843e6243fb-0000000000000007"}
	for name, c := range map[string]struct {
		table Table
		ids   []string
		want  []string
	}{
		"made by the writers":      {eventuateTable(), own, own},
		"numbered by the database": {eventuateTable(databaseIDs), append(own, "fffffffffffffffe-0000000000000007"), []string{"1667493938171", "-2"}},
		"of another outbox": {eventuateTable(databaseIDs), []string{
			"000001843e6243fb-0000000000000008", "x", "", "000001843E6243FB-0000000000000007", "000001843e6243fb+0000000000000007",
		}, nil},
	} {
		if got := c.table.RowIDs(c.ids...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// TestAMessageCostsNoAllocations: its record is a piece of a slab, as those of other rows.
func TestAMessageCostsNoAllocations(t *testing.T) {
	d := newDecoder(t, eventuateTable())
	feed(t, d, relationMessage(1, "eventuate", "message", eventuateColumns()...), beginMessage(0x20, 7))
	row := insertMessage(1, tramID, "Order", tramHeaders, strings.Repeat(`{"text": "größer"}`, 10), "0", null, "1790000000000")
	var ev Event
	n := testing.AllocsPerRun(1000, func() {
		if kind, err := d.Decode(row, &ev); kind != Row || err != nil || ev.Poison != nil {
			t.Fatal(kind, err, ev.Poison)
		}
	})
	if n >= 1 {
		t.Errorf("a message costs %v allocations", n)
	}
}
