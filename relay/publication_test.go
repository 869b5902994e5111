package relay_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/relay"
)

// mustRefuse checks that the relay ends with a refusal that says these words.
func (r *running) mustRefuse(words ...string) {
	r.t.Helper()
	err := r.wait()
	if _, ok := errors.AsType[*relay.Refusal](err); !ok {
		r.t.Fatalf("Run: %v, want a refusal", err)
	}
	for _, word := range append(words, "checkpoint adopt --accept-gap", "verify --repair") {
		if !strings.Contains(err.Error(), word) {
			r.t.Errorf("the refusal does not say %q: %v", word, err)
		}
	}
}

// Rows that are committed while the table is out of the publication never come, and nothing in the stream says so.
func TestChangedPublicationEndsARelayThatStreams(t *testing.T) {
	t.Parallel()
	changedPublicationEndsARelay(t)
}

func TestExactlyOnceEndsWhenThePublicationWasChanged(t *testing.T) {
	t.Parallel()
	changedPublicationEndsARelay(t)
}

func changedPublicationEndsARelay(t *testing.T) {
	t.Helper()
	b := newBench(t)
	b.options.PublicationEvery = 20 * time.Millisecond
	r := b.start()
	b.insert(5)
	b.records("outbox.event.order", 5)
	b.exec("alter publication tidemark drop table outbox")
	b.insert(7)
	b.exec("alter publication tidemark add table outbox")
	r.mustRefuse("table public.outbox was taken out of the publication")
	b.insert(2)
	r = b.start() // and so does every start after that
	r.mustRefuse("table public.outbox was taken out of the publication", "with the checkpoint at 0/")
}

// A publication that is gone while rows are committed is told by the server, when the log is read there. That is no error that
// another start gets over.
func TestDroppedPublicationEndsARelayThatStreams(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := b.start()
	b.insert(1)
	b.records("outbox.event.order", 1)
	b.exec("drop publication tidemark")
	b.insert(1)
	b.exec("create publication tidemark for table outbox with (publish = 'insert')")
	err := r.wait()
	var refusal interface{ Refused() bool }
	if !errors.As(err, &refusal) || !refusal.Refused() || !strings.Contains(err.Error(), "did not exist") || !strings.Contains(err.Error(), "tidemark init --recreate-slot") {
		t.Errorf("Run: %v, want a refusal that leads to init --recreate-slot", err)
	}
	b.start().mustRefuse("was created anew", "init --recreate-slot")
}

// What is changed while no relay runs is as bad, and the first look at a start is enough.
func TestPublicationChangedWhileNobodyLooked(t *testing.T) {
	t.Parallel()
	for says, change := range map[string]string{
		"put in again":        "alter publication tidemark drop table outbox; insert into outbox values (default, 'order', '1', 'placed'); alter publication tidemark add table outbox",
		"its settings were":   "alter publication tidemark set (publish = 'update'); alter publication tidemark set (publish = 'insert')",
		"was created anew":    "drop publication tidemark; create publication tidemark for table outbox with (publish = 'insert')",
		"row filter or col":   "alter publication tidemark set table outbox where (type <> ''); alter publication tidemark set table outbox",
		"was dropped":         "drop publication tidemark",
		"and now table publi": "alter publication tidemark drop table outbox",
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			r := b.start()
			b.insert(3)
			b.records("outbox.event.order", 3)
			r.stop()
			if _, err := b.db.PgConn().Exec(t.Context(), change).ReadAll(); err != nil {
				t.Fatal(err)
			}
			b.start().mustRefuse(says)
		})
	}
}

// What cannot have hidden a row is no reason to stop: nor is a checkpoint of a time before anybody looked, or another
// table that is configured from now on.
func TestPublicationThatIsTheSameIsNotRefused(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.PublicationEvery = 10 * time.Millisecond
	r := b.start()
	b.insert(3)
	b.records("outbox.event.order", 3)
	stored := func() time.Time {
		t.Helper()
		c, err := b.store.Load(t.Context())
		if err != nil || c.Publication == nil {
			t.Fatalf("%+v, %v: no publication is stored", c, err)
		}
		return c.Publication.SeenAt
	}
	first := stored()
	eventually(t, "it is stored when the publication was looked at", func() bool { b.insert(1); return stored().After(first) })
	r.stop()

	c, err := b.store.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Publication = nil
	if err := b.store.Save(t.Context(), c, c.Writer); err != nil {
		t.Fatal(err)
	}
	r = b.start()
	eventually(t, "the relay streams", func() bool { return r.relay.Ready() == nil })
	stored()
	r.stop()

	b.exec(strings.Replace(outboxTable, "outbox", "second", 1))
	b.exec("alter publication tidemark add table second")
	second := b.options.Tables[0]
	second.Name = "public.second"
	b.options.Tables = append(b.options.Tables, second)
	b.options.Source.Tables = append(b.options.Source.Tables, second.Name)
	r = b.start()
	b.exec("insert into second (aggregatetype, aggregateid, type) values ('second', 'k', 'placed')")
	b.records("outbox.event.second", 1)
	r.stop()
	b.exec("alter publication tidemark drop table second")
	b.exec("alter publication tidemark add table second")
	b.start().mustRefuse("table public.second")
}
