// Package config is tidemark's typed configuration: the built-in defaults, a YAML file above them, the environment
// above both. It is the only user of viper and knows nothing of the parts that it configures.
//
// The one rule: nothing is guessed. A key that is not known, a value that does not fit and a variable that matches no
// key are problems, and all problems are reported at once, because each further start to find the next one costs an
// operator a deployment.
//
// The commented config.yaml at the root of the repository is embedded in the binary and is the defaults; no default
// is repeated in Go. A field's yaml tag is its key in the file, and its name in the environment follows from that:
// source.status_interval is TIDEMARK_SOURCE_STATUS_INTERVAL.
package config

import "time"

// Config is the whole configuration, checked and complete: what Load returns needs no further defaults. It may be
// printed and logged in any way, because what is secret in it has a type that does not show itself.
type Config struct {
	Source     Source     `yaml:"source"`
	Outbox     []Table    `yaml:"outbox"`   // with Messages, at least one
	Messages   []Message  `yaml:"messages"` //
	Kafka      Kafka      `yaml:"kafka"`
	Delivery   Delivery   `yaml:"delivery"`
	Checkpoint Checkpoint `yaml:"checkpoint"`
	HTTP       HTTP       `yaml:"http"`
	Reconcile  Reconcile  `yaml:"reconcile"`
	Prune      Prune      `yaml:"prune"`
	Log        Log        `yaml:"log"`

	// Warnings are what looks like a mistake and cannot be called one, such as a variable whose name is nearly that
	// of a key. They are meant for the log, one line each, and carry no values.
	Warnings []string `yaml:"-"`
}

// Source is the Postgres that the outbox tables are in.
type Source struct {
	DSN            DSN           `yaml:"dsn"`             // a libpq URL or keywords
	DSNFile        string        `yaml:"dsn_file"`        // DSN was read from it, unless empty
	AdminDSN       DSN           `yaml:"admin_dsn"`       // where SQL that writes goes; DSN unless configured
	AdminDSNFile   string        `yaml:"admin_dsn_file"`  // AdminDSN was read from it, unless empty
	Slot           string        `yaml:"slot"`            // a valid slot name
	Publication    string        `yaml:"publication"`     //
	Create         bool          `yaml:"create"`          // slot and publication may be created on the first start
	ExistingRows   string        `yaml:"existing_rows"`   // publish, skip
	Failover       string        `yaml:"failover"`        // auto, true, false
	StatusInterval time.Duration `yaml:"status_interval"` // > 0
	WALBudget      int64         `yaml:"wal_budget"`      // bytes; 0 is no budget
}

// Table is one outbox table, its preset applied: an empty column is not mapped, whatever the preset.
type Table struct {
	Table   string           `yaml:"table"`  // schema.name, as Postgres stores both, no quotes
	Preset  string           `yaml:"preset"` // debezium, eventuate, custom
	Columns Columns          `yaml:"columns"`
	Topic   string           `yaml:"topic"` // template, never empty
	Key     string           `yaml:"key"`   // template; empty is a null key
	Headers []HeaderTemplate `yaml:"headers"`
	Format  string           `yaml:"format"`  // plain, cloudevents, cloudevents-structured
	OnNull  string           `yaml:"on_null"` // tombstone, empty, poison

	CloudEvents CloudEvents `yaml:"cloudevents"` // only with such a format

	OutboxID string `yaml:"outbox_id"` // with preset eventuate, where the database numbers the messages; empty: it does not
}

// Message is a prefix of logical messages (pg_logical_emit_message) that are read as outbox events. Its columns are the
// fields of the JSON objects that they carry.
type Message struct {
	Prefix           string           `yaml:"prefix"`
	Preset           string           `yaml:"preset"` // debezium, custom
	Columns          Columns          `yaml:"columns"`
	Topic            string           `yaml:"topic"` // template, never empty
	Key              string           `yaml:"key"`   // template; empty is a null key
	Headers          []HeaderTemplate `yaml:"headers"`
	Format           string           `yaml:"format"`            // plain, cloudevents, cloudevents-structured
	OnNull           string           `yaml:"on_null"`           // tombstone, empty, poison
	NonTransactional string           `yaml:"non_transactional"` // poison, publish, skip

	CloudEvents CloudEvents `yaml:"cloudevents"` // only with such a format
}

// Layout is the message's mapping as that of a table, whose name is empty.
func (m *Message) Layout() Table {
	return Table{
		Preset: m.Preset, Columns: m.Columns, Topic: m.Topic, Key: m.Key, Headers: m.Headers, Format: m.Format, OnNull: m.OnNull,
		CloudEvents: m.CloudEvents,
	}
}

// Columns says which column of an outbox table holds what. ID and Payload are always set; of the others, an empty one
// is not mapped.
type Columns struct {
	ID          string `yaml:"id"`
	Key         string `yaml:"key"`
	Type        string `yaml:"type"`
	Topic       string `yaml:"topic"`
	Payload     string `yaml:"payload"`
	Headers     string `yaml:"headers"`
	Timestamp   string `yaml:"timestamp"`
	Partition   string `yaml:"partition"`
	TraceParent string `yaml:"traceparent"`
	TraceState  string `yaml:"tracestate"`

	CorrelationID string `yaml:"correlation_id"`
	CausationID   string `yaml:"causation_id"`
	ReplyTo       string `yaml:"reply_to"`
	ExpiresAt     string `yaml:"expires_at"`
}

