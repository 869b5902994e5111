package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Kafka keeps checkpoints in a compacted topic, one record a source. All of them are in its first partition.
//
// Kafka can compare nothing before it writes, but of the producers with one transactional id it lets only the youngest
// write. So whoever is about to save for the first time becomes the youngest, which fences the one before, reads what
// is stored and compares; after that it is the only one who can have changed it, until it is fenced itself.
//
// Any goroutine may call its methods; saves come one after the other.
type Kafka struct {
	o    KafkaOptions
	busy chan struct{} // holds a token while a save has what is below

	producer *kgo.Client // nil, or the youngest as far as we know
	writer   string      // with a producer: who holds what is stored
	closed   bool
}

// KafkaOptions are what a Kafka store is made from.
type KafkaOptions struct {
	Client []kgo.Opt // leads to the brokers
	Topic  string
	Key    string // of the source's record, see Key
	// Create lets the topic be created where it is missing, with so many replicas; -1 is the brokers' default.
	Create            bool
	ReplicationFactor int16
}

// Key names a source where several keep their checkpoints in one place. It is made of what is configured, so that it is
// known before any server has answered: the checkpoint itself says which cluster it belongs to.
func Key(database, slot string) string { return database + "/" + slot }

const (
	// kafkaLimit bounds a look at the topic. It is longer than a transaction that somebody left open holds up readers:
	// for transactionTimeout, and the brokers look for such only every ten seconds.
	kafkaLimit         = 30 * time.Second
	transactionTimeout = 10 * time.Second
	// maxRecordBytes is room for the offsets of some hundred thousand partitions.
	maxRecordBytes = 16 << 20
	firstPartition = 0
)

// NewKafka returns a store that connects when it is used.
func NewKafka(o KafkaOptions) *Kafka { return &Kafka{o: o, busy: make(chan struct{}, 1)} }

// String names the store for logs and errors.
func (k *Kafka) String() string { return "Kafka topic " + k.o.Topic + " under key " + k.o.Key }

// TransactionalID is the one under which the checkpoint's holder writes. Whoever asks the brokers for a producer of this
// id fences all that came before, and so does Save, once for each time it was fenced itself. The topic is part of it: two
// clusters may call a database and a slot the same, and keep their checkpoints in the same brokers under different topics.
func (k *Kafka) TransactionalID() string { return "tidemark-checkpoint-" + k.o.Topic + "/" + k.o.Key }

// Record is a checkpoint as it is stored in Kafka, for those who write it in a transaction of their own.
type Record struct {
	Topic      string
	Partition  int32
	Key, Value []byte
}

// Record returns what Load would have to find to return c. It must be written in a transaction.
func (k *Kafka) Record(c *Checkpoint) (Record, error) {
	value, err := Encode(c)
	return Record{k.o.Topic, firstPartition, []byte(k.o.Key), value}, err
}

// Close ends the store's connections, after the save that is under way. Later saves fail.
func (k *Kafka) Close() {
	k.busy <- struct{}{}
	defer func() { <-k.busy }()
	k.closed = true
	k.drop()
}

func (k *Kafka) drop() {
	if k.producer != nil {
		k.producer.Close()
		k.producer = nil
	}
}

// Load returns what is stored, nil if nothing is, or if there is no such topic. It sees every save that has returned,
// by whatever store. A record that is no checkpoint is an error for which IsCorrupt is true.
func (k *Kafka) Load(ctx context.Context) (*Checkpoint, error) {
	stored, _, err := k.load(ctx)
	return stored, err
}

// load returns the record's value, too, as far as it could be read.
func (k *Kafka) load(ctx context.Context) (*Checkpoint, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, kafkaLimit)
	defer cancel()
	record, err := k.read(ctx)
	if err != nil {
		return nil, nil, explainKafka(fmt.Errorf("load checkpoint from %s: %w", k, err))
	}
	if record == nil || record.Value == nil { // the latter removes what was there
		return nil, nil, nil
	}
	c, err := Decode(record.Value)
	if err != nil {
		return nil, record.Value, fmt.Errorf("load checkpoint from %s, offset %d: %w", k, record.Offset, err)
	}
	return c, record.Value, nil
}

// read returns the last committed record of the key, nil if there is none.
func (k *Kafka) read(ctx context.Context) (last *kgo.Record, err error) {
	reader, err := kgo.NewClient(append(k.client(),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{k.o.Topic: {firstPartition: kgo.NewOffset().AtStart()}}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), // every transaction ends with one: they tell how far we have read
		kgo.FetchMaxWait(500*time.Millisecond),
	)...)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	from, end, err := k.bounds(ctx, reader)
	if err != nil {
		return nil, err
	}
	// To the end of what is there, not of what is committed: a save counts as soon as its commit is decided, which is
	// before its marker has reached the partition and made it visible.
	for next := from; next < end; {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read up to offset %d of %d: %w", next, end, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if !r.Attrs.IsControl() && string(r.Key) == k.o.Key {
				last = r
			}
		})
	}
	return last, nil
}

