package cli

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/park"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

func (a *app) parkedCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "parked",
		Short: "List, show, release or discard events that could not be published",
		Long: `parked deals with the events that could not be published under delivery.on_poison: park. They are in the table
public.tidemark_parked of the source's database, each with the reason. So that the order of its key holds, a parked
event holds up the later events of its key (the same key in the same topic): they are parked behind it.

The way out: see what is wrong (list, show), mend it (the topic's limit, an authorization, ...), then release the event,
and it is published together with what waits behind it. If it must never be published, discard it; what waits behind it
goes on without it.

The commands only change the table. A running relay acts within about a second, one that is started later then.`,
		Example: `  tidemark parked list
  tidemark parked show 5f2c…
  tidemark parked release 5f2c…`,
	}
	source := command.PersistentFlags().String("source", "", "act on the events of this source, as the header tidemark-source names it (default: the configured one)")
	command.AddCommand(
		a.parkedListCommand(source),
		a.parkedShowCommand(source),
		a.parkedReleaseCommand(source),
		a.parkedDiscardCommand(source),
	)
	return command
}

func (a *app) parkedListCommand(source *string) *cobra.Command {
	var asJSON bool
	var limit int
	command := &cobra.Command{
		Use:   "list",
		Short: "List the parked events, those that wait for a decision first",
		Long: `list prints a line for each parked event, without its payload: first those that wait for a decision, with the reason,
then those that wait behind them or are on their way, both oldest first.`,
		Example: "  tidemark parked list\n  tidemark parked list --limit 0 --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return &usageError{fmt.Errorf("--limit %d: give 0 for all, or a number above it", limit)}
			}
			report, err := a.listParked(cmd.Context(), *source, limit)
			if err != nil {
				return err
			}
			if asJSON {
				return a.printJSON(report)
			}
			return a.printParked(report)
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	command.Flags().IntVar(&limit, "limit", 100, "print at most so many events; 0: all")
	return command
}

func (a *app) parkedShowCommand(source *string) *cobra.Command {
	var asJSON, payload bool
	command := &cobra.Command{
		Use:   "show ID",
		Short: "Show everything about a parked event",
		Long: `show prints what is known of the parked event with that id, headers included. The payload is left out unless --payload
is given: that prints the payload, byte for byte, and nothing else; with --json it is part of the object.

Instead of the id its position will do, as list prints it. It is needed where several parked events share an id.`,
		Example: "  tidemark parked show 5f2c…\n  tidemark parked show 5f2c… --payload > payload.json",
		Args:    oneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.load()
			if err != nil {
				return err
			}
			store, err := openParked(cmd.Context(), c, *source)
			if err != nil {
				return err
			}
			defer store.Close()
			events, err := store.Show(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				return a.printJSON(showParked(events, payload))
			case payload:
				return a.printPayload(args[0], events)
			}
			return a.printParkedEvents(events)
		},
	}
	command.Flags().BoolVar(&asJSON, "json", false, "print one JSON array")
	command.Flags().BoolVar(&payload, "payload", false, "print the payload")
	return command
}

func (a *app) parkedReleaseCommand(source *string) *cobra.Command {
	var key string
	var all bool
	command := &cobra.Command{
		Use:   "release [ID]",
		Short: "Let parked events be published",
		Long: `release frees a parked event, all parked events of a key, or all there are. The relay publishes them, and what waits
behind them, in the order of each key. What still cannot be published is parked again, with the new reason.

An event is not released while an earlier one of its key waits for a decision: the order of the key would be lost.

Instead of the id its position will do, as list prints it. --key takes the key's text, or \x and hex digits, as list
prints it, and means that key in every topic. An event without a key is released by its id, or with --all.`,
		Example: "  tidemark parked release 5f2c…\n  tidemark parked release --key order-17\n  tidemark parked release --all",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			byKey := cmd.Flags().Changed("key")
			if len(args) == 1 && args[0] == "" {
				return &usageError{errors.New("the ID is empty (see tidemark parked release --help)")}
			}
			if given := len(args) + btoi(byKey) + btoi(all); given != 1 {
				return &usageError{errors.New("give one of ID, --key KEY and --all (see tidemark parked release --help)")}
			}
			c, _, err := a.load()
			if err != nil {
				return err
			}
			store, err := openParked(cmd.Context(), c, *source)
			if all && park.IsNoTable(err) {
				a.printf("Nothing is parked.\n")
				return nil
			}
			if err != nil {
				return err
			}
			defer store.Close()
			return a.release(cmd.Context(), store, args, byKey, key)
		},
	}
	command.Flags().StringVar(&key, "key", "", "release all parked events of this key, in every topic")
	command.Flags().BoolVar(&all, "all", false, "release all parked events")
	return command
}

