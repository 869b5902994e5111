package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/test/ledger"
)

// testCase is one way to make a relay use memory.
type testCase struct {
	Name  string
	What  string
	Limit int64 // bytes
	// Run plays the case. Tidemark streams when it begins, and has the rest to do when it ends.
	Run func(ctx context.Context, s *stage) error
	// Prepare comes before the first start.
	Prepare func(ctx context.Context, s *stage) error

	Env       []string // names and values
	Brokers   int      // default 1
	Proxied   bool     // tidemark reaches the broker through a proxy
	Imitation bool     // of Kafka, in this process
}

const (
	megabyte = 1_000_000
	// limit is the promise for the default configuration.
	limit = 128 * megabyte
	// rowBytes is the size of the monstrous row; it may cost four times that.
	rowBytes = 50 * megabyte
	// bigLimit is max.message.bytes of a topic that takes it, a number such as people set it.
	bigLimit = 64 << 20
	// topics is how many there are where there are many.
	topics = 10_000
)

func cases() []testCase {
	return []testCase{
		{
			Name: "transaction", What: "one transaction of 1,000,000 rows of about 300 B", Limit: limit,
			Run: func(ctx context.Context, s *stage) error { return s.transaction(ctx, 1_000_000, s.small) },
		},
		{
			Name: "restart", What: "the same, with a SIGKILL halfway: the successor reads in Kafka what is there already", Limit: limit,
			Run: restart,
		},
		{
			Name: "row", What: "rows of 50 MB, one that compresses and two that do not, between small ones", Limit: 4 * rowBytes,
			Prepare: bigTopics, Run: bigRows,
		},
		{
			Name: "large", What: "2,000 rows of 100 KB to 4 MB, half of which compress, in transactions of 100", Limit: limit,
			Prepare: bigTopics, Run: largeRows,
		},
		{
			Name: "stuck", What: "one topic of ten has no leader for a while, under a transaction of 500,000 rows of about 300 B", Limit: limit,
			Brokers: 3, Prepare: tenTopics, Run: stuck,
		},
		{
			Name: "paused", What: "the broker answers nothing (SIGSTOP) for a while, under 2,000 rows/s of 300 B to 4 KB", Limit: limit,
			Run: func(ctx context.Context, s *stage) error {
				return away(ctx, s, func() error { return s.kafka.Pause(0) }, func() error { return s.kafka.Resume(0) })
			},
		},
		{
			Name: "killed", What: "the broker is killed and gone for a while, under 2,000 rows/s of 300 B to 4 KB", Limit: limit,
			Run: func(ctx context.Context, s *stage) error {
				return away(ctx, s, func() error { return s.kafka.Kill(0) }, func() error { return s.kafka.Start(ctx, 0) })
			},
		},
		{
			Name: "batches", What: "the same as paused, and the topics take records of 64 MiB, so that batches could grow to that", Limit: limit,
			Prepare: bigTopics,
			Run: func(ctx context.Context, s *stage) error {
				return away(ctx, s, func() error { return s.kafka.Pause(0) }, func() error { return s.kafka.Resume(0) })
			},
		},
		{
			Name: "topics", What: "10,000 topics, which tidemark creates, with a key each, and a SIGKILL between", Limit: limit,
			Env: []string{"TIDEMARK_KAFKA_CREATE_TOPICS_PARTITIONS", "1"}, Run: manyTopics,
		},
		{
			Name: "imitation", What: "the same on an imitation of Kafka (kfake), which answers at once", Limit: limit,
			Env: []string{"TIDEMARK_KAFKA_CREATE_TOPICS_PARTITIONS", "1"}, Run: manyTopics, Imitation: true,
		},
		{
			Name: "slow", What: "the broker is 400 ms away, under 2,000 rows/s of 300 B to 4 KB and a transaction of 200,000 rows of 300 B", Limit: limit,
			Proxied: true, Run: slow,
		},
	}
}

// restart kills tidemark in the middle of a transaction.
func restart(ctx context.Context, s *stage) error {
	const rows = 1_000_000
	if err := s.transaction(ctx, rows, s.small); err != nil {
		return err
	}
	if err := s.await(ctx, rows/2, 10*time.Minute); err != nil {
		return err
	}
	if err := s.kill(); err != nil {
		return err
	}
	return s.start(ctx)
}

// bigTopics makes topics that take a record of rowBytes.
func bigTopics(ctx context.Context, s *stage) error {
	bytes := strconv.Itoa(bigLimit)
	return s.createTopics(ctx, 3, map[string]*string{"max.message.bytes": &bytes})
}

func bigRows(ctx context.Context, s *stage) error {
	small := func(n int) error { return s.transaction(ctx, n, s.small) }
	big := func(compressible bool) error {
		return s.transaction(ctx, 1, func(int) row {
			return row{target: s.target(s.Types[0], "big"), bytes: rowBytes, compressible: compressible}
		})
	}
	return errors.Join(small(1000), big(false), small(100_000), big(true), big(false), small(1000))
}

