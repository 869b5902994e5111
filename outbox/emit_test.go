package outbox

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// The fields are those of outbox_emit, whose messages the relay's own tests read.
func TestEmittedEventsAreMessagesInTheirOrder(t *testing.T) {
	emit, err := os.ReadFile("emit.sql")
	if err != nil {
		t.Fatal(err)
	}
	pool := newPool(t, string(emit), "create publication p", "select pg_create_logical_replication_slot('emitted', 'pgoutput')")
	defer pool.Exec(t.Context(), "select pg_drop_replication_slot('emitted')") //nolint:errcheck // else the database keeps it
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	var events []Event
	for _, s := range awkward() {
		events = append(events, Event{Topic: s, Key: s, Type: s, Payload: Text(s), Headers: map[string]string{"h": s}})
	}
	events = append(events, Event{Topic: "order", Key: "42", Type: "T", Payload: Tombstone()}, Event{Topic: "order", Key: "42", Type: "T", Payload: JSON(map[string]int{"b": 1, "a": 2})})
	w := Writer{Route: func(Event) string { return "x" }}
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		if err := w.Emit(WithTrace(t.Context(), parent, ""), tx, "shop", events...); err != nil {
			return err
		}
		_, err := tx.Exec(t.Context(), `select outbox_emit('order', '42', 'T', '{}', '{"h": "1"}', prefix => 'shop')`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rolledBack := errors.New("rolled back")
	err = pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return errors.Join(Emit(t.Context(), tx, "shop", good()), rolledBack) })
	if !errors.Is(err, rolledBack) || strings.Contains(err.Error(), "outbox") {
		t.Fatal(err)
	}
	rows, err := pool.Query(t.Context(), `select data from pg_logical_slot_peek_binary_changes('emitted', null, null,
		'proto_version', '1', 'publication_names', 'p', 'messages', 'true') where get_byte(data, 0) = ascii('M')`)
	if err != nil {
		t.Fatal(err)
	}
	data, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	if err != nil || len(data) != len(events)+1 {
		t.Fatalf("%d messages, want %d: %v", len(data), len(events)+1, err)
	}
	var fields []string
	for i, d := range slices.Backward(data) { // that of outbox_emit first
		prefix, rest, _ := bytes.Cut(d[1+1+8:], []byte{0}) // kind, flags, LSN
		content := rest[4:]
		if string(prefix) != "shop" || int(binary.BigEndian.Uint32(rest)) != len(content) {
			t.Fatalf("message %d: %q", i, d)
		}
		var object map[string]any
		if err := json.Unmarshal(content, &object); err != nil {
			t.Fatal(err)
		}
		if i == len(events) {
			fields = slices.Sorted(maps.Keys(object))
			continue
		}
		e := events[i]
		if got := slices.Sorted(maps.Keys(object)); !slices.Equal(got, fields) {
			t.Errorf("message %d has the fields %v, those of outbox_emit are %v", i, got, fields)
		}
		headers, _ := object["headers"].(map[string]any)
		if id, _ := object["id"].(string); !isUUID(id) || object["aggregatetype"] != e.Topic || object["aggregateid"] != e.Key || object["type"] != e.Type || headers["traceparent"] != parent {
			t.Errorf("message %d is %s", i, content)
		}
		if payload, ok := object["payload"].(string); ok == (e.Payload.kind == null) || payload != string(e.Payload.data) || len(e.Headers) > 0 && headers["h"] != e.Headers["h"] {
			t.Errorf("message %d is %s", i, content)
		}
	}
}

func TestEmitChecksAsWriteDoes(t *testing.T) {
	err := Emit(t.Context(), noTx{t}, "shop", good(), Event{Topic: "a b", Key: "k", Type: "t", Payload: Text("x")})
	if err == nil || !strings.HasPrefix(err.Error(), "outbox: event 1: topic: ") {
		t.Error(err)
	}
	if err := Emit(t.Context(), noTx{t}, "", good()); err == nil {
		t.Error("no prefix is needed")
	}
	if err := Emit(t.Context(), newPool(t), "shop", good()); !errors.Is(err, errNoTransaction) {
		t.Error(err)
	}
}
