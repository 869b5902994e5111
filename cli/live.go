package cli

import (
	"time"

	"github.com/tidemark/tidemark/config"
	"github.com/tidemark/tidemark/relay"
)

// liveUpdate is what the page gets once a second: at first all that is remembered, then what is new.
type liveUpdate struct {
	Now      time.Time          `json:"now"`
	Version  string             `json:"version"`
	NotReady string             `json:"not_ready"` // why, "" if it is ready
	Status   *statusReport      `json:"status"`
	Points   []relay.Point      `json:"points"`
	Events   []liveEvent        `json:"events"` // oldest first
	Topics   []relay.TopicCount `json:"topics"` // null: as they were
	TopicsOf int                `json:"topics_of"`
	Token    bool               `json:"token"` // changes are possible, with http.token
}

// liveEvent is an acknowledged event, without its payload.
type liveEvent struct {
	ID          string    `json:"id"`
	Table       string    `json:"table"`
	Topic       string    `json:"topic"`
	Key         *string   `json:"key"` // as in a parkedEvent
	Type        string    `json:"type"`
	Partition   int32     `json:"partition"`
	Offset      int64     `json:"offset"`
	Position    string    `json:"position"`
	Bytes       int       `json:"bytes"`
	CommittedAt time.Time `json:"committed_at"`
	AckedAt     time.Time `json:"acked_at"`
}

const (
	liveTopics      = 50
	liveTopicsEvery = 5 // updates: with thousands of topics, counting takes a while
)

// liveFeed returns what admin.Options.Live is: a function for each viewer, which remembers what that one has got.
func liveFeed(c *config.Config, r *relay.Relay, metrics *relay.Metrics, report func() *statusReport) func() func() any {
	version := buildInfo().Version
	return func() func() any {
		var points time.Time
		var events uint64
		updates := 0
		return func() any {
			u := &liveUpdate{
				Now: time.Now().UTC(), Version: version, Status: report(), Points: r.History(points), Events: []liveEvent{}, Token: c.HTTP.Token != "",
			}
			if err := r.Ready(); err != nil {
				u.NotReady = err.Error()
			}
			if n := len(u.Points); n > 0 {
				points = u.Points[n-1].At
			}
			for _, e := range r.Recent(events) {
				events = e.Sequence
				u.Events = append(u.Events, newLiveEvent(&e))
			}
			if updates%liveTopicsEvery == 0 {
				u.Topics, u.TopicsOf = metrics.Topics(liveTopics)
			}
			updates++
			return u
		}
	}
}

func newLiveEvent(e *relay.Published) liveEvent {
	return liveEvent{
		ID: e.ID, Table: e.Table, Topic: e.Topic, Key: textOrHex(e.Key), Type: e.Type, Partition: e.Partition, Offset: e.Offset,
		Position: e.Position.String(), Bytes: e.Bytes, CommittedAt: e.CommittedAt.UTC(), AckedAt: e.AckedAt.UTC(),
	}
}
