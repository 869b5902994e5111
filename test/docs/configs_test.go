package docs_test

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// configs does as Kafka's kafka-configs, as far as the documents use it: it adds settings to a topic.
func configs(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	if err := addConfigs(ctx, args); err != nil {
		_, _ = fmt.Fprintln(stderr, "kafka-configs:", err)
		return 1
	}
	_, _ = fmt.Fprintln(stdout, "Completed updating config.")
	return 0
}

func addConfigs(ctx context.Context, args []string) error {
	var broker, topic string
	var changes []kadm.AlterConfig
	for len(args) > 0 {
		name, value := args[0], ""
		args = args[1:]
		if name == "--alter" {
			continue
		}
		if len(args) > 0 {
			value, args = args[0], args[1:]
		}
		switch name {
		case "--bootstrap-server":
			broker = value
		case "--topic":
			topic = value
		case "--add-config":
			for entry := range strings.SplitSeq(value, ",") {
				key, to, _ := strings.Cut(entry, "=")
				changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: &to})
			}
		default:
			return fmt.Errorf("%s is %w", name, errNotKnown)
		}
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(broker))
	if err != nil {
		return err
	}
	defer client.Close()
	answers, err := kadm.NewClient(client).AlterTopicConfigs(ctx, changes, topic)
	if err != nil {
		return err
	}
	_, err = answers.On(topic, func(r *kadm.AlterConfigsResponse) error { return r.Err })
	return err
}
