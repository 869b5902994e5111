package main

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tidemark/tidemark/test/ledger"
	"github.com/tidemark/tidemark/test/trial"
)

// fault is one way to break what tidemark stands between.
type fault struct {
	Name string
	What string
	// Inject breaks something. What heal mends afterwards is broken for as long as Hold; without heal it mends itself.
	Inject func(ctx context.Context, s *stack) (heal func() error, err error)
	Hold   time.Duration
	// Prepare changes the stack before the first start. An error that wraps errSkip says why the trial cannot be run here.
	Prepare func(ctx context.Context, s *stack) error
	// Load changes what is written. Finish is called when nothing is written any more, before the ledger judges.
	Load   func(s *stack, l *trial.Load)
	Finish func(ctx context.Context, s *stack) error

	Three bool // on a cluster of three brokers
	// Pair names the version of Postgres of which the trial has a primary with a synchronous standby for itself.
	Pair string

	Quick bool          // part of a short run,
	Short time.Duration // where it is repeated for so long, and injected once at least
	Alone bool          // not to be mixed with others
	Exits string        // why tidemark may end by itself, with status 1, until the fault is healed,
	Says  []string      // and what its last word has to contain then
	Twice string        // why events may arrive twice
	Late  string        // why events may arrive behind later ones of other keys
	Apart string        // with exactly_once: why events may be in another Kafka transaction than those that they were committed with

	Once      bool             // it cannot be repeated
	Refused   bool             // tidemark must end with status 3, once a time at least, and no other
	Tolerated []ledger.Finding // besides that
}

// errSkip marks why a trial cannot be run here.
var errSkip = errors.New("skipped")

func skip(why string) error { return fmt.Errorf("%w: %s", errSkip, why) }

// faults are all that there are.
func faults() []fault {
	all := slices.Concat(processFaults(), kafkaFaults(), postgresFaults(), machineFaults(), poisonFaults(), messageFaults(), clusterFaults(), whereFaults())
	return append(all, mixed(all))
}

// mixed draws from all others.
func mixed(all []fault) fault {
	all = slices.DeleteFunc(slices.Clone(all), func(f fault) bool { return f.Alone || f.Three || f.Prepare != nil })
	return fault{
		Name: "mixed", What: "all of them that can be mixed, drawn at random", Quick: true, Short: 15 * time.Second, Alone: true,
		Inject: func(ctx context.Context, s *stack) (func() error, error) {
			f := all[s.rng.IntN(len(all))]
			s.drawn = append(s.drawn, f.Name)
			heal, err := f.Inject(ctx, s)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.Name, err)
			}
			s.hold(ctx, f.Hold)
			if heal == nil {
				return nil, nil
			}
			if err := heal(); err != nil {
				return nil, fmt.Errorf("heal %s: %w", f.Name, err)
			}
			return nil, nil
		},
	}
}

// patience is how long nothing may arrive before what is missing counts as lost.
const patience = time.Minute

// result is what one trial has shown.
type result struct {
	Fault      string   `json:"fault"`
	What       string   `json:"what"`
	Skipped    string   `json:"skipped,omitempty"`
	Injections int      `json:"injections"`
	Seconds    float64  `json:"seconds"`
	Rows       int      `json:"rows"` // written, rolled back ones included
	Committed  int      `json:"committed"`
	RolledBack int      `json:"rolled_back"`
	Lost       int      `json:"lost"`
	Doubled    int      `json:"doubled"`
	Misordered int      `json:"misordered"`
	Phantom    int      `json:"phantom"`
	Torn       int      `json:"torn"`  // with exactly_once: outside the Kafka transaction of the others of its database transaction
	Other      int      `json:"other"` // damaged records, positions that change or go backward
	Moved      int      `json:"moved"` // keys in more than one partition
	Dead       int      `json:"dead_letters,omitempty"`
	Discarded  int      `json:"discarded,omitempty"`
	Again      int      `json:"again,omitempty"` // arrived in a topic that is gone, and in the next one of its name
	Done       counts   `json:"done,omitempty"`  // what the trial did besides, and how often
	Suppressed int      `json:"suppressed"`      // duplicates that tidemark says it has recognized
	Exits      []string `json:"exits"`           // of processes that ended by themselves
	Recovery   recovery `json:"recovery"`
	Takeover   recovery `json:"takeover"` // where another instance or server took over: until it was at work
	Note       string   `json:"note,omitempty"`
	Broken     string   `json:"broken,omitempty"` // what promise, and how
}

// counts counts what a trial does.
type counts map[string]int

func (c counts) String() string {
	var parts []string
	for _, what := range slices.Sorted(maps.Keys(c)) {
		parts = append(parts, fmt.Sprintf("%d %s", c[what], what))
	}
	return strings.Join(parts, ", ")
}

// recovery is the time from the healing to the first event in Kafka that was written after it.
type recovery struct {
	Median float64 `json:"median_seconds"`
	Max    float64 `json:"max_seconds"`
}

