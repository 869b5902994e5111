package relay

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/tidemark/tidemark/checkpoint"
	"github.com/tidemark/tidemark/wal"
)

func TestJudgeRefusesWhateverCouldHideAGap(t *testing.T) {
	t.Parallel()
	sys := wal.System{ID: "7", Timeline: 2, Database: "shop", Flushed: 0x5000}
	slot := func(edit func(*wal.Slot)) *wal.Slot {
		s := &wal.Slot{Name: "tidemark", Plugin: "pgoutput", Type: "logical", Database: "shop", ConfirmedFlushLSN: "0/2000", RestartLSN: "0/1000", WALStatus: "reserved"}
		if edit != nil {
			edit(s)
		}
		return s
	}
	stored := func(edit func(*checkpoint.Checkpoint)) *checkpoint.Checkpoint {
		c := &checkpoint.Checkpoint{Version: 1, SystemIdentifier: "7", Timeline: 2, Database: "shop", Slot: "tidemark", LSN: 0x3000}
		if edit != nil {
			edit(c)
		}
		return c
	}
	tests := map[string]struct {
		slot    *wal.Slot
		stored  *checkpoint.Checkpoint
		want    decision
		refused string // what the refusal says
		wrong   string // what another error says
	}{
		"no slot, no checkpoint":                  {nil, nil, create, "", ""},
		"slot, no checkpoint":                     {slot(nil), nil, adopt, "", ""},
		"slot behind the checkpoint":              {slot(nil), stored(nil), resume, "", ""},
		"slot at the checkpoint":                  {slot(func(s *wal.Slot) { s.ConfirmedFlushLSN = "0/3000" }), stored(nil), resume, "", ""},
		"slot ahead of the checkpoint":            {slot(func(s *wal.Slot) { s.ConfirmedFlushLSN = "0/3001" }), stored(nil), 0, "ahead of the checkpoint", ""},
		"checkpoint, no slot":                     {nil, stored(nil), 0, "does not exist, but a checkpoint", ""},
		"first start interrupted before the slot": {nil, stored(func(c *checkpoint.Checkpoint) { c.State = checkpoint.ExistingRows; c.LSN = 0 }), create, "", ""},
		"first start interrupted after the slot":  {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.State = checkpoint.ExistingRows; c.LSN = 0 }), begin, "", ""},
		"slot lost":                               {slot(func(s *wal.Slot) { s.WALStatus = "lost" }), stored(nil), 0, "is lost", ""},
		"slot lost, no checkpoint":                {slot(func(s *wal.Slot) { s.WALStatus = "lost" }), nil, 0, "is lost", ""},
		"slot invalidated":                        {slot(func(s *wal.Slot) { s.InvalidationReason = "idle_timeout" }), stored(nil), 0, "idle_timeout", ""},
		"slot in conflict on a standby":           {slot(func(s *wal.Slot) { s.Conflicting = true }), stored(nil), 0, "conflict", ""},
		"another cluster":                         {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.SystemIdentifier = "8" }), 0, "system identifier 8", ""},
		"another cluster, no slot":                {nil, stored(func(c *checkpoint.Checkpoint) { c.SystemIdentifier = "8" }), 0, "system identifier 8", ""},
		"another database":                        {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.Database = "other" }), 0, "database other", ""},
		"another slot":                            {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.Slot = "other" }), 0, "slot other", ""},
		"a checkpoint that was moved":             {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.State = checkpoint.Moved; c.MovedTo = "Kafka topic x" }), 0, "moved to Kafka topic x", ""},
		"a checkpoint that was moved, no slot":    {nil, stored(func(c *checkpoint.Checkpoint) { c.State = checkpoint.Moved; c.MovedTo = "file y" }), 0, "moved to file y", ""},
		"an old primary":                          {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.Timeline = 3 }), 0, "timeline 3", ""},
		"a failover that the slot lived":          {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.Timeline = 1 }), resume, "", ""},
		"a failover that it did not live":         {nil, stored(func(c *checkpoint.Checkpoint) { c.Timeline = 1 }), 0, "to which the slot was not synced", ""},
		"a failover at the checkpoint":            {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.Timeline, c.LSN = 1, 0x3800 }), resume, "", ""},
		"a failover before the checkpoint":        {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.Timeline, c.LSN = 1, 0x3801 }), 0, "lacked the end of the log", ""},
		"a failover, and the slot is ahead":       {slot(func(s *wal.Slot) { s.ConfirmedFlushLSN = "0/3001" }), stored(func(c *checkpoint.Checkpoint) { c.Timeline = 1 }), 0, "ahead of the checkpoint", ""},
		"a failover from elsewhere":               {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.Timeline = 0 }), 0, "has not grown from it", ""},
		"the way out was interrupted":             {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.State = checkpoint.Republish; c.LSN = 0 }), begin, "", ""},
		"the way out before the slot":             {nil, stored(func(c *checkpoint.Checkpoint) { c.State = checkpoint.Republish; c.LSN = 0 }), create, "", ""},
		"slot whose rows a standby removed":       {slot(func(s *wal.Slot) { s.InvalidationReason = "rows_removed" }), stored(nil), 0, "hot_standby_feedback = on", ""},
		"slot that the primary's wal_level lost":  {slot(func(s *wal.Slot) { s.InvalidationReason = "wal_level_insufficient" }), stored(nil), 0, "wal_level = logical on the primary", ""},
		"a server that has lost its end":          {slot(nil), stored(func(c *checkpoint.Checkpoint) { c.LSN = 0x6000 }), 0, "ahead of the server's log", ""},
		"wrong plugin":                            {slot(func(s *wal.Slot) { s.Plugin = "test_decoding" }), nil, 0, "", "pgoutput"},
		"physical slot":                           {slot(func(s *wal.Slot) { s.Type = "physical" }), nil, 0, "", "logical"},
		"slot of another database":                {slot(func(s *wal.Slot) { s.Database = "other" }), nil, 0, "", "database other"},
		"temporary slot":                          {slot(func(s *wal.Slot) { s.Temporary = true }), nil, 0, "", "temporary"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := judge(tt.slot, tt.stored, sys, wal.History{1: 0x3800}, "tidemark")
			var refusal *Refusal
			refused := errors.As(err, &refusal)
			switch {
			case tt.refused != "":
				if !refused || !strings.Contains(err.Error(), tt.refused) || refusal.WayOut == "" {
					t.Errorf("got %d, %v; want a refusal that says %q and the way out", got, err, tt.refused)
				}
			case tt.wrong != "":
				if err == nil || refused || !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("got %d, %v; want an error that says %q and is no refusal", got, err, tt.wrong)
				}
			case err != nil || got != tt.want:
				t.Errorf("got %d, %v; want %d", got, err, tt.want)
			}
		})
	}
}

