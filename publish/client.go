package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/twmb/franz-go/plugin/kprom"
)

// Options say where the events go.
type Options struct {
	Brokers     []string
	TLS         *TLS  // nil is off
	SASL        *SASL // nil is off
	Compression string
	Topics      TopicOptions
	Settings    map[string]string // producer settings by their Java names, see settings
	// TransactionalID makes the publisher transactional: it publishes between Begin and Commit alone, and of all that have
	// this id only the youngest can.
	TransactionalID string
	DialTimeout     time.Duration // of a connection with its handshake; 0: 10 s
	EndGrace        time.Duration // how long the end of a transaction may go on that is not wanted any more
	// Metrics gets the client's own metrics, tidemark_kafka_…, while a publisher is open; nil: nobody does. There may be one
	// publisher a registry at a time.
	Metrics prometheus.Registerer
}

// TLS says how brokers are spoken to. The files are PEM, and are read for each connection.
type TLS struct {
	CAFile, CertFile, KeyFile, ServerName string
	InsecureSkipVerify                    bool
}

// SASL is how the client logs in. The functions are called for each login, by any goroutine; what they return may change.
type SASL struct {
	Mechanism       string // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER
	Username        string
	Password, Token func() (string, error) // the one that the mechanism needs
	// For OAUTHBEARER:
	Endpoint   *TokenEndpoint    // in the place of Token; nil: none
	Extensions map[string]string // what the brokers want to know besides the token
}

// Client returns a client that leads to the brokers, with more options. It connects when it is used, and is the caller's to
// close.
func (o *Options) Client(more ...kgo.Opt) (*kgo.Client, error) {
	opts, err := o.ClientOptions()
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts, more...)...)
	if err != nil {
		return nil, fmt.Errorf("configure the Kafka client: %w", err)
	}
	return client, nil
}

// ClientOptions returns what leads any client to the brokers: addresses, TLS, login, patience. The producer adds its own.
func (o *Options) ClientOptions() ([]kgo.Opt, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(o.Brokers...),
		kgo.ClientID("tidemark"),
		// A broker that comes back is found again in well under a second; one that does not is asked every two.
		kgo.RetryBackoffFn(func(tries int) time.Duration {
			return min(50*time.Millisecond<<min(tries, 6), 2*time.Second)
		}),
		kgo.MetadataMinAge(250 * time.Millisecond),
	}
	if o.TLS != nil {
		if _, err := o.TLS.client().Config(); err != nil { // now, rather than at each attempt to connect
			return nil, err
		}
		opts = append(opts, kgo.Dialer(o.TLS.dialer(o.DialTimeout)))
	} else if o.DialTimeout > 0 {
		opts = append(opts, kgo.DialTimeout(o.DialTimeout))
	}
	if o.SASL != nil {
		mechanism, err := o.SASL.mechanism()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(mechanism))
	}
	return opts, nil
}

// producer returns what makes the client the producer that the promises need. Idempotence and acks=all are the
// client's defaults and are not for sale.
func (o *Options) producer(partitioner kgo.Partitioner) ([]kgo.Opt, error) {
	codec, err := codec(o.Compression)
	if err != nil {
		return nil, err
	}
	compression := kgo.ProducerBatchCompression(codec)
	if c, err := compressor(codec); err == nil && c != nil { // nil if there is to be none
		compression = kgo.WithCompressor(thrifty{c})
	}
	opts := []kgo.Opt{
		kgo.RequiredAcks(kgo.AllISRAcks()),
		compression,
		// Events are handed over in bursts; waiting for more inside the client would only add latency.
		kgo.ProducerLinger(0),
		// The bound is the relay's, in bytes, and it must be: Produce blocking here would block the goroutine that
		// keeps the replication connection alive.
		kgo.MaxBufferedRecords(math.MaxInt32),
		// An outage is waited for, however long. A topic that vanished is waited for too; the relay reports it.
		kgo.RecordRetries(math.MaxInt32),
		kgo.UnknownTopicRetries(-1),
		// A broker that hangs up before its first answer is taken for one that wants TLS, and what was not yet sent would
		// fail; a proxy in front of a broker that is away does the same. The cause is in Silence and in every Ping.
		kgo.AlwaysRetryEOF(),
		// A fenced or forgotten producer must not go on under a new id as if nothing had happened: what was in flight
		// may or may not be there. It stops, and the relay starts over from the checkpoint.
		kgo.StopProducerOnDataLossDetected(),
		kgo.RecordPartitioner(partitioner),
		// How soon partitions that were added are noticed.
		kgo.MetadataMaxAge(time.Minute),
	}
	if o.TransactionalID != "" {
		opts = append(opts, kgo.TransactionalID(o.TransactionalID), kgo.TransactionTimeout(defaultTransactionTimeout),
			kgo.ConcurrentTransactionsBackoff(5*time.Millisecond))
	}
	extra, err := settings(o.Settings)
	return append(opts, extra...), err
}