func (r *report) runFaults(ctx context.Context, o *options, s *servers) {
	for i := range o.faults {
		if ctx.Err() != nil {
			return
		}
		f := &o.faults[i]
		fmt.Printf("%-22s ", f.Name)
		on := s
		if f.Three {
			var err error
			if on, err = s.clusterOf3(ctx); err != nil {
				r.Trials = append(r.Trials, result{Fault: f.Name, What: f.What, Exits: []string{}, Broken: "the trial cannot begin: " + err.Error()})
				continue
			}
		}
		t := runFault(ctx, o, on, f)
		r.Trials = append(r.Trials, t)
		fmt.Println(t.line())
		if err := on.restore(ctx); err != nil {
			r.Trials[len(r.Trials)-1].Broken += fmt.Sprintf("; the servers could not be restored: %v", err)
			return
		}
	}
}

// remark says what else there is to say.
func (t *result) remark() string {
	var parts []string
	for _, part := range []struct {
		n    int
		what string
	}{{len(t.Exits), "exits"}, {t.Dead, "dead letters"}, {t.Discarded, "discarded"}, {t.Again, "again in a new topic"}} {
		if part.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", part.n, part.what))
		}
	}
	if len(t.Done) > 0 {
		parts = append(parts, t.Done.String())
	}
	if t.Takeover.Max > 0 {
		parts = append(parts, fmt.Sprintf("taken over after %.1f s, %.1f s", t.Takeover.Median, t.Takeover.Max))
	}
	return strings.Join(parts, ", ")
}

// line is the result in one line.
func (t *result) line() string {
	if t.Skipped != "" {
		return "skipped: " + t.Skipped
	}
	line := fmt.Sprintf("%d×, %d committed, %d lost, %d doubled, %d misordered, %d phantom, %d torn, %d suppressed, recovery %.1f s (at most %.1f s)",
		t.Injections, t.Committed, t.Lost, t.Doubled, t.Misordered, t.Phantom, t.Torn, t.Suppressed, t.Recovery.Median, t.Recovery.Max)
	if remark := t.remark(); remark != "" {
		line += ", " + remark
	}
	if t.Broken != "" {
		line += "\n  BROKEN: " + t.Broken
	}
	return line
}

// sub derives a seed for a name.
func sub(seed uint64, name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

// runFault runs one trial. What goes wrong with the trial itself is in the result, too.
func runFault(ctx context.Context, o *options, s *servers, f *fault) (t result) {
	t = result{Fault: f.Name, What: f.What, Exits: []string{}}
	stack, err := newStack(ctx, s, f.Name, f.Pair, sub(o.seed, f.Name))
	if err != nil {
		t.Broken = "the trial cannot begin: " + err.Error()
		return t
	}
	defer stack.end(ctx, &t)
	if o.verbose {
		stack.Config.Output = prefixed(f.Name)
	}
	if f.Prepare != nil {
		if err := f.Prepare(ctx, stack); errors.Is(err, errSkip) {
			t.Skipped = strings.TrimPrefix(err.Error(), errSkip.Error()+": ")
			return t
		} else if err != nil {
			t.Broken = "the trial cannot begin: " + err.Error()
			return t
		}
	}
	began := time.Now()
	times, err := stack.inject(ctx, o, f, &t)
	if err != nil {
		t.Broken = err.Error()
	}
	t.Seconds = time.Since(began).Seconds()
	t.Recovery = summarize(times)
	stack.judge(ctx, f, &t)
	return t
}

// end leaves nothing of a trial running, and no slot: the server has room for few.
func (s *stack) end(ctx context.Context, t *result) {
	s.close()
	if s.pair != nil { // its servers are gone, and the slot with them
		return
	}
	if err := s.dropSlot(ctx); err != nil && t.Broken == "" {
		t.Broken = "the trial leaves its slot behind, and the next ones cannot make theirs: " + err.Error()
	}
}

func (s *stack) close() {
	s.killAll()
	if s.writers != nil {
		_ = s.writers.Stop()
	}
	s.Close()
	for _, do := range s.cleanup {
		do()
	}
}

// dropSlot drops the slot of a trial that is over.
func (s *stack) dropSlot(ctx context.Context) error {
	return trial.Await(ctx, "the slot is dropped", time.Minute, func() (bool, error) {
		var left int
		err := s.Query(ctx, []any{&left}, `select count(*) from pg_replication_slots where slot_name = $1`, s.Config.Slot)
		if err != nil || left == 0 {
			return err == nil, nil //nolint:nilerr // the server may still be coming back
		}
		_ = s.Exec(ctx, "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active_pid is not null", s.Config.Slot)
		_ = s.Exec(ctx, "select pg_drop_replication_slot($1)", s.Config.Slot) // not yet, if it is still active: tried again
		return false, nil
	})
}

// inject breaks and heals, again and again, while writers write.
func (s *stack) inject(ctx context.Context, o *options, f *fault, t *result) (recoveries []time.Duration, err error) {
	first := s.start(ctx)
	if err := first.ready(ctx); err != nil {
		return nil, err
	}
	load := trial.Load{Writers: 6, Rate: o.rate, Seed: s.rng.Uint64()}
	if f.Load != nil {
		f.Load(s, &load)
	}
	s.writers = s.Write(ctx, load)
	length := o.length
	if o.short {
		length = min(length, f.Short)
	}
	for end := time.Now().Add(length); t.Injections == 0 || (!f.Once && time.Now().Before(end)); {
		s.hold(ctx, s.between(500*time.Millisecond, 2*time.Second))
		heal, err := f.Inject(ctx, s)
		if err != nil {
			return recoveries, fmt.Errorf("inject: %w", err)
		}
		t.Injections++
		s.hold(ctx, f.Hold)
		if heal != nil {
			if err := heal(); err != nil {
				return recoveries, fmt.Errorf("heal: %w", err)
			}
		}
		healed := time.Now()
		took, err := s.awaitArrival(ctx, healed)
		if err != nil {
			return recoveries, err
		}
		recoveries = append(recoveries, took)
	}
	return recoveries, nil
}

// awaitArrival waits until an event has arrived that was not yet written at a moment, and returns how long that took.
func (s *stack) awaitArrival(ctx context.Context, since time.Time) (time.Duration, error) {
	registered := s.Ledger.Registered()
	err := trial.Await(ctx, "new events arrive", 2*time.Minute, func() (bool, error) {
		return s.Ledger.ArrivedSince(registered), nil
	})
	if err != nil {
		return 0, fmt.Errorf("it does not recover: %w%s", err, s.lastWords())
	}
	return time.Since(since), nil
}

// lastWords is the end of the log of each instance.
func (s *stack) lastWords() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var text strings.Builder
	for n, i := range s.instances {
		if relay := i.process(); relay != nil {
			_, _ = fmt.Fprintf(&text, "\ninstance %d: …%s", n, end(relay.Log(), 1500)) // never fails
		}
	}
	return text.String()
}

