package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/tidemark/tidemark/config"
)

func TestLogFormat(t *testing.T) {
	tests := []struct {
		format   string
		terminal bool
		json     bool
		color    bool
	}{
		{"auto", true, false, true},
		{"auto", false, true, false},
		{"json", true, true, false},
		{"console", false, false, false},
		{"console", true, false, true},
	}
	t.Setenv("NO_COLOR", "")
	for _, test := range tests {
		var out bytes.Buffer
		log, err := newLogger(config.Log{Level: "info", Format: test.format}, &out, test.terminal)
		if err != nil {
			t.Fatal(err)
		}
		log.Debug().Msg("not shown")
		log.Error().Err(errors.New("no route")).Str("slot", "tidemark").Msg("connect")
		text := out.String()
		var fields map[string]string
		isJSON := json.Unmarshal(out.Bytes(), &fields) == nil
		if isJSON != test.json || strings.Contains(text, "\x1b[") != test.color || !strings.Contains(text, "no route") || strings.Contains(text, "not shown") {
			t.Errorf("format %s, terminal %t: %q", test.format, test.terminal, text)
		}
		if isJSON && (fields["err"] != "no route" || fields["slot"] != "tidemark" || fields["time"] == "" || fields["level"] != "error") {
			t.Errorf("fields %v", fields)
		}
	}
}

func TestLogLevel(t *testing.T) {
	var out bytes.Buffer
	log, err := newLogger(config.Log{Level: "debug", Format: "json"}, &out, false)
	if err != nil {
		t.Fatal(err)
	}
	log.Trace().Msg("trace")
	log.Debug().Msg("debug")
	if text := out.String(); strings.Contains(text, "trace") || !strings.Contains(text, "debug") {
		t.Errorf("level debug logs %s", text)
	}
	if _, err := newLogger(config.Log{Level: "loud"}, &out, false); err == nil {
		t.Error("level loud is accepted")
	}
}

func TestABufferIsNoTerminal(t *testing.T) {
	if isTerminal(&bytes.Buffer{}) {
		t.Error("a buffer is taken for a terminal")
	}
}