// bounds returns where the partition begins and ends; both are 0 if there is no such topic.
func (k *Kafka) bounds(ctx context.Context, client *kgo.Client) (from, end int64, err error) {
	if err := client.Ping(ctx); err != nil {
		return 0, 0, fmt.Errorf("no Kafka broker answers: %w", err)
	}
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, k.o.Topic)
	if err != nil {
		return 0, 0, err
	}
	ends, err := admin.ListEndOffsets(ctx, k.o.Topic)
	if err != nil {
		return 0, 0, err
	}
	start, _ := starts.Lookup(k.o.Topic, firstPartition)
	last, ok := ends.Lookup(k.o.Topic, firstPartition)
	switch err := errors.Join(starts.Error(), ends.Error()); {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return 0, 0, nil
	case err != nil:
		return 0, 0, err
	case !ok:
		return 0, 0, errors.New("the topic has no partitions")
	}
	return start.Offset, last.Offset, nil
}

func (k *Kafka) client() []kgo.Opt { return append([]kgo.Opt(nil), k.o.Client...) }

// Save replaces what is stored: when it returns nil, c is committed, and on as many replicas as the topic and the
// brokers' transaction log ask for. What is stored must be held by holder, or else IsTakenOver is true of the error.
// Another error leaves open whether c is stored.
func (k *Kafka) Save(ctx context.Context, c *Checkpoint, holder string) error {
	record, err := k.Record(c)
	if err != nil {
		return err
	}
	return k.exclusively(ctx, func() error {
		for {
			err := k.save(ctx, c, record.kgo(), holder)
			if !isFenced(err) {
				return err
			}
			// Somebody else has become the youngest. Whether that makes it the holder, a look at what is stored tells.
			if err := pause(ctx); err != nil {
				return err
			}
		}
	})
}

// exclusively calls work while nobody else saves through this store.
func (k *Kafka) exclusively(ctx context.Context, work func() error) error {
	select {
	case k.busy <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("save checkpoint in %s: %w", k, ctx.Err())
	}
	defer func() { <-k.busy }()
	err := ctx.Err()
	if err == nil && k.closed {
		err = kgo.ErrClientClosed
	}
	if err == nil {
		err = work()
	}
	if err != nil {
		return explainKafka(fmt.Errorf("save checkpoint in %s: %w", k, err))
	}
	return nil
}

// pause keeps two who fence each other from doing so in step.
func pause(ctx context.Context) error {
	timer := time.NewTimer(rand.N(50 * time.Millisecond)) //nolint:gosec // spreads attempts, nothing secret
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (k *Kafka) save(ctx context.Context, c *Checkpoint, record *kgo.Record, holder string) error {
	if k.producer == nil || k.writer != holder {
		err := k.become(ctx, func(stored *Checkpoint, _ []byte, err error) error {
			if err != nil {
				return err
			}
			return heldBy(stored, c, holder)
		})
		if err != nil {
			return err
		}
	}
	if err := k.commit(ctx, record); err != nil {
		return err
	}
	k.writer = c.Writer
	return nil
}

// Replace stores c in the place of whatever is there, and whoever holds it. What was there is kept under another key,
// whose name is returned; "" if nothing was.
func (k *Kafka) Replace(ctx context.Context, c *Checkpoint, now time.Time) (kept string, err error) {
	record, err := k.Record(c)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, kafkaLimit)
	defer cancel()
	err = k.exclusively(ctx, func() error {
		records := []*kgo.Record{record.kgo()}
		err := k.become(ctx, func(_ *Checkpoint, value []byte, err error) error {
			records, kept = records[:1], ""
			if value != nil {
				old := record
				old.Key, old.Value = []byte(aside(k.o.Key, now)), value
				records, kept = append(records, old.kgo()), "the record with key "+string(old.Key)+" in topic "+k.o.Topic
			}
			if IsCorrupt(err) {
				return nil // it is kept as it is
			}
			return err
		})
		if err != nil {
			return err
		}
		k.writer = c.Writer
		return k.commit(ctx, records...)
	})
	return kept, err
}

// become makes this store the only one that can write, if may has nothing against it when it sees what load returns.
func (k *Kafka) become(ctx context.Context, may func(stored *Checkpoint, value []byte, err error) error) error {
	k.drop()
	if err := k.ensureTopic(ctx); err != nil {
		return err
	}
	// A first look without disturbing anybody: one who was stopped for a while does not fence its successor.
	if err := may(k.load(ctx)); err != nil {
		return err
	}
	producer, err := kgo.NewClient(append(k.client(),
		kgo.TransactionalID(k.TransactionalID()), kgo.TransactionTimeout(transactionTimeout),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(maxRecordBytes), kgo.ProducerBatchCompression(kgo.GzipCompression()),
	)...)
	if err != nil {
		return err
	}
	k.producer, k.writer = producer, ""
	if _, _, err = producer.ProducerID(ctx); err != nil { // from here on those before us are fenced
		k.drop()
		return fmt.Errorf("become the only writer: %w", err)
	}
	stored, value, err := k.load(ctx)
	if err := may(stored, value, err); err != nil {
		k.drop()
		return err
	}
	if stored != nil {
		k.writer = stored.Writer
	}
	return nil
}