// judge ends the writers, waits for what is still to come, ends tidemark and holds the ledger against what was promised.
func (s *stack) judge(ctx context.Context, f *fault, t *result) {
	broken := func(err error) {
		if err != nil {
			t.Broken = strings.TrimPrefix(t.Broken+"; "+err.Error(), "; ")
		}
	}
	if s.writers != nil {
		broken(s.writers.Stop())
		t.Rows = s.writers.Rows()
	}
	if f.Finish != nil && t.Broken == "" {
		broken(f.Finish(ctx, s))
	}
	limit, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	v, err := s.Judge(limit, patience)
	broken(err)
	t.Suppressed = s.suppressed()
	if len(s.drawn) > 0 {
		t.Note = "drawn were " + strings.Join(s.drawn, ", ")
	}
	if t.Broken == "" { // else nobody knows in which state they are
		broken(s.endAll())
		v, err = s.Judge(limit, patience) // with what was still to come
		broken(err)
	}
	t.Committed, t.RolledBack, t.Moved = v.Committed, v.RolledBack, v.Moved
	t.Torn = v.Count(ledger.Torn)
	t.Dead, t.Discarded, t.Again, t.Done = v.Dead, v.Discarded, v.Again, s.done
	t.Lost, t.Doubled, t.Misordered, t.Phantom = v.Count(ledger.Lost), v.Count(ledger.Doubled), v.Count(ledger.Misordered), v.Count(ledger.Phantom)
	for _, finding := range []ledger.Finding{ledger.Astray, ledger.Damaged, ledger.Backward, ledger.Unstable, ledger.Skipped} {
		t.Other += v.Count(finding)
	}
	s.mu.Lock()
	t.Exits = append(t.Exits, s.exits...)
	s.mu.Unlock()
	if len(s.takeovers) > 0 {
		t.Takeover = summarize(s.takeovers)
	}
	tolerated := f.Tolerated
	if f.Twice != "" {
		tolerated = append(tolerated, ledger.Doubled)
		t.Note = f.Twice
	}
	if f.Late != "" {
		tolerated = append(tolerated, ledger.Backward)
		t.Note = f.Late
	}
	if f.Apart != "" && s.mode == exactlyOnce {
		tolerated = append(tolerated, ledger.Torn)
		t.Note = strings.TrimPrefix(t.Note+"; "+f.Apart, "; ")
	}
	broken(v.Err(tolerated...))
	switch {
	case f.Refused:
		if len(t.Exits) < t.Injections {
			broken(errors.New("it was not refused"))
		}
		for _, exit := range t.Exits {
			if !strings.HasPrefix(exit, "exit status 3:") {
				broken(fmt.Errorf("it ended by itself: %s", exit))
			}
		}
	case f.Exits != "":
		t.Note = f.Exits
		for _, exit := range t.Exits {
			said := strings.HasPrefix(exit, "exit status 1:")
			for _, word := range f.Says {
				said = said && strings.Contains(exit, word)
			}
			if !said {
				broken(fmt.Errorf("it ended by itself: %s", exit))
			}
		}
	case len(t.Exits) > 0:
		broken(fmt.Errorf("it ended by itself %d times: %s", len(t.Exits), t.Exits[0]))
	}
}

func summarize(times []time.Duration) recovery {
	if len(times) == 0 {
		return recovery{}
	}
	slices.Sort(times)
	return recovery{Median: times[len(times)/2].Seconds(), Max: times[len(times)-1].Seconds()}
}
