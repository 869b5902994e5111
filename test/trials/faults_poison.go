package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tidemark/tidemark/test/ledger"
	"github.com/tidemark/tidemark/test/trial"
)

// poisonFaults have rows that cannot be published among good ones, under each policy, while tidemark is killed.
func poisonFaults() []fault {
	return []fault{
		{
			Name: "poison_stop", Alone: true,
			What:  "rows above the topic's limit, on_poison: stop; SIGKILL while it ends and is started again and again, until the limit is raised",
			Exits: "it stops, as on_poison: stop says, until the limit is raised", Says: []string{"cannot be published", "Mend the cause and start again"},
			Prepare: limitTopics("stop"), Inject: stopAtPoison, Finish: raiseLimits,
		},
		{
			Name: "poison_dead_letter", Alone: true,
			What:    "rows above the topic's limit or for an invalid topic, on_poison: dead_letter; SIGKILL at random moments, and the limit falls below good rows for a while",
			Prepare: limitTopics("dead_letter"), Inject: killAmongPoison, Load: somePoison,
		},
		{
			Name: "poison_park", Alone: true,
			What:    "the same with on_poison: park; an operator raises the limit, releases by id, by key or all, and discards, between the kills",
			Late:    "a parked event is published when it is released, behind later ones of other keys",
			Apart:   "with exactly_once, a parked event is torn from those that it was committed with: it is published when it is released, and they were published before",
			Prepare: limitTopics("park"), Inject: operateParked, Load: someHuge, Finish: emptyTheLot,
		},
	}
}

const (
	tightLimit   = "20000" // good rows pass, huge ones do not
	tighterLimit = "1500"  // not even all good ones do
	wideLimit    = "8000000"
)

// limitTopics creates the topics with a limit.
func limitTopics(policy string) func(context.Context, *stack) error {
	return func(ctx context.Context, s *stack) error {
		s.Config = s.Config.With("TIDEMARK_DELIVERY_ON_POISON", policy)
		limit := tightLimit
		created, err := s.admin.CreateTopics(ctx, 3, -1, map[string]*string{"max.message.bytes": &limit}, s.Topics()...)
		if err == nil {
			err = created.Error()
		}
		if err != nil {
			return fmt.Errorf("create the topics: %w", err)
		}
		return nil
	}
}

func raiseLimits(ctx context.Context, s *stack) error {
	return s.setLimit(ctx, wideLimit, s.Topics()...)
}

// stopAtPoison writes one row that is too large, kills tidemark in its repeated attempts, and raises the limit.
func stopAtPoison(ctx context.Context, s *stack) (func() error, error) {
	if err := s.setLimit(ctx, tightLimit, s.Topics()...); err != nil {
		return nil, err
	}
	before := s.countExits()
	s.writers.WriteHuge()
	again := time.Now().Add(5 * time.Second)
	err := trial.Await(ctx, "it stops at the row that is too large", time.Minute, func() (bool, error) {
		if time.Now().After(again) { // that one may have been rolled back
			again = time.Now().Add(5 * time.Second)
			s.writers.WriteHuge()
		}
		return s.countExits() > before, nil
	})
	if err != nil {
		return nil, err
	}
	for range s.rng.IntN(4) {
		s.hold(ctx, s.between(0, time.Second))
		if err := s.instances[0].kill(); err != nil {
			return nil, err
		}
		s.done["kills"]++
	}
	return func() error { return raiseLimits(ctx, s) }, nil
}

func (s *stack) countExits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.exits)
}

// someHuge makes one row in a hundred too large.
func someHuge(_ *stack, l *trial.Load) { l.Oversize = 0.01 }

// somePoison does, too, and adds an invalid topic.
func somePoison(s *stack, l *trial.Load) {
	l.Oversize, l.Place = 0.01, placeDeadLetters
	l.More = []string{s.Types[0] + "/invalid"}
}

// placeDeadLetters is where the rows of somePoison have to be: those between the two limits could be published or not.
func placeDeadLetters(topic string, size int) ledger.Place {
	switch {
	case strings.HasSuffix(topic, "/invalid"), size > 20_000:
		return ledger.InDeadLetters
	case size > 1_000:
		return ledger.InEither
	default:
		return ledger.InTopic
	}
}

