package decode

import (
	"errors"
	"fmt"
)

// maxTopicLen is the longest name that Kafka gives a topic (org.apache.kafka.common.internals.Topic).
const maxTopicLen = 249

// topics keeps one string for each topic that was seen, so that an event's topic costs no allocation and has been
// checked once.
type topics map[string]string

// maxTopics bounds it: a topic for each customer is more than a cache is for.
const maxTopics = 65536

// intern returns the topic of that name, or says why Kafka would have none.
func (t topics) intern(name []byte) (string, error) {
	if s, ok := t[string(name)]; ok {
		return s, nil
	}
	if err := checkTopic(name); err != nil {
		return "", err
	}
	if len(t) >= maxTopics {
		clear(t)
	}
	s := string(name)
	t[s] = s
	return s, nil
}

func checkTopic(name []byte) error {
	switch {
	case len(name) == 0:
		return errors.New("the name is empty")
	case len(name) > maxTopicLen:
		return fmt.Errorf("%.60q… is no topic name: it has %d bytes, Kafka takes %d", name, len(name), maxTopicLen)
	case string(name) == "." || string(name) == "..":
		return fmt.Errorf("%q is no topic name", name)
	}
	for _, c := range name {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return fmt.Errorf("%q is no topic name: Kafka takes letters, digits, '.', '_' and '-'", name)
		}
	}
	return nil
}
