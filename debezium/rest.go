package debezium

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// rest names the keys that nothing has taken yet.
func (v *conversion) rest() {
	for _, key := range slices.Sorted(maps.Keys(v.given)) {
		if v.used[key] {
			continue
		}
		if i := slices.IndexFunc(known, func(k knownKey) bool { return k.pattern.MatchString(key) }); i < 0 {
			v.lost(key, "this option is not known here")
		} else if known[i].lost {
			v.lost(key, "%s", known[i].why)
		} else {
			v.unneeded(key, known[i].why)
		}
	}
}

// knownKey is a kind of options that is not carried over.
type knownKey struct {
	pattern *regexp.Regexp
	lost    bool // it did something to the records, or to somebody
	why     string
}

//nolint:gochecknoglobals // a table
var known = []knownKey{
	{options("name", `connector\.class`, `tasks\.max.*`, `topic\.prefix`, `database\.server\.name`, "transforms", "predicates", `config\.action\.reload`), false, "a name of Kafka Connect's, or of its parts"},
	{options(`heartbeat\..*`), false, "tidemark confirms positions while its tables are idle, without a heartbeat"},
	{options(`publication\.autocreate\.mode`, `replica\.identity\.autoset\.values`), false, "tidemark init creates a publication with inserts of the outbox tables only"},
	{options(`publish\.via\.partition\.root`), true, "a partitioned outbox table takes a publication with publish_via_partition_root"},
	{options(`tombstones\.on\.delete`, `skipped\.operations`, `include\.unknown\.datatypes`, `include\.schema\.comments`, `(column|datatype)\.propagate\.source\.type`,
		`schema\.refresh\.mode`, `unavailable\.value\.placeholder`, `message\.key\.columns`, `sanitize\.field\.names`, `schema\.name\.adjustment\.mode`,
		`field\.name\.adjustment\.mode`, `topic\.naming\.strategy`, `topic\.delimiter`, `sourceinfo\..*`, `extended\.headers\.enabled`), false, "it is about change events, which the Event Router turns into others"},
	{options(`provide\.transaction\.metadata`, `transaction\.metadata\.factory`, `topic\.transaction`), true, "there is no transaction topic; tidemark-position tells which records one transaction has written"},
	{options(`max\.(batch|queue)\.size.*`, `poll\.interval\.ms`, `query\.fetch\.size`, `xmin\.fetch\.interval\.ms`, `slot\.(max\.retries|retry\.delay\.ms)`,
		`retriable\.restart\..*`, `errors\.(max\.retries|retry\..*|log\..*)`, `lsn\.flush\..*`, `flush\.lsn\.source`, `executor\..*`, `connection\.validation\..*`,
		`database\.(tcpKeepAlive|query\.timeout\.ms|connectionTimeZone|sslfactory)`, `slot\.stream\.params`, `offset\..*`, `internal\..*`, `memory\.management\..*`,
		`(statistics|custom\.metric|openlineage|guardrail|custom\.sanitize)\..*`, `event\.processing\.failure\.handling\.mode`, `transaction\.boundary.*`,
		`snapshot\..*`, `legacy\.snapshot\..*`, `streaming\.delay\.ms`, `schema\.history\..*`), false, "it is about how Debezium works inside"},
	{options(`incremental\.snapshot\..*`, `signal\..*`, `notification\..*`, `read\.only`), true, "there are no signals; rows are published again with tidemark replay or verify --repair"},
	{options(`database\.initial\.statements`), true, "tidemark runs no statements of its user's; have the role set them: alter role … set …"},
	{options(`(decimal|hstore|interval|binary|money\.fraction)\..*`, `time\.precision\.mode`, "converters", `[^.]+\.type`), true, "tidemark writes a column as Postgres prints it, bytea as its bytes; it matters where such a column is key, payload or header (docs/debezium.md)"},
	{options(`column\.mask\..*`, `column\.truncate\..*`), true, "NOTHING IS MASKED OR CUT: the payload and the mapped columns are published as they are"},
	{options(`column\.(include|exclude)\.list`), true, "a record has the mapped columns only; a payload is published as it is"},
	{options(`(table|schema)\.(include|exclude|ignore).*`, `(table|schema|column)\.(whitelist|blacklist)`), true, "name the tables under outbox"},
	{options(`message\.prefix\..*`), true, "logical messages are read by their prefixes: see messages in config.yaml, if there is such a key"},
	{options(`post\.processors.*`, `errors\.deadletterqueue\..*`), true, "it is not done"},
	{options(`topic\.creation\.enable`), true, "kafka.create_topics.enabled says whether topics are created; it is on by default"},
	{options(`topic\.creation\..*`), true, "tidemark creates every topic that an event needs with the same settings: create the others yourself"},
	{options(`header\.converter.*`), true, "tidemark writes the text of a column"},
	{options(`debezium\..*`, `quarkus\..*`), true, "it is Debezium Server's, not the connector's"},
	{options(`transforms\..*`, `predicates\..*`), true, "it is not carried over"},
	{options(`database\..*`), true, "it is not carried over: see what libpq's connection string has for it, and add it to source.dsn"},
}

func options(patterns ...string) *regexp.Regexp {
	return regexp.MustCompile(`^(?:` + strings.Join(patterns, "|") + `)$`)
}
