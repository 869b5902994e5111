package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/relay"
	"github.com/tidemark/tidemark/wal"
)

// drainTimeout is how long a stop waits for acknowledgements: well within the half minute that Kubernetes and systemd
// give before they kill.
const drainTimeout = 10 * time.Second

// relayOptions turns the configuration into what a relay is built from.
func relayOptions(c *config.Config, s store, log zerolog.Logger) relay.Options {
	kafka, exactlyOnce := kafkaOptions(c), c.Delivery.Mode == "exactly_once"
	if exactlyOnce {
		kafka.TransactionalID = s.(*checkpoint.Kafka).TransactionalID() //nolint:forcetypeassert // config allows no other store
	}
	return relay.Options{
		Source: sourceOptions(c), Tables: tables(c), Messages: messages(c), Kafka: kafka, Store: s, ExactlyOnce: exactlyOnce,
		Create: c.Source.Create, Failover: c.Source.Failover, ExistingRows: c.Source.ExistingRows == "publish",
		// What they become in requests, and the garbage of both, takes the rest. In a backlog it is always full.
		MaxBufferedBytes: max(1, c.Kafka.MaxBufferedBytes/6),
		CheckpointEvery:  c.Checkpoint.Interval, DrainTimeout: drainTimeout, WALBudget: c.Source.WALBudget,
		ResumeDedupe: c.Delivery.ResumeDedupe,
		OnPoison:     relay.Policy(c.Delivery.OnPoison), DeadLetterTopic: c.Delivery.DeadLetterTopic,
		ParkDSN: string(c.Source.AdminDSN),
		Log:     log,
	}
}

func sourceOptions(c *config.Config) wal.Options {
	o := wal.Options{
		DSN: string(c.Source.DSN), AdminDSN: string(c.Source.AdminDSN),
		Slot: c.Source.Slot, Publication: c.Source.Publication, StatusInterval: c.Source.StatusInterval,
	}
	for _, t := range c.Outbox {
		o.Tables = append(o.Tables, t.Table)
	}
	return o
}

func tables(c *config.Config) []decode.Table {
	out := make([]decode.Table, 0, len(c.Outbox))
	for i := range c.Outbox {
		out = append(out, table(&c.Outbox[i]))
	}
	return out
}

func table(t *config.Table) decode.Table {
	formats := map[string]decode.Format{
		"plain": decode.Plain, "cloudevents": decode.CloudEvents, "cloudevents-structured": decode.CloudEventsStructured,
	}
	onNull := map[string]decode.OnNull{"tombstone": decode.Tombstone, "empty": decode.Empty, "poison": decode.PoisonNull}
	out := decode.Table{
		Name: t.Table, Columns: decode.Columns(t.Columns), Topic: t.Topic, Key: t.Key,
		Format: formats[t.Format], OnNull: onNull[t.OnNull], CloudEvents: decode.CloudEventTemplates(t.CloudEvents),
		OutboxID: t.OutboxID,
	}
	if t.Preset == "eventuate" {
		out.Format = decode.Eventuate
	}
	for _, h := range t.Headers {
		out.Headers = append(out.Headers, decode.HeaderTemplate(h))
	}
	return out
}

func messages(c *config.Config) []decode.LogicalMessage {
	lone := map[string]decode.NonTransactional{"poison": decode.PoisonLone, "publish": decode.PublishLone, "skip": decode.SkipLone}
	var out []decode.LogicalMessage
	for i := range c.Messages {
		m := &c.Messages[i]
		layout := m.Layout()
		out = append(out, decode.LogicalMessage{Prefix: m.Prefix, Table: table(&layout), NonTransactional: lone[m.NonTransactional]})
	}
	return out
}