func (a *app) release(ctx context.Context, store *park.Store, args []string, byKey bool, key string) error {
	var n int64
	var err error
	switch {
	case len(args) == 1:
		if err = store.Release(ctx, args[0]); err == nil {
			a.printf("Released: %s, with what waits behind it.\n", cell(args[0]))
		}
	case byKey:
		if n, err = store.ReleaseKey(ctx, key); err == nil {
			a.printf("Released: %s of key %s, with what waits behind.\n", counted(n), cell(key))
		}
	default:
		if n, err = store.ReleaseAll(ctx); err == nil {
			a.printf("Released: %s, with what waits behind.\n", counted(n))
		}
	}
	if err != nil {
		return err
	}
	a.printf("A running relay publishes it within about a second, else the next `tidemark run` does.\n" +
		"`tidemark parked list` shows what is still there, and what could not be published again.\n")
	return nil
}

func (a *app) parkedDiscardCommand(source *string) *cobra.Command {
	var yes bool
	command := &cobra.Command{
		Use:   "discard ID --yes",
		Short: "Remove a parked event for good; it will never be published",
		Long: `discard removes a parked event from the table. It will never reach Kafka, and what waits behind it goes on without it.
Without --yes it changes nothing, says what would be lost and ends with exit status 3.

It is about one event, never about a key or all: those that wait behind it have nothing wrong with them. Instead of the
id its position will do, as list prints it. An event that was handed over already cannot be discarded.

It waits for some seconds until the stored checkpoint is past the event, and fails if that does not come: a relay that
goes on from before the event would park it again.`,
		Example: "  tidemark parked discard 5f2c…         # says what would be lost\n  tidemark parked discard 5f2c… --yes",
		Args:    oneID,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, _, err := a.load()
			if err != nil {
				return err
			}
			store, err := openParked(cmd.Context(), c, *source)
			if err != nil {
				return err
			}
			defer store.Close()
			if !yes {
				return wouldDiscard(cmd.Context(), store, args[0])
			}
			if err := awaitStoredPast(cmd.Context(), c, *source, store, args[0]); err != nil {
				return err
			}
			if err := store.Discard(cmd.Context(), args[0]); err != nil {
				return err
			}
			a.printf("Discarded for good: %s.\nWhat waited behind it alone is published by a running relay within about a second, else by the next `tidemark run`.\n", cell(args[0]))
			return nil
		},
	}
	command.Flags().BoolVar(&yes, "yes", false, "do it")
	return command
}

// storedPatience is how long the stored checkpoint may take to pass an event that is parked: a relay stores it within a second.
const storedPatience = 5 * time.Second