// A synced slot is of no use on a standby, and will be after its promotion: that passes, and is no refusal.
func TestSyncedSlotOfAStandbyIsWaitedFor(t *testing.T) {
	t.Parallel()
	sys := wal.System{ID: "7", Timeline: 1, Database: "shop", Flushed: 0x5000, Standby: true}
	slot := &wal.Slot{Name: "tidemark", Plugin: "pgoutput", Type: "logical", Database: "shop", ConfirmedFlushLSN: "0/2000", Temporary: true, Synced: true}
	_, err := judge(slot, &checkpoint.Checkpoint{SystemIdentifier: "7", Timeline: 1, Database: "shop", Slot: "tidemark", LSN: 0x3000}, sys, nil, "tidemark")
	if err == nil || !passes(err) || !strings.Contains(err.Error(), "target_session_attrs") {
		t.Errorf("%v, want an error that passes", err)
	}
}

func TestForksAreWhereTheLogWasCut(t *testing.T) {
	t.Parallel()
	sys := wal.System{Timeline: 3, Flushed: 0x5000}
	history := wal.History{1: 0x2000, 2: 0x3000}
	old := []checkpoint.Fork{{LSN: 0x1000, Offsets: checkpoint.Offsets{"t": {0: 1}}}}
	for name, c := range map[string]struct {
		stored checkpoint.Checkpoint
		want   []checkpoint.Fork
	}{
		"the same timeline":           {checkpoint.Checkpoint{Timeline: 3, LSN: 0x4000, Forks: old}, old},
		"one failover":                {checkpoint.Checkpoint{Timeline: 2, LSN: 0x2800, Forks: old}, []checkpoint.Fork{old[0], {LSN: 0x3000}}},
		"two failovers":               {checkpoint.Checkpoint{Timeline: 1, LSN: 0x1800}, []checkpoint.Fork{{LSN: 0x2000}}},
		"beyond the cut":              {checkpoint.Checkpoint{Timeline: 2, LSN: 0x4000}, []checkpoint.Fork{{LSN: 0x3000}}},
		"a server that lost its end":  {checkpoint.Checkpoint{Timeline: 3, LSN: 0x6000, Forks: old}, []checkpoint.Fork{{}}},
		"not grown from there":        {checkpoint.Checkpoint{Timeline: 4, LSN: 0x2800, Forks: old}, []checkpoint.Fork{{}}},
		"rows are known by their ids": {checkpoint.Checkpoint{Timeline: 2, State: checkpoint.ExistingRows}, []checkpoint.Fork{{}}},
	} {
		if got := Forks(&c.stored, sys, history); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