func kafkaOptions(c *config.Config) publish.Options {
	k := c.Kafka
	o := publish.Options{
		Brokers: k.Brokers, Compression: k.Compression, Settings: k.Options,
		Topics: publish.TopicOptions{
			Create: k.CreateTopics.Enabled, Partitions: k.CreateTopics.Partitions,
			ReplicationFactor: k.CreateTopics.ReplicationFactor, Configs: k.CreateTopics.Configs,
			MissingIsPoison: c.Delivery.OnPoison != "stop",
		},
	}
	if k.TLS.Enabled {
		o.TLS = &publish.TLS{
			CAFile: k.TLS.CAFile, CertFile: k.TLS.CertFile, KeyFile: k.TLS.KeyFile,
			ServerName: k.TLS.ServerName, InsecureSkipVerify: k.TLS.InsecureSkipVerify,
		}
	}
	if k.SASL.Mechanism != "" {
		o.SASL = &publish.SASL{
			Mechanism: k.SASL.Mechanism, Username: k.SASL.Username,
			Password:   rereading("kafka.sasl.password_file", k.SASL.PasswordFile, k.SASL.Password),
			Token:      rereading("kafka.sasl.token_file", k.SASL.TokenFile, k.SASL.Token),
			Extensions: k.SASL.Extensions,
		}
		if k.SASL.TokenURL != "" {
			o.SASL.Endpoint = &publish.TokenEndpoint{
				URL: k.SASL.TokenURL, ClientID: k.SASL.ClientID, Scope: k.SASL.Scope, CAFile: k.SASL.TokenCAFile,
				ClientSecret: rereading("kafka.sasl.client_secret_file", k.SASL.ClientSecretFile, k.SASL.ClientSecret),
			}
		}
	}
	return o
}

// rereading returns what returns a secret: what is in the file by then, if there is one.
func rereading(key, file string, value config.Secret) func() (string, error) {
	return func() (string, error) {
		if file == "" {
			return string(value), nil
		}
		text, err := config.ReadSecret(file)
		if err != nil {
			return "", fmt.Errorf("%s: %w", key, err)
		}
		return text, nil
	}
}

// store is a place for the checkpoint, with what the commands need of it besides what relay does.
type store interface {
	relay.Store
	// Replace puts next in the place of whatever is stored and returns where that is kept, "" if nothing was.
	Replace(ctx context.Context, next *checkpoint.Checkpoint, now time.Time) (kept string, err error)
	Close()
}

// checkpointStore returns the configured store. It connects when it is used.
func checkpointStore(c *config.Config) (store, error) {
	if c.Checkpoint.Store == "file" {
		return checkpoint.NewFile(c.Checkpoint.Path), nil
	}
	source, err := pgconn.ParseConfig(string(c.Source.DSN))
	if err != nil {
		return nil, fmt.Errorf("read source.dsn: %w", err) // without the password
	}
	database := source.Database
	if database == "" {
		database = source.User // as the server takes it
	}
	if c.Checkpoint.Store == "postgres" {
		return checkpoint.NewPostgres(checkpoint.PostgresOptions{
			DSN: string(c.Source.AdminDSN), Database: database, Slot: c.Source.Slot, Create: c.Source.Create,
		}), nil
	}
	o := kafkaOptions(c)
	client, err := o.ClientOptions()
	if err != nil {
		return nil, err
	}
	return checkpoint.NewKafka(checkpoint.KafkaOptions{
		Client: client, Topic: c.Checkpoint.Topic, Key: checkpoint.Key(database, c.Source.Slot),
		Create: o.Topics.Create, ReplicationFactor: o.Topics.ReplicationFactor,
	}), nil
}

// storedPosition returns what loads the stored position, 0 if no relay has begun to stream. One of another source is an error.
func storedPosition(c *config.Config, s store) func(context.Context, wal.System) (pglogrepl.LSN, error) {
	return func(ctx context.Context, system wal.System) (pglogrepl.LSN, error) {
		stored, err := s.Load(ctx)
		if err != nil || stored == nil || stored.State != checkpoint.Streaming {
			return 0, err
		}
		if stored.SystemIdentifier != system.ID || stored.Database != system.Database || stored.Slot != c.Source.Slot {
			return 0, fmt.Errorf("the checkpoint in %s is that of system %s, database %s, slot %s, and source.dsn leads to system %s, database %s, with source.slot %s: point both at what belongs together",
				s, stored.SystemIdentifier, stored.Database, stored.Slot, system.ID, system.Database, c.Source.Slot)
		}
		return pglogrepl.LSN(stored.LSN), nil
	}
}

// sourceName returns the text of the header tidemark-source.
func sourceName(c *config.Config) func(wal.System) string {
	return func(s wal.System) string { return relay.SourceName(s, c.Source.Slot) }
}

// connectIdle connects to the source for a command that must not get into a relay's way, and returns the slot, nil if there
// is none. A slot that somebody streams from is an error.
func connectIdle(ctx context.Context, c *config.Config) (*wal.Conn, *wal.Slot, error) {
	conn, err := wal.Connect(ctx, sourceOptions(c))
	if err != nil {
		return nil, nil, err
	}
	slot, err := conn.Slot(ctx)
	if err == nil && slot != nil && slot.Active {
		err = fmt.Errorf("slot %s is in use by %s: stop the relay that streams from it", slot.Name, slot.Holder())
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, slot, nil
}
