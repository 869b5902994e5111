package config

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzLoad: no file and no variable make Load panic; a secret does not get into an error; and what Redacted prints can
// be loaded and printed to the same text.
func FuzzLoad(f *testing.F) {
	defaults := builtIn(f)
	f.Add(defaults, "TIDEMARK_SOURCE_DSN", "host=a")
	f.Add([]byte("source: {dsn: host=a}\noutbox: [{table: a.b, columns: {id: x}}, {table: c.d}]"), "TIDEMARK_OUTBOX_1_HEADERS_0_NAME", "x")
	f.Add([]byte("a: &a [*a]\nsource: *a\n<<: *a"), "TIDEMARK_KAFKA_BROKERS", ",,a")
	f.Add([]byte("kafka: {options: {a::b: c, ? [x] : y, \"\\0\": z}}\nsource: &s {dsn: host=a}"), "TIDMARK_SOURCE_DSN", "")
	f.Add([]byte("---\n# nothing\n"), "TIDEMARK_", "=")
	f.Add([]byte("%YAML 1.1\n---\nsource: {dsn: host=a}\n..."), "TIDEMARK_OUTBOX_0_HEADERS", "[]")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte, name, value string) {
		file := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(defaults, file, []string{name + "=" + value})
		if err != nil {
			if c != nil || !IsInvalid(err) {
				t.Errorf("%v", err)
			}
			return
		}
		printed := c.Redacted()
		if err := os.WriteFile(file, printed, 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Load(defaults, file, nil)
		if err != nil {
			t.Fatalf("cannot be loaded again: %v\n%s", err, printed)
		}
		if twice := again.Redacted(); !bytes.Equal(twice, printed) {
			t.Errorf("printed\n%s\nthen\n%s", printed, twice)
		}

		// Any text may also stand where the defaults are.
		_, _ = Load(text, file, []string{name + "=" + value})
	})
}

func FuzzRedacted(f *testing.F) {
	for _, s := range []string{"postgres://u:p@h/d?password=x", `password='a\'b' host=c`, "a", "x=\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, dsn := range []string{"password='" + escape(s) + "' host=x", "host=x password='" + escape(s) + "'"} {
			if got := DSN(dsn).Redacted(); got != "password=[redacted] host=x" && got != "host=x password=[redacted]" {
				t.Errorf("%q: %q", dsn, got)
			}
		}
		_ = DSN(s).Redacted()
	})
}

// escape writes s as libpq wants it inside single quotes.
func escape(s string) string {
	var out []byte
	for _, b := range []byte(s) {
		if b == '\'' || b == '\\' {
			out = append(out, '\\')
		}
		out = append(out, b)
	}
	return string(out)
}