// largeRows writes rows that are large and not monstrous.
func largeRows(ctx context.Context, s *stage) error {
	var errs []error
	for range 20 {
		errs = append(errs, s.transaction(ctx, 100, func(i int) row {
			aggregate := s.Types[s.rng.IntN(len(s.Types))]
			return row{target: s.target(aggregate, fmt.Sprintf("large-%d", i%10)), bytes: 100_000 + s.rng.IntN(3_900_000), compressible: s.rng.IntN(2) == 0}
		}))
	}
	return errors.Join(errs...)
}

// tenTopics puts one topic on the last broker, and nine on the others.
func tenTopics(ctx context.Context, s *stage) error {
	s.Types = nil
	for i := range 10 {
		s.Types = append(s.Types, fmt.Sprintf("type-%d", i))
	}
	return s.administer(func(client *kgo.Client) error {
		for i, topic := range s.Topics() {
			broker := int32(1 + i%2)
			if i == 0 {
				broker = 3
			}
			if err := placeTopic(ctx, client, topic, broker); err != nil {
				return err
			}
		}
		return nil
	})
}

// stuck kills a broker that leads one topic of ten.
func stuck(ctx context.Context, s *stage) error {
	const before, meanwhile = 1000, 500_000
	if err := errors.Join(s.transaction(ctx, before, s.small), s.await(ctx, before, time.Minute)); err != nil {
		return err
	}
	if err := s.kafka.Kill(2); err != nil {
		return err
	}
	err := s.transaction(ctx, meanwhile, s.small)
	s.hold(ctx, s.length)
	return errors.Join(err, s.kafka.Start(ctx, 2), s.await(ctx, before+meanwhile, 10*time.Minute))
}

// away writes at a steady rate, takes the broker away for a while and brings it back.
func away(ctx context.Context, s *stage, leave, back func() error) error {
	writers := s.Write(ctx, s.steady())
	s.hold(ctx, 5*time.Second)
	err := leave()
	if err == nil {
		s.hold(ctx, s.length)
		err = back()
	}
	s.hold(ctx, 5*time.Second)
	return errors.Join(err, writers.Stop())
}

// manyTopics writes to every topic, again and again, with a restart between.
func manyTopics(ctx context.Context, s *stage) error {
	s.Types = nil
	for i := range topics {
		s.Types = append(s.Types, fmt.Sprintf("type-%05d", i))
	}
	round := func() error {
		order := s.rng.Perm(topics)
		return s.transaction(ctx, topics, func(i int) row {
			aggregate := s.Types[order[i]]
			return row{target: s.target(aggregate, "key-of-"+aggregate), bytes: 300, compressible: i%2 == 0}
		})
	}
	if err := errors.Join(round(), round()); err != nil {
		return err
	}
	if err := s.await(ctx, topics*3/2, 30*time.Minute); err != nil {
		return err
	}
	if err := s.kill(); err != nil {
		return err
	}
	return errors.Join(round(), s.start(ctx), round())
}

// slow delays what goes to and comes from the broker.
func slow(ctx context.Context, s *stage) error {
	s.proxy.Latency(200 * time.Millisecond)
	writers := s.Write(ctx, s.steady())
	s.hold(ctx, s.length/2)
	err := s.transaction(ctx, 200_000, s.small)
	s.hold(ctx, s.length/2)
	return errors.Join(err, writers.Stop())
}

// runCase runs one case. What goes wrong with the case itself is in the result, too.
func runCase(ctx context.Context, o *options, binary string, c *testCase) (r result) {
	r = result{Name: c.Name, What: c.What, Limit: megabytes(c.Limit), Resident: []float64{}}
	var problems []string
	broken := func(err error) bool {
		if err != nil {
			problems = append(problems, err.Error())
		}
		return err != nil
	}
	began := time.Now()
	defer func() {
		r.Seconds = time.Since(began).Seconds()
		r.Broken = strings.Join(problems, "; ")
	}()
	s, err := newStage(ctx, o, binary, c)
	if broken(err) {
		return r
	}
	defer func() { broken(s.close()) }()
	if c.Prepare != nil && broken(c.Prepare(ctx, s)) {
		return r
	}
	if broken(s.start(ctx)) {
		return r
	}
	// Whatever happens, the rest is worth knowing.
	broken(c.Run(ctx, s))
	v, err := s.judge(ctx)
	broken(err)
	if broken(s.stop()) {
		broken(errors.New("its last words: …" + end(s.relay.Log(), 1500)))
	}
	if len(problems) == 0 { // with what was still to come
		v, err = s.judge(ctx)
		broken(err)
	}
	broken(v.Err())
	r.Rows, r.Lost, r.Doubled, r.Misordered = v.Committed, v.Count(ledger.Lost), v.Count(ledger.Doubled), v.Count(ledger.Misordered)
	r.Peak = megabytes(s.peak)
	for _, bytes := range s.series {
		r.Resident = append(r.Resident, megabytes(bytes))
	}
	if s.peak >= c.Limit {
		broken(fmt.Errorf("the peak is %.1f MB, and must stay below %.0f MB", r.Peak, r.Limit))
	}
	return r
}

func end(s string, n int) string { return s[max(0, len(s)-n):] }

func megabytes(bytes int64) float64 { return float64(bytes) / megabyte }