// CloudEvents are attributes of a CloudEvent, each a template; an empty one is as usual.
type CloudEvents struct {
	Source      string `yaml:"source"`
	Type        string `yaml:"type"`
	Subject     string `yaml:"subject"`
	ContentType string `yaml:"content_type"`
	DataSchema  string `yaml:"data_schema"`
}

// HeaderTemplate is a record header whose value is made from the row. It is an entry of a list, not of a map, so that
// the order and the case of the names stay as they are written.
type HeaderTemplate struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"` // template
}

// Kafka is where the events go.
type Kafka struct {
	Brokers          []string          `yaml:"brokers"` // host:port, at least one
	TLS              TLS               `yaml:"tls"`
	SASL             SASL              `yaml:"sasl"`
	Compression      string            `yaml:"compression"`        // none, gzip, snappy, lz4, zstd
	MaxBufferedBytes int64             `yaml:"max_buffered_bytes"` // > 0
	CreateTopics     CreateTopics      `yaml:"create_topics"`
	Options          map[string]string `yaml:"options"` // by the producer's own names, case kept
}

// TLS says how the brokers are spoken to. The files are PEM and have not been looked at.
type TLS struct {
	Enabled            bool   `yaml:"enabled"`
	CAFile             string `yaml:"ca_file"`   // empty: the system's authorities
	CertFile           string `yaml:"cert_file"` // both or neither of CertFile and KeyFile are set
	KeyFile            string `yaml:"key_file"`
	ServerName         string `yaml:"server_name"` // empty: the broker's host name
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"`
}

// SASL is how tidemark logs in at the brokers. With a mechanism, what that mechanism needs is set.
type SASL struct {
	Mechanism string `yaml:"mechanism"` // empty is off; PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER
	Username  string `yaml:"username"`
	Password  Secret `yaml:"password"`
	Token     Secret `yaml:"token"` // for OAUTHBEARER
	// What the files hold may change: they are to be read again for each login. Password, Token and ClientSecret are what they
	// held at Load.
	PasswordFile string `yaml:"password_file"`
	TokenFile    string `yaml:"token_file"`

	// For OAUTHBEARER in the place of Token: an OAuth 2 token endpoint, which gives tokens to a client with a secret.
	TokenURL         string            `yaml:"token_url"`
	ClientID         string            `yaml:"client_id"`
	ClientSecret     Secret            `yaml:"client_secret"`
	ClientSecretFile string            `yaml:"client_secret_file"`
	Scope            string            `yaml:"scope"`         // several with blanks between
	TokenCAFile      string            `yaml:"token_ca_file"` // PEM; empty: the system's authorities
	Extensions       map[string]string `yaml:"extensions"`    // for the brokers, with either kind of token
}

// CreateTopics says whether and how a topic that does not exist is created.
type CreateTopics struct {
	Enabled           bool              `yaml:"enabled"`
	Partitions        int32             `yaml:"partitions"`         // -1: the broker's default
	ReplicationFactor int16             `yaml:"replication_factor"` // -1: the broker's default
	Configs           map[string]string `yaml:"configs"`            // such as cleanup.policy
}

// Delivery is what is promised, and what happens to an event that cannot be published.
type Delivery struct {
	Mode            string `yaml:"mode"` // at_least_once, exactly_once
	ResumeDedupe    bool   `yaml:"resume_dedupe"`
	OnPoison        string `yaml:"on_poison"` // stop, dead_letter, park
	DeadLetterTopic string `yaml:"dead_letter_topic"`
}

// Checkpoint is where the safe LSN is kept.
type Checkpoint struct {
	Store    string        `yaml:"store"`    // file, postgres, kafka
	Path     string        `yaml:"path"`     // for file
	Topic    string        `yaml:"topic"`    // for kafka
	Interval time.Duration `yaml:"interval"` // > 0
}

// HTTP is the page, the API, health and metrics.
type HTTP struct {
	Listen string `yaml:"listen"` // host:port; empty is off
	Token  Secret `yaml:"token"`  // empty: requests that change something are refused
	// TokenFile is what Token was read from, unless empty.
	TokenFile string  `yaml:"token_file"`
	TLS       HTTPTLS `yaml:"tls"`
}

// HTTPTLS is the certificate of the HTTP server: both files, PEM, or none for no TLS. They have not been looked at.
type HTTPTLS struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// Reconcile is how often a running relay verifies.
type Reconcile struct {
	Interval time.Duration `yaml:"interval"` // 0 is never
}

// Prune is which rows a running relay deletes, and how often. Both are set or neither.
type Prune struct {
	OlderThan time.Duration `yaml:"older_than"` // 0 is none
	Interval  time.Duration `yaml:"interval"`   // 0 is never
}

// Log is how much is logged, and in which form.
type Log struct {
	Level  string `yaml:"level"`  // trace, debug, info, warn, error
	Format string `yaml:"format"` // auto, console, json
}
