package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"github.com/tidemark/tidemark/asyncapi"
	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/decode"
	"github.com/tidemark/tidemark/publish"
	"github.com/tidemark/tidemark/wal"
)

// asyncapiFlags are those of the command.
type asyncapiFlags struct {
	json, offline  bool
	sample         int
	title, version string
}

// asyncapiTimeout bounds all that the command asks the servers.
const asyncapiTimeout = time.Minute

func (a *app) asyncapiCommand() *cobra.Command {
	var f asyncapiFlags
	command := &cobra.Command{
		Use:   "asyncapi",
		Short: "Print an AsyncAPI 3 document of the configured topics",
		Long: `asyncapi describes what tidemark publishes, for those who consume it: a channel for each topic that is in Kafka and can
come from the configured tables and messages, and one with parameters for each template that leads to topics; partitions,
replicas and settings of the topics; headers and key of the records; and what the payloads look like.

The latter is learnt from the newest rows at the end of each table (--sample says how many): types, names of members, and which
of them every sample had. No value of a payload gets into the document; of an object whose member names look like values
(ids, numbers, or more than 64 of them) not even the names do. Logical messages leave no rows, so of their payloads
nothing is said.

--offline asks nobody, and describes what the configuration alone tells.`,
		Example: `  tidemark asyncapi > asyncapi.yaml
  tidemark asyncapi --json --sample 1000 | jq .channels
  tidemark asyncapi --offline --title "Orders" --api-version 2.1.0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.sample < 0 {
				return wrongUsage(cmd, fmt.Errorf("--sample %d: give 0 for none, or a number above it", f.sample))
			}
			c, _, err := a.load()
			if err != nil {
				return err
			}
			return a.asyncapi(cmd.Context(), c, f)
		},
	}
	flags := command.Flags()
	flags.BoolVar(&f.json, "json", false, "print JSON instead of YAML")
	flags.BoolVar(&f.offline, "offline", false, "ask neither Postgres nor Kafka")
	flags.IntVar(&f.sample, "sample", 200, "learn the payloads from so many rows of each table; 0: say nothing of them")
	flags.StringVar(&f.title, "title", "", "title of the document (default: of the database's outbox events)")
	flags.StringVar(&f.version, "api-version", "1.0.0", "version of what is described")
	return command
}

func (a *app) asyncapi(ctx context.Context, c *config.Config, f asyncapiFlags) error {
	ctx, cancel := context.WithTimeout(ctx, asyncapiTimeout)
	defer cancel()
	api, err := describe(c, f)
	if err != nil {
		return err
	}
	if !f.offline {
		live, err := addTopics(ctx, c, api)
		if err == nil && f.sample > 0 {
			err = addSamples(ctx, c, api, live, f.sample)
		}
		if err != nil {
			return fmt.Errorf("describe what is live: %w: --offline describes what the configuration alone tells", err)
		}
	}
	document := api.Document()
	if f.json {
		return a.printJSON(document)
	}
	text, err := document.YAML()
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	a.printf("%s", text)
	return nil
}

// layouts are the tables, and behind them the messages as if they were.
func layouts(c *config.Config) []decode.Table {
	all := tables(c)
	for _, m := range messages(c) {
		m.Table.Name = "messages with the prefix " + m.Prefix
		all = append(all, m.Table)
	}
	return all
}

// describe says what the configuration tells.
func describe(c *config.Config, f asyncapiFlags) (*asyncapi.API, error) {
	api := &asyncapi.API{Title: f.title, Version: f.version, Description: "Events of a Postgres outbox, as tidemark publishes them."}
	if f.offline {
		api.Description += " Described by the configuration alone: neither Postgres nor Kafka was asked."
	}
	if api.Title == "" {
		api.Title = "Outbox events"
		if source, err := pgconn.ParseConfig(string(c.Source.DSN)); err == nil && source.Database != "" {
			api.Title += " of " + source.Database
		}
	}
	for _, broker := range c.Kafka.Brokers {
		api.Servers = append(api.Servers, asyncapi.Server{Host: broker, Secure: c.Kafka.TLS.Enabled, Login: c.Kafka.SASL.Mechanism})
	}
	for _, t := range layouts(c) {
		shape, err := t.Shape()
		if err != nil {
			return nil, err
		}
		topic := t.Topic
		if topic == "" {
			topic = "{" + t.Columns.Topic + "}"
		}
		template, err := decode.ParseTemplate(topic)
		if err != nil {
			return nil, err
		}
		api.Sources = append(api.Sources, asyncapi.Source{
			Name: t.Name, Literals: template.Literals(), Parameters: template.Placeholders(),
			Headers: shape.Headers, OwnHeaders: t.Columns.Headers != "",
			Key: shape.Key, KeyText: t.Key, ContentType: shape.Static["content-type"],
		})
	}
	return api, nil
}

// addTopics enters the topics that are live and to which a template leads, and returns all that are live. A template that is
// nothing but a column leads anywhere: only the rows tell, see addSamples.
func addTopics(ctx context.Context, c *config.Config, api *asyncapi.API) ([]publish.LiveTopic, error) {
	kafka := kafkaOptions(c)
	live, err := kafka.LiveTopics(ctx, func(name string) bool {
		return name != c.Delivery.DeadLetterTopic && name != c.Checkpoint.Topic
	})
	if err != nil {
		return nil, err
	}
	for i := range api.Sources {
		s := &api.Sources[i]
		matches, err := asyncapi.Matches(s.Literals)
		if err != nil {
			return nil, err
		}
		for _, t := range live {
			if matches != nil && matches.MatchString(t.Name) {
				s.Topics = append(s.Topics, liveTopic(t))
			}
		}
	}
	return live, nil
}

func liveTopic(t publish.LiveTopic) asyncapi.Topic {
	return asyncapi.Topic{Name: t.Name, Partitions: t.Partitions, Replicas: t.Replicas, Configs: t.Configs}
}

// addSamples learns the payloads from the newest rows of each table.
func addSamples(ctx context.Context, c *config.Config, api *asyncapi.API, live []publish.LiveTopic, rows int) error {
	source := sourceOptions(c)
	conn, err := wal.Connect(ctx, source)
	if err != nil {
		return err
	}
	domains, err := conn.Domains(ctx)
	conn.Close()
	if err != nil {
		return err
	}
	decoder, err := decode.New(decode.Options{Tables: tables(c), Domains: domains})
	if err != nil {
		return err
	}
	look, err := wal.OpenLook(ctx, source, source.DSN)
	if err != nil {
		return err
	}
	defer look.Close()
	for i, table := range layouts(c) {
		s := &api.Sources[i]
		if i >= len(c.Outbox) {
			s.Sampled = "Logical messages leave no rows, so nothing is known of the payload."
			continue
		}
		if err := sample(ctx, look, decoder, table, s, live, rows); err != nil {
			return err
		}
	}
	return nil
}

// sample learns the payloads of one table.
func sample(ctx context.Context, look *wal.Look, decoder *decode.Decoder, table decode.Table, s *asyncapi.Source, live []publish.LiveTopic, rows int) error {
	shape, err := table.Shape()
	if err != nil {
		return err
	}
	var existing *decode.Existing
	columns := func(list []wal.Column) (err error) {
		out := make([]decode.Column, len(list))
		for i, c := range list {
			out[i] = decode.Column(c)
		}
		existing, err = decoder.Existing(table.Name, out)
		return err
	}
	s.Payload = &asyncapi.Schema{}
	n := 0
	var ev decode.Event
	wanted := wal.Sample{Table: table.Name, Columns: shape.Fields, Size: table.Columns.Payload, Rows: rows}
	err = look.Sample(ctx, wanted, columns, func(_ wal.Place, _ int64, values [][]byte) {
		existing.Event(values, decode.Position{}, time.Unix(0, 0), &ev)
		if ev.Poison != nil || ev.Value == nil {
			return
		}
		n++
		s.Payload.Add(ev.Value)
		if t := topicOf(s, ev.Topic, live); t != nil {
			if t.Payload == nil {
				t.Payload = &asyncapi.Schema{}
			}
			t.Payload.Add(ev.Value)
		}
	})
	s.Sampled = fmt.Sprintf("Learnt from %d rows at the end of %s: others may look different.", n, table.Name)
	return err
}

// topicOf returns the source's topic of that name; nil if it is not live.
func topicOf(s *asyncapi.Source, name string, live []publish.LiveTopic) *asyncapi.Topic {
	named := func(t asyncapi.Topic) bool { return t.Name == name }
	i := slices.IndexFunc(s.Topics, named)
	if i < 0 {
		at := slices.IndexFunc(live, func(t publish.LiveTopic) bool { return t.Name == name })
		if at < 0 {
			return nil
		}
		s.Topics = append(s.Topics, liveTopic(live[at]))
		i = len(s.Topics) - 1
	}
	return &s.Topics[i]
}
