package docs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// consoleConsumer does as Kafka's kafka-console-consumer, as far as the documents use it.
func consoleConsumer(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	n, err := consume(ctx, args, stdout)
	_, _ = fmt.Fprintf(stderr, "Processed a total of %d messages\n", n)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "kafka-console-consumer:", err)
		return 1
	}
	return 0
}

func consume(ctx context.Context, args []string, out io.Writer) (n int, err error) {
	opts := []kgo.Opt{kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd())}
	shown := map[string]bool{"print.value": true}
	most, patience := -1, 10*time.Minute
	for len(args) > 0 {
		name, value := args[0], ""
		args = args[1:]
		if name == "--from-beginning" {
			opts = append(opts, kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			continue
		}
		if len(args) > 0 {
			value, args = args[0], args[1:]
		}
		switch name {
		case "--bootstrap-server":
			opts = append(opts, kgo.SeedBrokers(value))
		case "--topic":
			opts = append(opts, kgo.ConsumeTopics(value))
		case "--include":
			opts = append(opts, kgo.ConsumeTopics(value), kgo.ConsumeRegex())
		case "--isolation-level":
			if value == "read_committed" {
				opts = append(opts, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
			}
		case "--property", "--formatter-property":
			what, is, _ := strings.Cut(value, "=")
			shown[what] = is == "true"
		case "--max-messages":
			most, err = strconv.Atoi(value)
		case "--timeout-ms":
			var ms int
			ms, err = strconv.Atoi(value)
			patience = time.Duration(ms) * time.Millisecond
		default:
			err = fmt.Errorf("%s is %w", name, errNotKnown)
		}
		if err != nil {
			return 0, err
		}
	}
	client, err := kgo.NewClient(append(opts, kgo.MetadataMinAge(50*time.Millisecond), kgo.MetadataMaxAge(250*time.Millisecond))...)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	for n != most {
		next, cancel := context.WithTimeout(ctx, patience)
		fetches := client.PollRecords(next, 1)
		cancel()
		err := fetches.Err()
		if errors.Is(err, context.DeadlineExceeded) {
			return n, errors.New("org.apache.kafka.common.errors.TimeoutException")
		}
		if ctx.Err() != nil {
			return n, ctx.Err()
		}
		for _, r := range fetches.Records() {
			n++
			_, _ = fmt.Fprintln(out, format(r, shown))
		}
	}
	return n, nil
}

// format writes a record as Kafka's DefaultMessageFormatter does.
func format(r *kgo.Record, shown map[string]bool) string {
	var parts []string
	part := func(name, text string) {
		if shown["print."+name] {
			parts = append(parts, text)
		}
	}
	part("timestamp", fmt.Sprintf("CreateTime:%d", r.Timestamp.UnixMilli()))
	part("partition", fmt.Sprintf("Partition:%d", r.Partition))
	part("offset", fmt.Sprintf("Offset:%d", r.Offset))
	headers := make([]string, 0, len(r.Headers))
	for _, h := range r.Headers {
		headers = append(headers, h.Key+":"+orNull(h.Value))
	}
	if len(headers) == 0 {
		headers = []string{"NO_HEADERS"}
	}
	part("headers", strings.Join(headers, ","))
	part("key", orNull(r.Key))
	part("value", orNull(r.Value))
	return strings.Join(parts, "\t")
}

func orNull(text []byte) string {
	if text == nil {
		return "null"
	}
	return string(text)
}
