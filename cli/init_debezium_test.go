package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What `init --from-debezium` prints is a configuration; it overwrites nothing, and says what it left out.
func TestInitFromDebezium(t *testing.T) {
	connector, err := filepath.Abs("../debezium/testdata/connector.json")
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr, status := tidemark(t, []string{"init", "--from-debezium", connector})
	if status != 0 || !strings.Contains(stdout, "- table: sales.outbox") {
		t.Fatalf("exit status %d, stdout %s, stderr %s", status, stdout, stderr)
	}
	if !strings.Contains(stderr, "- my.own.option: ") || strings.Contains(stdout+stderr, "s3cret") {
		t.Errorf("stderr:\n%s", stderr)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if out, _, status := tidemark(t, []string{"init", "--from-debezium", connector, "--output", file}); status != 0 || out != "" {
		t.Fatalf("exit status %d, %s", status, out)
	}
	written, err := os.ReadFile(file)
	if err != nil || string(written) != stdout {
		t.Errorf("%v; the file has\n%s", err, written)
	}
	if _, stderr, status = tidemark(t, []string{"init", "--from-debezium", connector, "--output", file}); status != 1 || !strings.Contains(stderr, "is there already") {
		t.Errorf("a second time: exit status %d, %s", status, stderr)
	}
	if _, stderr, status = tidemark(t, []string{"config", "--config", file}, "TIDEMARK_KAFKA_SASL_PASSWORD=x"); status != 0 {
		t.Errorf("config: exit status %d, %s", status, stderr)
	}
	for _, args := range [][]string{
		{"init", "--output", file},
		{"init", "--from-debezium", filepath.Join(filepath.Dir(connector), "options-3.6.1.txt")},
		{"init", "--from-debezium", connector, "--dry-run"},
	} {
		if _, stderr, status = tidemark(t, args); status != 2 {
			t.Errorf("%s: exit status %d, %s", args, status, stderr)
		}
	}
}
