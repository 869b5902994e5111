package cli

import (
	"time"

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
func relayOptions(c *config.Config, log zerolog.Logger) relay.Options {
	return relay.Options{
		Source: sourceOptions(c), Tables: tables(c), Kafka: kafkaOptions(c), Store: checkpointStore(c),
		Create: c.Source.Create, ExistingRows: c.Source.ExistingRows == "publish",
		MaxBufferedBytes: c.Kafka.MaxBufferedBytes, CheckpointEvery: c.Checkpoint.Interval, DrainTimeout: drainTimeout,
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
	onNull := map[string]decode.OnNull{"tombstone": decode.Tombstone, "empty": decode.Empty, "poison": decode.PoisonNull}
	out := make([]decode.Table, 0, len(c.Outbox))
	for _, t := range c.Outbox {
		table := decode.Table{
			Name: t.Table, Columns: decode.Columns(t.Columns), Topic: t.Topic, Key: t.Key, OnNull: onNull[t.OnNull],
		}
		for _, h := range t.Headers {
			table.Headers = append(table.Headers, decode.HeaderTemplate(h))
		}
		out = append(out, table)
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
			Password: string(k.SASL.Password), Token: string(k.SASL.Token),
		}
	}
	return o
}

func checkpointStore(c *config.Config) *checkpoint.File { return checkpoint.NewFile(c.Checkpoint.Path) }