// metrics returns what keeps the client's metrics: counted a request and a batch, never a record, and without a topic in
// the labels, of which there may be thousands.
func (o *Options) metrics() []kgo.Opt {
	if o.Metrics == nil {
		return nil
	}
	return []kgo.Opt{kgo.WithHooks(kprom.NewMetrics("tidemark", kprom.Subsystem("kafka"), kprom.Registerer(o.Metrics),
		kprom.FetchAndProduceDetail(kprom.ByNode, kprom.Batches, kprom.Records, kprom.CompressedBytes, kprom.UncompressedBytes, kprom.ConsistentNaming),
		kprom.Histograms(kprom.RequestDurationE2E)))}
}

// defaultTransactionTimeout is also Java's.
const defaultTransactionTimeout = time.Minute

// TransactionTimeout is how long the brokers let a transaction be open before they abort it.
func (o *Options) TransactionTimeout() time.Duration {
	if ms, err := strconv.ParseUint(o.Settings["transaction.timeout.ms"], 10, 31); err == nil {
		return time.Duration(ms) * time.Millisecond //nolint:gosec // 31 bits
	}
	return defaultTransactionTimeout
}

func compressor(codec kgo.CompressionCodec) (kgo.Compressor, error) {
	if codec == kgo.Lz4Compression() {
		return &lz4Frames{}, nil
	}
	return kgo.DefaultCompressor(codec)
}

func codec(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "", "none":
		return kgo.NoCompression(), nil
	case "gzip":
		return kgo.GzipCompression(), nil
	case "snappy":
		return kgo.SnappyCompression(), nil
	case "lz4":
		return kgo.Lz4Compression(), nil
	case "zstd":
		return kgo.ZstdCompression(), nil
	default:
		return kgo.CompressionCodec{}, fmt.Errorf("kafka.compression: %q is none of none, gzip, snappy, lz4, zstd", name)
	}
}

func (s *SASL) mechanism() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case "PLAIN":
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			password, err := s.Password()
			return plain.Auth{User: s.Username, Pass: password}, err
		}), nil
	case "SCRAM-SHA-256":
		return scram.Sha256(s.scram), nil
	case "SCRAM-SHA-512":
		return scram.Sha512(s.scram), nil
	case "OAUTHBEARER":
		return newBearer(s), nil
	default:
		return nil, fmt.Errorf("kafka.sasl.mechanism: %q is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER", s.Mechanism)
	}
}

func (s *SASL) scram(context.Context) (scram.Auth, error) {
	password, err := s.Password()
	return scram.Auth{User: s.Username, Pass: password}, err
}

// settings turns kafka.options into the client's. Names that would undo a promise are refused by saying so.
func settings(options map[string]string) ([]kgo.Opt, error) {
	milliseconds := func(set func(time.Duration) kgo.Opt) func(string) (kgo.Opt, error) {
		return func(v string) (kgo.Opt, error) {
			ms, err := strconv.ParseUint(v, 10, 31)
			return set(time.Duration(ms) * time.Millisecond), err
		}
	}
	known := map[string]func(string) (kgo.Opt, error){
		"client.id":               func(v string) (kgo.Opt, error) { return kgo.ClientID(v), nil },
		"linger.ms":               milliseconds(func(d time.Duration) kgo.Opt { return kgo.ProducerLinger(d) }),
		"request.timeout.ms":      milliseconds(func(d time.Duration) kgo.Opt { return kgo.ProduceRequestTimeout(d) }),
		"metadata.max.age.ms":     milliseconds(kgo.MetadataMaxAge),
		"connections.max.idle.ms": milliseconds(kgo.ConnIdleTimeout),
		"transaction.timeout.ms":  milliseconds(func(d time.Duration) kgo.Opt { return kgo.TransactionTimeout(d) }),
		"max.request.size": func(v string) (kgo.Opt, error) {
			n, err := strconv.ParseInt(v, 10, 32)
			return kgo.BrokerMaxWriteBytes(int32(n)), err
		},
	}
	fixed := []string{"acks", "enable.idempotence", "retries", "delivery.timeout.ms", "max.in.flight.requests.per.connection", "partitioner.class", "transactional.id"}
	var opts []kgo.Opt
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(options)) {
		value := options[name]
		set, ok := known[name]
		if !ok && slices.Contains(fixed, name) {
			problems = append(problems, fmt.Errorf("kafka.options: %s is fixed, because the delivery promises rest on it; remove it", name))
			continue
		}
		if !ok {
			names := strings.Join(slices.Sorted(maps.Keys(known)), ", ")
			problems = append(problems, fmt.Errorf("kafka.options: no option %s; there are %s", name, names))
			continue
		}
		opt, err := set(value)
		if err != nil {
			problems = append(problems, fmt.Errorf("kafka.options: %s: %q is no whole number in range", name, value))
			continue
		}
		opts = append(opts, opt)
	}
	return opts, errors.Join(problems...)
}

// carrier leads from a record back to its delivery. It travels as the record's context, which costs neither an
// allocation nor a map.
type carrier struct {
	context.Context
	delivery *Delivery
}
