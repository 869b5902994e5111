package test_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/test/trial"
)

// TestEventIsFoundAndReplayed by the commands and over HTTP alike.
func TestEventIsFoundAndReplayed(t *testing.T) {
	t.Parallel()
	a := newArena(t)
	a.Config = a.Config.With("TIDEMARK_HTTP_TOKEN", "secret")
	r := a.startReady()
	if err := a.write(trial.Load{Rows: 300}).Wait(); err != nil {
		t.Fatal(err)
	}
	a.judge()
	var id, topic string
	if err := a.Query(t.Context(), []any{&id, &topic}, "select id::text, aggregatetype from outbox where aggregatetype = $1 and aggregateid is not null limit 1", a.Types[0]); err != nil {
		t.Fatal(err)
	}
	ask := func(status int, method, path, body string, into any) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), method, r.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer secret")
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close() //nolint:errcheck // read to its end
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		if answer.StatusCode != status {
			t.Fatalf("%s %s %s: status %d, want %d: %s", method, path, body, answer.StatusCode, status, text)
		}
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
	type receipt struct {
		State   string `json:"state"`
		Records []struct {
			Topic    string `json:"topic"`
			Position string `json:"position"`
			Replayed bool   `json:"replayed"`
		} `json:"records"`
	}
	var first, command, second receipt
	ask(http.StatusOK, http.MethodGet, "/api/events/"+id, "", &first)
	if first.State != "published" || len(first.Records) != 1 || first.Records[0].Topic != a.Topics()[0] {
		t.Errorf("event %s: %+v", id, first)
	}
	if err := json.Unmarshal([]byte(a.toItsEnd(0, "receipt", "--json", id)), &command); err != nil || len(command.Records) != 1 || command.Records[0] != first.Records[0] {
		t.Errorf("the command says %+v, %v, HTTP said %+v", command, err, first)
	}
	a.toItsEnd(1, "receipt", "00000000-0000-0000-0000-000000000000")

	var replayed struct {
		Replayed int    `json:"replayed"`
		Error    string `json:"error"`
	}
	ask(http.StatusBadRequest, http.MethodPost, "/api/replay", `{}`, &replayed)
	ask(http.StatusBadRequest, http.MethodPost, "/api/replay", `{"idss": ["`+id+`"]}`, &replayed)
	ask(http.StatusOK, http.MethodPost, "/api/replay", `{"ids": ["`+id+`"], "dry_run": true}`, &replayed)
	ask(http.StatusOK, http.MethodPost, "/api/replay", `{"ids": ["`+id+`"]}`, &replayed)
	if replayed.Replayed != 1 {
		t.Errorf("%+v", replayed)
	}
	a.await("the replay is found", time.Minute, func() bool {
		ask(http.StatusOK, http.MethodGet, "/api/events/"+id, "", &second)
		return len(second.Records) == 2
	})
	if !second.Records[1].Replayed || second.Records[1].Position != first.Records[0].Position {
		t.Errorf("after the replay: %+v", second)
	}
	if out := a.toItsEnd(0, "replay", "--id", id, "--dry-run"); !strings.Contains(out, "1 rows are chosen") || !strings.Contains(out, id) {
		t.Errorf("replay --dry-run: %s", out)
	}
	a.stop(r)
}