// commit writes records in a transaction. After an error the producer is gone: what became of the transaction the next
// one finds out, for whom it is ended one way or the other.
func (k *Kafka) commit(ctx context.Context, records ...*kgo.Record) (err error) {
	defer func() {
		if err != nil {
			k.drop()
		}
	}()
	if err := k.producer.BeginTransaction(); err != nil {
		return err
	}
	done := make(chan error, len(records))
	for _, r := range records {
		k.producer.Produce(ctx, r, func(_ *kgo.Record, err error) { done <- err })
	}
	for range records {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
		case <-ctx.Done(): // the client would wait for a broker that has the record and does not answer
			return ctx.Err()
		}
	}
	return k.producer.EndTransaction(ctx, kgo.TryCommit)
}

// ensureTopic creates the topic where it is missing, and refuses one that would lose its records.
func (k *Kafka) ensureTopic(ctx context.Context) error {
	client, err := kgo.NewClient(k.client()...)
	if err != nil {
		return err
	}
	defer client.Close()
	if err := client.Ping(ctx); err != nil {
		return fmt.Errorf("no Kafka broker answers: %w", err)
	}
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(ctx, k.o.Topic)
	if err != nil {
		return err
	}
	missing := topics[k.o.Topic].Err
	switch {
	case missing == nil:
		return k.checkTopic(ctx, admin)
	case !errors.Is(missing, kerr.UnknownTopicOrPartition):
		return missing
	case !k.o.Create:
		return &permanentError{
			fmt.Errorf("topic %s does not exist and kafka.create_topics.enabled is false", k.o.Topic),
			"create it with one partition and cleanup.policy=compact",
		}
	}
	_, err = admin.CreateTopic(ctx, 1, k.o.ReplicationFactor, map[string]*string{
		"cleanup.policy":    new("compact"),
		"max.message.bytes": new(fmt.Sprint(maxRecordBytes)),
		// A broker refuses a record of an hour from now, and our clock may be wrong.
		"message.timestamp.type": new("LogAppendTime"),
		// Load reads all that is not compacted away, so that should be little: the last segment is never compacted, and
		// what ends a transaction is kept for as long as a reader may take.
		"segment.bytes":       new(fmt.Sprint(16 << 20)),
		"delete.retention.ms": new(fmt.Sprint(time.Hour.Milliseconds())),
	}, k.o.Topic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("create topic %s: %w", k.o.Topic, err)
	}
	return nil
}

func (k *Kafka) checkTopic(ctx context.Context, admin *kadm.Client) error {
	configs, err := admin.DescribeTopicConfigs(ctx, k.o.Topic)
	if err != nil {
		return err
	}
	for _, topic := range configs {
		if topic.Err != nil {
			return nil //nolint:nilerr // we may not look, which is no reason to stand still
		}
		for _, c := range topic.Configs {
			if c.Key == "cleanup.policy" && c.MaybeValue() != "compact" {
				return &permanentError{
					fmt.Errorf("topic %s has cleanup.policy=%s, which would delete the checkpoint one day", k.o.Topic, c.MaybeValue()),
					"set cleanup.policy=compact for it, or name another in checkpoint.topic",
				}
			}
		}
	}
	return nil
}

func (r Record) kgo() *kgo.Record {
	return &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value}
}

// isFenced reports whether err says that somebody else has become the youngest producer, or that the brokers have
// forgotten ours. INVALID_TXN_STATE is how a partition says it whose part of our transaction was just aborted for another.
func isFenced(err error) bool {
	for _, fenced := range []error{kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping, kerr.InvalidTxnState} {
		if errors.Is(err, fenced) {
			return true
		}
	}
	return false
}

// explainKafka adds what to do to an error that only a person can mend.
func explainKafka(err error) error {
	for refused, right := range map[error]string{
		kerr.TopicAuthorizationFailed:           "read, write, describe and create the topic of checkpoint.topic",
		kerr.ClusterAuthorizationFailed:         "create topics, and write with idempotence",
		kerr.TransactionalIDAuthorizationFailed: "describe and write under transactional ids that begin with tidemark-checkpoint-",
	} {
		if errors.Is(err, refused) {
			return &permanentError{err, "let the Kafka user " + right + " (kafka-acls --add --allow-principal User:NAME)"}
		}
	}
	if errors.Is(err, kerr.InvalidTimestamp) {
		return fmt.Errorf("%w: is the clock of this host ahead of the brokers'? Correct it, or set message.timestamp.type=LogAppendTime for the topic of checkpoint.topic", err)
	}
	if errors.Is(err, context.DeadlineExceeded) && strings.Contains(err.Error(), "read up to offset") {
		return fmt.Errorf("%w: a transaction that somebody has left open in the topic holds up readers until it times out", err)
	}
	return err
}