// killAmongPoison kills tidemark, every third time while the broker refuses some good rows.
func killAmongPoison(ctx context.Context, s *stack) (func() error, error) {
	lowered := s.rng.IntN(3) == 0
	if lowered {
		s.done["times the limit fell"]++
		if err := s.setLimit(ctx, tighterLimit, s.Topics()...); err != nil {
			return nil, err
		}
		s.hold(ctx, s.between(0, 2*time.Second))
	}
	i, err := s.active(ctx)
	if err != nil {
		return nil, err
	}
	if err := i.kill(); err != nil {
		return nil, err
	}
	s.hold(ctx, s.between(0, time.Second))
	if !lowered {
		return nil, nil
	}
	return func() error { return s.setLimit(ctx, tightLimit, s.Topics()...) }, nil
}

// parkedEvent is one of `tidemark parked list --json`.
type parkedEvent struct {
	Position string `json:"position"`
	ID       string `json:"id"`
	Topic    string `json:"topic"`
	Key      string `json:"key"`
	State    string `json:"state"`
	Behind   bool   `json:"behind"`
}

// parked lists the first events that wait for a decision, and says how many are parked in all.
func (s *stack) parked(ctx context.Context) (waiting []parkedEvent, total int, err error) {
	text, err := trial.Command(ctx, s.Config, "parked", "list", "--json", "--limit", "200")
	if err != nil {
		return nil, 0, err
	}
	var list struct {
		Total  int           `json:"total"`
		Events []parkedEvent `json:"events"`
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, 0, fmt.Errorf("read the list of parked events: %w", err)
	}
	return slices.DeleteFunc(list.Events, func(e parkedEvent) bool { return e.State != "waiting" || e.Behind }), list.Total, nil
}

// operateParked is an operator at work, with SIGKILLs at random moments of it.
func operateParked(ctx context.Context, s *stack) (func() error, error) {
	kill := func() error {
		s.hold(ctx, s.between(0, time.Second))
		i, err := s.active(ctx)
		if err != nil {
			return err
		}
		s.done["kills"]++
		return i.kill()
	}
	waiting, _, err := s.parked(ctx)
	if err != nil || len(waiting) == 0 {
		return nil, err
	}
	mended := s.rng.IntN(2) == 0 // else what is released comes back
	if mended {
		if err := raiseLimits(ctx, s); err != nil {
			return nil, err
		}
	}
	for range 1 + s.rng.IntN(3) {
		if err := s.decide(ctx, waiting[s.rng.IntN(len(waiting))]); err != nil {
			return nil, err
		}
		if s.rng.IntN(2) == 0 {
			if err := kill(); err != nil {
				return nil, err
			}
		}
	}
	if err := kill(); err != nil {
		return nil, err
	}
	return func() error { return s.setLimit(ctx, tightLimit, s.Topics()...) }, nil
}

// decide releases or discards. That the list is not of this moment, and an event gone or behind another one by now, is no
// error.
func (s *stack) decide(ctx context.Context, e parkedEvent) error {
	what, args := "releases", []string{"release", e.Position}
	switch s.rng.IntN(5) {
	case 0:
		what, args = "releases of all", []string{"release", "--all"}
	case 1:
		what, args = "releases of a key", []string{"release", "--key", e.Key}
	case 2:
		what, args = "discards", []string{"discard", e.Position, "--yes"}
	}
	_, err := trial.Command(ctx, s.Config, append([]string{"parked"}, args...)...)
	switch {
	case err == nil && what == "discards":
		s.done[what]++
		return s.Ledger.Discarded(e.ID)
	case err == nil:
		s.done[what]++
		return nil
	case strings.Contains(err.Error(), "no such event is parked"), strings.Contains(err.Error(), "no event of this key is parked"),
		strings.Contains(err.Error(), "it would overtake"), strings.Contains(err.Error(), "it was handed over"),
		strings.Contains(err.Error(), "would park it again"): // too early, or killed since
		s.done["decisions that came too late"]++
		return nil
	default:
		return err
	}
}

// emptyTheLot mends the cause, and releases everything until nothing is parked.
func emptyTheLot(ctx context.Context, s *stack) error {
	if err := raiseLimits(ctx, s); err != nil {
		return err
	}
	total := 0
	err := trial.Await(ctx, "nothing is parked any more", 3*time.Minute, func() (done bool, err error) {
		if _, total, err = s.parked(ctx); err != nil || total == 0 {
			return total == 0 && s.Ledger.Missing("") == 0, err
		}
		_, err = trial.Command(ctx, s.Config, "parked", "release", "--all")
		s.hold(ctx, 2*time.Second)
		return false, err
	})
	if err != nil {
		return fmt.Errorf("%d are parked: %w", total, err)
	}
	return nil
}
