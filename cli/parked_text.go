package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/park"
)

func (a *app) printParked(r *parkedReport) error {
	if r.Total == 0 {
		a.printf("Nothing is parked.\n")
		return a.printOthers(r)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "POSITION\tID\tTABLE\tTOPIC\tKEY\tSTATE\tAGE\tREASON") // Flush returns the error
	for i := range r.Events {
		e := &r.Events[i]
		key := "(null)"
		if e.Key != nil {
			key = cell(*e.Key)
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.Position, cell(e.ID), cell(e.Table), cell(e.Topic), key,
			stateText(e.State, e.Behind), ageText(e.ParkedAt), oneLine(e.Reason, 120))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if left := r.Total - int64(len(r.Events)); left > 0 {
		a.printf("… and %d more (--limit 0 prints all)\n", left)
	}
	t := r.Tally
	a.printf("\n%s parked: %d wait for a decision, %d wait behind an earlier event of their key, %d are released, %d are handed over.\n",
		counted(r.Total), t.Waiting, t.Behind, t.Released, t.Publishing)
	if t.Waiting > 0 {
		a.printf("When the reason is mended: tidemark parked release ID, --key KEY or --all. To give one up: tidemark parked discard ID.\n")
	}
	return a.printOthers(r)
}

// printOthers tells of events that would else be forgotten: nobody publishes them as long as no relay has their source.
func (a *app) printOthers(r *parkedReport) error {
	if len(r.Others) == 0 {
		return nil
	}
	a.printf("\nThe table also has events of other sources than %s:\n", r.Source)
	for _, source := range slices.Sorted(maps.Keys(r.Others)) {
		a.printf("  %s of %s\n", counted(r.Others[source]), cell(source))
	}
	a.printf("If none of these has a relay any more (the cluster was upgraded or restored, the slot renamed), nobody publishes them:\n" +
		"see them with --source.\n")
	return nil
}

func (a *app) printParkedEvents(events []park.Event) error {
	for i := range events {
		if i > 0 {
			a.printf("\n")
		}
		if err := a.printParkedEvent(&events[i]); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printParkedEvent(e *park.Event) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	line := func(name, value string) { _, _ = fmt.Fprintf(w, "%s\t%s\n", name, value) } // Flush returns the error
	line("position", e.Event.Position.String())
	line("id", cell(e.Event.ID))
	line("table", cell(e.Event.Table))
	line("topic", cell(e.Event.Topic))
	line("key", keyCell(e.Event.Key))
	line("state", stateText(e.State, e.Behind))
	if e.Reason != "" {
		line("reason", oneLine(e.Reason, -1))
	}
	line("committed", e.Event.CommitTime.Format(time.RFC3339Nano))
	line("parked", e.ParkedAt.Format(time.RFC3339)+" ("+ageText(e.ParkedAt)+" ago)")
	line("timestamp", e.Event.Timestamp.Format(time.RFC3339Nano))
	partition := "by the key"
	if e.Event.Partition != decode.AnyPartition {
		partition = strconv.Itoa(int(e.Event.Partition))
	}
	line("partition", partition)
	for _, h := range e.Event.Headers {
		line("header "+cell(h.Key), keyCell(h.Value))
	}
	for _, partition := range slices.Sorted(maps.Keys(e.Floor)) {
		line("handed over when", fmt.Sprintf("partition %d ended at %d", partition, e.Floor[partition]))
	}
	line("payload", valueText(e)+" (--payload prints it)")
	line("what to do", adviceFor(e))
	return w.Flush()
}

func adviceFor(e *park.Event) string {
	switch {
	case e.State == park.Publishing:
		return "nothing; a running relay finds out whether it is in Kafka"
	case e.State == park.Released:
		return "nothing; a running relay publishes it within about a second"
	case e.Behind:
		return "see which earlier event of its key waits for a decision: tidemark parked list"
	default:
		return fmt.Sprintf("mend the reason, then: tidemark parked release %s; or give it up: tidemark parked discard %[1]s", e.Event.Position)
	}
}

func (a *app) printPayload(id string, events []park.Event) error {
	if len(events) > 1 {
		return fmt.Errorf("%d parked events have the id %s: give the position of one instead, as `tidemark parked show %s` prints it", len(events), cell(id), cell(id))
	}
	value := events[0].Event.Value
	if value == nil {
		return errors.New("the payload is null (a tombstone), so there is nothing to print")
	}
	_, err := a.stdout.Write(value)
	return err
}

func stateText(s park.State, behind bool) string {
	if s == park.Waiting && behind {
		return "behind"
	}
	return s.String()
}

func valueText(e *park.Event) string {
	if e.ValueBytes == park.NullValue {
		return "null"
	}
	n := int64(e.ValueBytes)
	return bytesText(&n)
}
