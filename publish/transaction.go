package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/tidemark/tidemark/decode"
)

// transaction is the Kafka transaction that is open, if one is. The one rule: what fails once is never committed. The
// client would do it: after a failure it goes on under the next epoch, by which the brokers abort what came before, and
// then commits the rest.
type transaction struct {
	used bool // the publisher is transactional; never changes
	open bool // belongs to the goroutine of Begin, Commit and Abort

	mu       sync.Mutex // guards what the acknowledgements need, too
	producer int64      // under which all of it has to be written
	epoch    int16
	failed   error // why it may not be committed
}

// errOtherEpoch says that the client has changed its epoch in the middle of a transaction: its first part is aborted.
var errOtherEpoch = errors.New("the producer's epoch has changed inside a transaction")

// observe notes what became of a record of the transaction, and returns the error to pass on.
func (t *transaction) observe(r *kgo.Record, err error) error {
	if !t.used {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && (r.ProducerID != t.producer || r.ProducerEpoch != t.epoch) {
		err = fmt.Errorf("%w: record of %s was written under %d/%d, want %d/%d",
			errOtherEpoch, r.Topic, r.ProducerID, r.ProducerEpoch, t.producer, t.epoch)
	}
	if errors.Is(err, kgo.ErrAborting) {
		err = fmt.Errorf("the transaction is aborted: %w", context.Canceled)
	}
	if t.failed == nil {
		t.failed = err
	}
	return err
}

func (t *transaction) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil {
		t.failed = err
	}
}

func (t *transaction) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}

// Begin opens a transaction. What is published until Commit becomes visible to consumers that read committed records, all
// of it at once, or never. Begin, Commit and Abort are not called at the same time as each other or as Publish.
func (p *Publisher) Begin(ctx context.Context) error {
	if p.stopped.Load() {
		return errors.New("begin a transaction: the publisher has failed")
	}
	if err := p.client.BeginTransaction(); err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	producer, epoch, err := p.client.ProducerID(ctx)
	t := &p.transaction
	t.mu.Lock()
	t.producer, t.epoch, t.failed = producer, epoch, err
	t.mu.Unlock()
	t.open = true
	if err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	return nil
}

// InTransaction reports whether one is open. It belongs to the goroutine of Begin.
func (p *Publisher) InTransaction() bool { return p.transaction.open }

// Note is a record that goes into a transaction besides the events.
type Note struct {
	Topic      string
	Partition  int32
	Key, Value []byte
}

// Commit adds note to the transaction, waits until everything in it is acknowledged, and commits it. Nil means that it is
// committed, and then every delivery has come back without an error. After an error it is not known whether it is:
// nothing is left but to Abort, which may come too late, and a successor of the same id finds out.
//
// Check, if it is not nil, is asked when everything is acknowledged; what it has against the commit is Commit's error. Ctx
// bounds the waiting for acknowledgements. The end of a transaction goes on for Options.EndGrace when ctx is done: broken
// off, it would leave open what has become of it.
func (p *Publisher) Commit(ctx context.Context, note Note, check func() error) error {
	err := p.commit(ctx, note, check)
	if err != nil {
		return fmt.Errorf("commit a Kafka transaction: %w", err)
	}
	p.transaction.open = false
	return nil
}

func (p *Publisher) commit(ctx context.Context, note Note, check func() error) error {
	t := &p.transaction
	r := &kgo.Record{
		Topic: note.Topic, Key: note.Key, Value: note.Value,
		Context: &carrier{p.ctx, &Delivery{Event: decode.Event{Partition: note.Partition}}},
	}
	p.client.Produce(p.ctx, r, func(r *kgo.Record, err error) { _ = t.observe(r, err) }) // failure tells
	if err := p.client.Flush(ctx); err != nil {
		return err
	}
	if p.stopped.Load() {
		t.fail(errors.New("the publisher was stopped"))
	}
	if err := t.failure(); err != nil {
		return err
	}
	producer, epoch, err := p.client.ProducerID(ctx)
	if err != nil {
		return err
	}
	if producer != t.producer || epoch != t.epoch {
		return errOtherEpoch
	}
	if check != nil {
		if err := check(); err != nil {
			return err
		}
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.options.TransactionTimeout())
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(p.options.EndGrace, cancel) })()
	err = p.client.EndTransaction(end, kgo.TryCommit)
	if err != nil {
		t.fail(err)
		p.stopped.Store(true)
	}
	return err
}

// Abort gives up what was published since Begin: consumers that read committed records never see it. What was not
// acknowledged comes back with context.Canceled. An error leaves it to a successor of the same id, or to the timeout.
func (p *Publisher) Abort(ctx context.Context) error {
	if !p.transaction.open {
		return nil
	}
	p.transaction.fail(errors.New("the transaction is aborted"))
	err := p.client.AbortBufferedRecords(ctx)
	if err == nil {
		err = p.client.EndTransaction(ctx, kgo.TryAbort)
	}
	if err != nil {
		p.stopped.Store(true)
		return fmt.Errorf("abort a Kafka transaction: %w", err)
	}
	p.transaction.open = false
	return nil
}

// Fence ends whatever the processes that publish under a transactional id have under way, and sees to it that none of them
// publishes again: their open transaction is aborted, or committed to its end if that was decided. A producer of that id
// which begins later is not hindered.
func (o *Options) Fence(ctx context.Context, transactionalID string) error {
	client, err := o.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	return fenceTransactional(ctx, client, transactionalID)
}

func fenceTransactional(ctx context.Context, client *kgo.Client, transactionalID string) error {
	if _, err := kadm.NewClient(client).BrokerMetadata(ctx); err != nil {
		return fmt.Errorf("reach a Kafka broker: %w", err)
	}
	request := kmsg.NewPtrInitProducerIDRequest()
	request.TransactionalID = &transactionalID
	request.TransactionTimeoutMillis = 10_000 // there will be no transaction
	request.ProducerID, request.ProducerEpoch = -1, -1
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		response, err := request.RequestWith(ctx, client)
		if err == nil {
			err = kerr.ErrorForCode(response.ErrorCode)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, kerr.ConcurrentTransactions) { // which says that the open one is being ended
			return fmt.Errorf("fence transactional id %s: %w", transactionalID, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("fence transactional id %s: %w", transactionalID, ctx.Err())
		case <-ticker.C:
		}
	}
}

// TransactionHint says what a person can do about err where Kafka refuses transactions; "" if err is about something else.
func (o *Options) TransactionHint(err error) string {
	switch {
	case errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		return "let the Kafka user write and describe the transactional ids that begin with tidemark-checkpoint- (kafka-acls --add --operation Write --operation Describe --resource-pattern-type prefixed --transactional-id tidemark-checkpoint- --allow-principal …)"
	case errors.Is(err, kerr.InvalidTransactionTimeout):
		return fmt.Sprintf("kafka.options: transaction.timeout.ms is %d, and the brokers' transaction.max.timeout.ms is less: lower the one or raise the other", o.TransactionTimeout().Milliseconds())
	default:
		return ""
	}
}
