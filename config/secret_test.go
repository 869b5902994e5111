package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"go.yaml.in/yaml/v3"
)

func TestDSNRedacted(t *testing.T) {
	tests := map[string]string{
		"":                                 "",
		"postgres://relay@db/shop":         "postgres://relay@db/shop",
		"postgres://db/shop":               "postgres://db/shop",
		"postgres://db:5432/shop?a=b":      "postgres://db:5432/shop?a=b",
		"postgres://relay:hunter2@db/shop": "postgres://relay:[redacted]@db/shop",
		"postgres://relay:hunter2@a:1,b:2/shop?target_session_attrs=primary": "postgres://relay:[redacted]@a:1,b:2/shop?target_session_attrs=primary",
		"postgres://relay:hunter2@[::1]:5432/shop":                           "postgres://relay:[redacted]@[::1]:5432/shop",
		"postgresql://relay:hunter2:x@db/shop":                               "postgresql://relay:[redacted]@db/shop",
		"postgres://relay:hun/ter2@db/shop":                                  "postgres://relay:[redacted]@db/shop",
		"postgres://relay:hun@ter2@db/shop":                                  "postgres://relay:[redacted]@db/shop",
		"postgres://relay:hun?ter2@db/shop":                                  "postgres://relay:[redacted]@db/shop",
		"postgres://relay:hun#ter2@db/shop":                                  "postgres://relay:[redacted]@db/shop",
		"postgres://:hunter2@db/shop":                                        "postgres://:[redacted]@db/shop",
		"postgres://db/shop?user=relay&password=hunter2&sslmode=require":     "postgres://db/shop?user=relay&password=[redacted]&sslmode=require",
		"postgres://db/shop?sslpassword=hunter2":                             "postgres://db/shop?sslpassword=[redacted]",
		"postgres://db/shop?p%61ssword=hunter2":                              "postgres://db/shop?p%61ssword=[redacted]",
		"postgres://db/shop?password=hunter2&hunter3&sslmode=require":        "postgres://db/shop?password=[redacted]&[redacted]&sslmode=require",
		"jdbc:postgresql://relay:hunter2@db/shop":                            "jdbc:postgresql://relay:[redacted]@db/shop",
		"host=db user=relay dbname=shop":                                     "host=db user=relay dbname=shop",
		"host=db password=hunter2 user=relay":                                "host=db password=[redacted] user=relay",
		"password = hunter2 host = db":                                       "password=[redacted] host = db",
		`password='hunter2 \' hunter3' host=db`:                              `password=[redacted] host=db`,
		`password='hunter2 \\' host=db`:                                      `password=[redacted] host=db`,
		`password=hunter2\ hunter3 host=db`:                                  `password=[redacted] host=db`,
		"PASSWORD=hunter2 host=db":                                           "PASSWORD=[redacted] host=db",
		"host=db sslpassword='hunter2'":                                      "host=db sslpassword=[redacted]",
		"password='https://hunter2:x@y' host=db":                             "password=[redacted] host=db",
		"password='hunter2 host=db":                                          "password=[redacted]",
		"password=hunter1 hunter2 host=db":                                   "password=[redacted] [redacted]",
		"password=\thunter2\nhost=db":                                        "password=[redacted]\nhost=db",
		"password= host=db":                                                  "password=[redacted]",
		"hunter2":                                                            "[redacted]",
		"=hunter2":                                                           "[redacted]",
		`host=db password=hunter2\`:                                          "host=db password=[redacted]",
	}
	for text, want := range tests {
		if got := DSN(text).Redacted(); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", text, got, want)
		}
	}
}

// TestSecretsNeverShow prints a configuration full of secrets in every way that comes to mind.
func TestSecretsNeverShow(t *testing.T) {
	c := mustLoad(t, `
source:
  dsn: "host=db password='hunter2'"
  admin_dsn: postgres://relay:hunter2@db/shop
kafka:
  sasl: {mechanism: PLAIN, username: relay, password: hunter2}
  options: {ssl.key.password: hunter2}
http: {token: hunter2}
`, "TIDEMARK_KAFKA_SASL_TOKEN=hunter2")
	c.Kafka.Options = nil // a plain map, which only Redacted looks after

	// Not %p: fmt asks nobody about that one, and vet refuses it.
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%T", "%10s", "%c", "%U", "%e"} {
		for _, v := range []any{c, *c, c.Kafka, c.Kafka.SASL.Password, c.Source.DSN, &c.HTTP.Token, []Secret{c.HTTP.Token}, map[string]any{"a": c.Source}} {
			if s := fmt.Sprintf(verb, v); strings.Contains(s, "hunter2") || strings.Contains(strings.ToLower(s), "68756e74657232") {
				t.Errorf("Printf %s of a %T shows a secret: %s", verb, v, s)
			}
		}
	}
	if s := fmt.Sprintln(c.Kafka.SASL.Password, c.HTTP.Token, Secret("")); s != "[redacted] [redacted] \n" {
		t.Errorf("Print: %q", s)
	}
	if s := fmt.Sprintf("%#v", c.Kafka.SASL.Password); s != `"[redacted]"` {
		t.Errorf("%%#v: %s", s)
	}

	var out bytes.Buffer
	j, err := json.Marshal(c)
	if err != nil {
		t.Error(err)
	}
	out.Write(j)
	y, err := yaml.Marshal(c)
	if err != nil {
		t.Error(err)
	}
	out.Write(y)
	for _, w := range []interface{ Write([]byte) (int, error) }{&out, zerolog.ConsoleWriter{Out: &out}} {
		l := zerolog.New(w)
		l.Info().Interface("config", c).Any("any", c.Kafka.SASL).Stringer("dsn", c.Source.DSN).Stringer("token", c.HTTP.Token).
			Interface("secret", c.HTTP.Token).Fields(map[string]any{"dsn2": c.Source.DSN}).Msg("loaded")
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("loaded", "config", c, "token", c.HTTP.Token)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("loaded", "config", c, "dsn", c.Source.DSN)
	if strings.Contains(out.String(), "hunter2") {
		t.Errorf("shows a secret:\n%s", out.String())
	}
	if !strings.Contains(out.String(), "[redacted]") {
		t.Errorf("shows nothing at all:\n%s", out.String())
	}
}

func TestRedacted(t *testing.T) {
	text := `
source:
  dsn: postgres://relay:hunter2@db/shop?sslpassword=hunter2
  admin_dsn: "host=other password='hunter2 x'"
  failover: false
  wal_budget: 1GB
outbox:
  - table: public.outbox
    columns: {type: "", partition: "123"}
    headers: [{name: Tenant, value: "{tenant}"}, {name: "true", value: "null"}]
  - {table: a.b, preset: custom, topic: x, columns: {id: i, payload: p}}
kafka:
  sasl: {mechanism: SCRAM-SHA-512, username: "007", password: hunter2}
  create_topics: {configs: {cleanup.policy: "compact,delete", Upper.Case: 1}}
  options: {ssl.key.password: hunter2, client.id: "yes"}
http: {token: hunter2, listen: ""}
`
	c := mustLoadAlone(t, text)
	printed := string(c.Redacted())
	if strings.Contains(printed, "hunter2") {
		t.Errorf("shows a secret:\n%s", printed)
	}
	for _, want := range []string{
		"dsn: postgres://relay:[redacted]@db/shop?sslpassword=[redacted]", "admin_dsn: host=other password=[redacted]",
		"password: '[redacted]'", "token: '[redacted]'", "status_interval: 1s", "max_buffered_bytes: 32MiB", "listen: \"\"",
	} {
		if !strings.Contains(printed, want) {
			t.Errorf("no %s in:\n%s", want, printed)
		}
	}
	again := mustLoadAlone(t, printed)
	c.Source.DSN, c.Source.AdminDSN = again.Source.DSN, again.Source.AdminDSN
	c.Kafka.SASL.Password, c.HTTP.Token = again.Kafka.SASL.Password, again.HTTP.Token
	c.Kafka.Options["ssl.key.password"] = redacted
	if !reflect.DeepEqual(c, again) {
		t.Errorf("read again:\n%+v\nwant\n%+v\nprinted\n%s", again, c, printed)
	}
}

// mustLoadAlone loads a file that has all that is required.
func mustLoadAlone(t *testing.T, text string) *Config {
	t.Helper()
	c, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSecretsComeFromFiles: each on one line, whatever line end the file has; printed as the file's name alone.
func TestSecretsComeFromFiles(t *testing.T) {
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := fmt.Sprintf(`
source: {dsn_file: %q, admin_dsn_file: %q}
kafka: {sasl: {mechanism: PLAIN, username: relay, password_file: %q}}
http: {token_file: %q}
`, file("postgres://relay:hunter2@db/shop\n"), file("postgres://admin:hunter2@db/shop"), file("hunter2\r\n"), file(" hunter2 "))
	c, err := load(t, text, "TIDEMARK_KAFKA_SASL_TOKEN_FILE="+file("hunter3"))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{string(c.Source.DSN), string(c.Source.AdminDSN), string(c.Kafka.SASL.Password), string(c.Kafka.SASL.Token), string(c.HTTP.Token)}
	want := []string{"postgres://relay:hunter2@db/shop", "postgres://admin:hunter2@db/shop", "hunter2", "hunter3", " hunter2 "}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	printed := string(c.Redacted())
	if strings.Contains(printed, "hunter") || strings.Contains(printed, "[redacted]") {
		t.Errorf("printed:\n%s", printed)
	}
	again := mustLoadAlone(t, printed)
	if !reflect.DeepEqual(c, again) {
		t.Errorf("read again: %+v, want %+v", again, c)
	}
	for wrong, says := range map[string]string{
		"source: {dsn: host=db, dsn_file: " + file("host=db") + "}": "source.dsn_file: and source.dsn are both given; keep one of them",
		"source: {dsn_file: /nowhere/hunter2}":                      "source.dsn_file: open /nowhere/hunter2: no such file or directory",
		"source: {dsn_file: " + file("") + "}":                      "is empty",
		"source: {dsn_file: " + file("hunter2\nhunter3") + "}":      "does not hold one line of text",
		"source: {dsn: host=db}\nhttp: {token: a, token_file: b}":   "http.token_file: and http.token are both given",
		"source: {dsn: host=db}\nhttp: {tls: {cert_file: /x/y}}":    "http.tls.cert_file: and http.tls.key_file go together",
		"source: {dsn: host=db}\nkafka: {sasl: {token_file: /x/y}}": "kafka.sasl.token_file: open /x/y",
	} {
		_, err := load(t, wrong)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", wrong, err, says)
		}
		if err != nil && (strings.Contains(err.Error(), "source.dsn: is required") || strings.Contains(err.Error(), "hunter3")) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}