// awaitStoredPast waits until the stored checkpoint is past the event of that id. Before that its row in the table is what
// tells a successor of the relay, which reads the event again, that it was dealt with.
func awaitStoredPast(ctx context.Context, c *config.Config, source string, parked *park.Store, id string) error {
	events, err := parked.Show(ctx, id)
	if err != nil || len(events) > 1 { // which Discard has something to say about
		return err
	}
	at := events[0].Event.Position
	store, err := checkpointStore(c)
	if err != nil {
		return err
	}
	defer store.Close()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(storedPatience); ; {
		stored, err := store.Load(ctx)
		if err != nil {
			return err
		}
		if stored == nil || (source != "" && source != stored.SystemIdentifier+"/"+stored.Database+"/"+stored.Slot) { // nobody goes on from there
			return nil
		}
		if stored.State == checkpoint.Streaming && stored.LSN > checkpoint.LSN(at.Commit) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the stored checkpoint, at %s, is not past the event at position %s: a relay that goes on from there would park it again; "+
				"see that a relay runs, and what holds it up (tidemark status), and try again", stored.LSN, at)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// wouldDiscard returns the refusal that says what would be lost.
func wouldDiscard(ctx context.Context, store *park.Store, id string) error {
	events, err := store.Show(ctx, id)
	if err != nil {
		return err
	}
	var what []string
	for i := range events {
		e := &events[i]
		reason := e.Reason
		if e.Behind {
			reason = "nothing is wrong with it"
		}
		what = append(what, fmt.Sprintf("event %s of %s at position %s, topic %s, key %s, payload %s, committed %s (%s)",
			cell(e.Event.ID), cell(e.Event.Table), e.Event.Position, cell(e.Event.Topic), keyCell(e.Event.Key), valueText(e), e.Event.CommitTime.Format(time.RFC3339), reason))
	}
	hint := "Nothing is changed. Add --yes to discard it"
	if len(events) > 1 {
		hint = "Nothing is changed. Several events have this id: give the position of the one that is meant"
	}
	return &loss{fmt.Errorf("discarding means that this is never published: %s. %s", strings.Join(what, "; "), hint)}
}

// loss is a refusal: going on would lose an event.
type loss struct{ err error }

func (l *loss) Error() string { return l.err.Error() }
func (l *loss) Unwrap() error { return l.err }
func (l *loss) Refused() bool { return true }

// openParked opens the table of parked events, which it does not create. An empty source is the configured one, whose
// name takes the source's system identifier.
func openParked(ctx context.Context, c *config.Config, source string) (*park.Store, error) {
	if source == "" {
		var err error
		if source, err = configuredSource(ctx, c); err != nil {
			return nil, err
		}
	}
	return park.OpenExisting(ctx, string(c.Source.AdminDSN), source)
}

// configuredSource returns the text of the header tidemark-source.
func configuredSource(ctx context.Context, c *config.Config) (string, error) {
	conn, err := wal.Connect(ctx, sourceOptions(c))
	if err != nil {
		return "", fmt.Errorf("%w (needed for the source's name, unless --source gives it)", err)
	}
	defer conn.Close()
	return relay.SourceName(conn.System, c.Source.Slot), nil
}

// parkedReport is what `tidemark parked list --json` prints.
type parkedReport struct {
	Source string           `json:"source"`
	Total  int64            `json:"total"` // also those that the limit has left out
	Tally  park.Tally       `json:"tally"`
	Events []parkedEvent    `json:"events"`
	Others map[string]int64 `json:"other_sources,omitempty"` // events in the table that are not this source's
}

// parkedEvent is a parked event in JSON.
type parkedEvent struct {
	Position     string           `json:"position"`
	ID           string           `json:"id"`
	Table        string           `json:"table"`
	Topic        string           `json:"topic"`
	Key          *string          `json:"key"` // null is a null key; \x and hex digits if it is no text, or one that begins so
	State        park.State       `json:"state"`
	Behind       bool             `json:"behind"` // nothing is wrong with it: it waits behind an earlier event of its key
	Reason       string           `json:"reason"`
	CommittedAt  time.Time        `json:"committed_at"`
	ParkedAt     time.Time        `json:"parked_at"`
	PayloadBytes *int             `json:"payload_bytes"` // null is a null payload
	Details      *parkedEventRest `json:"details,omitempty"`
}

// parkedEventRest is what `show` adds. Values are text, or else \x and hex digits.
type parkedEventRest struct {
	Partition *int32          `json:"partition"` // null: by the key
	Timestamp time.Time       `json:"timestamp"`
	Headers   []parkedHeader  `json:"headers"`
	Floor     map[int32]int64 `json:"floor,omitempty"` // if it is in Kafka, then at one of these offsets or later
	Payload   *parkedPayload  `json:"payload,omitempty"`
}

type parkedHeader struct {
	Key   string  `json:"key"`
	Value *string `json:"value"`
}

// parkedPayload has one of its fields; none if the payload is null.
type parkedPayload struct {
	Text   *string `json:"text,omitempty"`   // if it is valid UTF-8
	Base64 []byte  `json:"base64,omitempty"` // else
}

func (a *app) listParked(ctx context.Context, source string, limit int) (*parkedReport, error) {
	c, _, err := a.load()
	if err != nil {
		return nil, err
	}
	if source == "" {
		if source, err = configuredSource(ctx, c); err != nil {
			return nil, err
		}
	}
	report := &parkedReport{Source: source, Events: []parkedEvent{}}
	store, err := park.OpenExisting(ctx, string(c.Source.AdminDSN), source)
	if park.IsNoTable(err) {
		return report, nil
	}
	if err != nil {
		return nil, err
	}
	defer store.Close()
	return report, report.read(ctx, store, limit)
}

// read fills the report with at most so many events; 0: all.
func (r *parkedReport) read(ctx context.Context, store *park.Store, limit int) (err error) {
	if r.Tally, err = store.Tally(ctx); err != nil {
		return err
	}
	r.Total = r.Tally.Total()
	events, err := store.List(ctx, limit)
	if err != nil {
		return err
	}
	for i := range events {
		r.Events = append(r.Events, newParkedEvent(&events[i]))
	}
	r.Others, err = store.Others(ctx)
	return err
}

func newParkedEvent(e *park.Event) parkedEvent {
	out := parkedEvent{
		Position: e.Event.Position.String(), ID: e.Event.ID, Table: e.Event.Table, Topic: e.Event.Topic, Key: textOrHex(e.Event.Key),
		State: e.State, Behind: e.Behind, Reason: e.Reason, CommittedAt: e.Event.CommitTime, ParkedAt: e.ParkedAt,
	}
	if e.ValueBytes != park.NullValue {
		out.PayloadBytes = &e.ValueBytes
	}
	return out
}

func showParked(events []park.Event, payload bool) []parkedEvent {
	out := make([]parkedEvent, len(events))
	for i := range events {
		e := &events[i]
		rest := &parkedEventRest{Timestamp: e.Event.Timestamp, Floor: e.Floor, Headers: []parkedHeader{}}
		if e.Event.Partition != decode.AnyPartition {
			rest.Partition = &e.Event.Partition
		}
		for _, h := range e.Event.Headers {
			rest.Headers = append(rest.Headers, parkedHeader{h.Key, textOrHex(h.Value)})
		}
		if payload {
			rest.Payload = newParkedPayload(e.Event.Value)
		}
		out[i] = newParkedEvent(e)
		out[i].Details = rest
	}
	return out
}

func newParkedPayload(value []byte) *parkedPayload {
	switch {
	case value == nil:
		return &parkedPayload{}
	case utf8.Valid(value):
		text := string(value)
		return &parkedPayload{Text: &text}
	default:
		return &parkedPayload{Base64: value}
	}
}

// textOrHex returns bytes as one text that stands for nothing else; nil is nil.
func textOrHex(b []byte) *string {
	if b == nil {
		return nil
	}
	text := string(b)
	if !utf8.Valid(b) || strings.HasPrefix(text, `\x`) {
		text = `\x` + hex.EncodeToString(b)
	}
	return &text
}

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

// oneID takes the one argument that tells an event.
func oneID(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 0 || args[0] == "":
		return errors.New("give the ID of a parked event, or its position")
	case len(args) > 1:
		return fmt.Errorf("unexpected argument %q", args[1])
	}
	return nil
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

// keyCell is cell for bytes that may be null or no text.
func keyCell(b []byte) string {
	text := textOrHex(b)
	if text == nil {
		return "(null)"
	}
	return cell(*text)
}

// cell returns a text that a table can hold, and that cannot be taken for another.
func cell(s string) string {
	odd := func(r rune) bool { return r == '"' || r == ' ' || !unicode.IsPrint(r) }
	if s == "" || s == "(null)" || strings.ContainsFunc(s, odd) || !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	return s
}

// oneLine returns a text without what would break a line, and of at most so many runes if most is not negative.
func oneLine(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }), " ")
	if runes := []rune(s); most >= 0 && len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return s
}

// ageText is about how long ago that was.
func ageText(t time.Time) string {
	age := max(time.Since(t), 0)
	switch {
	case age < time.Minute:
		return fmt.Sprintf("%ds", int(age.Seconds()))
	case age < time.Hour:
		return fmt.Sprintf("%dm", int(age.Minutes()))
	case age < 48*time.Hour:
		return fmt.Sprintf("%dh", int(age.Hours()))
	default:
		return fmt.Sprintf("%dd", int(age.Hours()/24))
	}
}

func counted(n int64) string {
	if n == 1 {
		return "1 event"
	}
	return fmt.Sprintf("%d events", n)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
