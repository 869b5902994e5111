package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack"
)

// servers are what is measured on: given ones, or embedded ones.
type servers struct {
	dsn     string // of a database to connect to
	brokers []string
	client  *kgo.Client
	admin   *kadm.Client

	postgresName, kafkaName string

	tls *secured // nil unless both are embedded and real

	cold bool // the broker was just started, and Java has optimised none of it yet

	closers []io.Closer
}

func openServers(ctx context.Context, o *Options) (*servers, error) {
	s := &servers{dsn: o.Source, brokers: o.Brokers}
	if err := s.open(ctx, o); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *servers) open(ctx context.Context, o *Options) error {
	postgres, kafka := "given", "given"
	certificates, err := serverTLS()
	if err != nil {
		return err
	}
	var embedded *devstack.Postgres
	if s.dsn == "" {
		postgres = "embedded, TCP"
		o.Progress("starting Postgres…")
		p, err := devstack.StartPostgres(ctx, devstack.PostgresOptions{
			Settings: map[string]string{"shared_buffers": "256MB", "max_wal_size": "8GB"},
			TLS:      certificates,
			Progress: o.Progress,
		})
		if err != nil {
			return err
		}
		s.closers = append(s.closers, p)
		s.dsn = p.DSN("postgres")
		embedded = p
	}
	if len(s.brokers) == 0 {
		o.Progress("starting Kafka…")
		var broker *devstack.Kafka
		if broker, kafka, err = s.startKafka(ctx, o, certificates); err != nil {
			return err
		}
		if embedded != nil && broker != nil {
			s.tls = &secured{dsn: embedded.SecureDSN("postgres"), brokers: broker.BrokersAt(devstack.ListenerTLS), caFile: embedded.CAFile()}
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(s.brokers...), kgo.ClientID("tidemark-bench"))
	if err != nil {
		return fmt.Errorf("configure the Kafka client: %w", err)
	}
	s.client = client
	s.admin = kadm.NewClient(s.client)
	return s.name(ctx, postgres, kafka)
}

// startKafka starts a real one if that is possible here; else broker is nil.
func (s *servers) startKafka(ctx context.Context, o *Options, certificates *devstack.TLS) (broker *devstack.Kafka, kind string, err error) {
	if missing := devstack.HaveKafka(); missing != nil {
		o.Progress(fmt.Sprintf("no real Kafka can be started (%v): an imitation in this process takes its place", missing))
		fake, err := devstack.StartFakeKafka(devstack.FakeKafkaOptions{})
		if err != nil {
			return nil, "", err
		}
		s.closers = append(s.closers, fake)
		s.brokers = fake.Brokers()
		return nil, "imitation in the benchmark's own process", nil
	}
	broker, err = devstack.StartKafka(ctx, devstack.KafkaOptions{
		Throughput: true, Security: &devstack.KafkaSecurity{TLS: certificates}, Progress: o.Progress,
	})
	if err != nil {
		return nil, "", err
	}
	s.closers = append(s.closers, broker)
	s.brokers = broker.Brokers()
	s.cold = true
	return broker, "embedded", nil
}

// name asks the servers what they are.
func (s *servers) name(ctx context.Context, postgres, kafka string) error {
	var version, level string
	err := s.sql(ctx, s.dsn, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "select split_part(current_setting('server_version'), ' ', 1), current_setting('wal_level')").Scan(&version, &level)
	})
	if err != nil {
		return err
	}
	if level != "logical" {
		return fmt.Errorf("wal_level of the source is %s: set wal_level = logical and restart Postgres", level)
	}
	s.postgresName = fmt.Sprintf("%s (%s)", version, postgres)
	asked, cancel := context.WithTimeout(ctx, serverLimit)
	defer cancel()
	versions, err := s.admin.ApiVersions(asked)
	if err != nil {
		return fmt.Errorf("reach a Kafka broker at %v: %w", s.brokers, err)
	}
	guess := "of unknown version"
	versions.Each(func(v kadm.BrokerApiVersions) {
		if v.Err == nil {
			guess = v.VersionGuess()
		}
	})
	s.kafkaName = fmt.Sprintf("%s (%s)", guess, kafka)
	return nil
}

func (s *servers) close() error {
	if s.client != nil {
		s.client.Close()
	}
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// sql runs do on a connection of its own.
func (s *servers) sql(ctx context.Context, dsn string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("connect to the source: %w", err)
	}
	err = do(conn)
	return errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
}

func (s *servers) exec(ctx context.Context, dsn string, statements ...string) error {
	return s.sql(ctx, dsn, func(conn *pgx.Conn) error {
		for _, sql := range statements {
			if _, err := conn.Exec(ctx, sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
}

const (
	serverLimit = 30 * time.Second // of a request to a server that should answer at once
	cleanLimit  = time.Minute
)

// stage is the scratch database of one case, with what else the server keeps for it.
type stage struct {
	*servers
	load   Load
	name   string   // of the database, and the prefix of every slot, topic and file
	dsn    string   // ours
	source string   // the readers': dsn, or the way through TLS
	target []string // the relay's brokers
	dir    string
	slots  int
	topics []string // that were created and not deleted
	end    string   // LSN behind the backlog
}

// origin is the slot that stands before the backlog, and is never read: every reader gets a copy.
func (st *stage) origin() string { return st.name }

const publication = "tidemark_bench"

func (st *stage) table(i int) string { return fmt.Sprintf("public.outbox_%d", i+1) }

func openStage(ctx context.Context, s *servers, l Load) (*stage, error) {
	id := make([]byte, 4)
	_, _ = rand.Read(id) // never fails
	st := &stage{servers: s, load: l, name: "tidemark_bench_" + hex.EncodeToString(id)}
	if err := st.open(ctx); err != nil {
		return nil, errors.Join(err, st.close(ctx))
	}
	return st, nil
}

func (st *stage) open(ctx context.Context) error {
	s, l := st.servers, &st.load
	var err error
	if st.dsn, err = inDatabase(s.dsn, st.name); err != nil {
		return err
	}
	st.source, st.target = st.dsn, s.brokers
	if l.TLS {
		st.target = s.tls.brokers
		if st.source, err = inDatabase(s.tls.dsn, st.name); err != nil {
			return err
		}
	}
	if st.dir, err = os.MkdirTemp("", "tidemark-bench-"); err != nil {
		return fmt.Errorf("make a directory for checkpoints: %w", err)
	}
	if err := s.exec(ctx, s.dsn, "create database "+st.name); err != nil {
		return err
	}
	statements := []string{createWords, createFill}
	var tables []string
	for i := range l.Tables {
		tables = append(tables, st.table(i))
		statements = append(statements, fmt.Sprintf(createOutbox, st.table(i)))
	}
	statements = append(statements,
		fmt.Sprintf("create publication %s for table %s with (publish = 'insert')", publication, strings.Join(tables, ", ")),
		fmt.Sprintf("select pg_create_logical_replication_slot('%s', 'pgoutput')", st.origin()))
	return s.exec(ctx, st.dsn, statements...)
}

// close removes the database, its slots, the topics and the files, whatever has become of ctx.
func (st *stage) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	errs := []error{st.deleteTopics(ctx), st.sql(ctx, st.servers.dsn, func(conn *pgx.Conn) error {
		// A reader that was just killed may still hold its slot.
		for {
			_, err := conn.Exec(ctx, `select pg_terminate_backend(active_pid, 5000) from pg_replication_slots where database = $1 and active_pid is not null`, st.name)
			if err != nil {
				return fmt.Errorf("end the readers of %s: %w", st.name, err)
			}
			_, err = conn.Exec(ctx, "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = $1", st.name)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("drop the slots of %s: %w", st.name, err)
			}
		}
		if _, err := conn.Exec(ctx, "drop database if exists "+st.name+" with (force)"); err != nil {
			return fmt.Errorf("drop database %s: %w", st.name, err)
		}
		return nil
	})}
	if st.dir != "" {
		errs = append(errs, os.RemoveAll(st.dir))
	}
	return errors.Join(errs...)
}

// slot makes a copy of the slot that stands before the backlog.
func (st *stage) slot(ctx context.Context) (name string, err error) {
	st.slots++
	name = fmt.Sprintf("%s_%d", st.name, st.slots)
	return name, st.exec(ctx, st.dsn, fmt.Sprintf("select pg_copy_logical_replication_slot('%s', '%s')", st.origin(), name))
}

// dropSlot waits until its reader has gone.
func (st *stage) dropSlot(ctx context.Context, name string) error {
	return st.exec(ctx, st.dsn,
		fmt.Sprintf("select pg_terminate_backend(active_pid, 10000) from pg_replication_slots where slot_name = '%s' and active_pid is not null", name),
		fmt.Sprintf("select pg_drop_replication_slot('%s')", name))
}

// createTopics creates the topics of one reader, a topic a table.
func (st *stage) createTopics(ctx context.Context, prefix string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, serverLimit)
	defer cancel()
	var names []string
	for i := range st.load.Tables {
		names = append(names, prefix+aggregateType(i))
	}
	return names, st.create(ctx, int32(st.load.Partitions), nil, names...) //nolint:gosec // Check has seen to its range
}

// createCheckpointTopic creates the topic of a relay that keeps its checkpoint in Kafka, so that it is deleted with the others.
func (st *stage) createCheckpointTopic(ctx context.Context, slot string) error {
	ctx, cancel := context.WithTimeout(ctx, serverLimit)
	defer cancel()
	compact := "compact"
	return st.create(ctx, 1, map[string]*string{"cleanup.policy": &compact}, checkpointTopic(slot))
}

func checkpointTopic(slot string) string { return slot + "-checkpoints" }

func (st *stage) create(ctx context.Context, partitions int32, configs map[string]*string, names ...string) error {
	created, err := st.admin.CreateTopics(ctx, partitions, -1, configs, names...)
	if err == nil {
		err = created.Error()
	}
	if err != nil {
		return fmt.Errorf("create topics: %w", err)
	}
	st.topics = append(st.topics, names...)
	return nil
}

// deleteTopics deletes all topics that were created.
func (st *stage) deleteTopics(ctx context.Context) error {
	if len(st.topics) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), serverLimit)
	defer cancel()
	deleted, err := st.admin.DeleteTopics(ctx, st.topics...)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		return fmt.Errorf("delete topics %v: %w", st.topics, err)
	}
	st.topics = nil
	return nil
}

// inDatabase returns dsn with another database.
func inDatabase(dsn, database string) (string, error) {
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return dsn + " dbname=" + database, nil // the last one counts
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", errors.New("--source: it is no URL that could be read (special characters in user and password are written %40 and so on)")
	}
	u.Path = "/" + database
	if q := u.Query(); q.Has("dbname") {
		q.Del("dbname")
		u.RawQuery = q.Encode()
	}
	return u.String(), nil
}
