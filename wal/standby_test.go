package wal

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/tidemark/tidemark/devstack"
	"github.com/tidemark/tidemark/devstack/stacktest"
)

// replica makes a standby of a server of its own, and returns the source on it; s.db writes to the primary.
func replica(t *testing.T, settings map[string]string) (s *source, primary, standby *devstack.Postgres) {
	t.Helper()
	s, primary = ownSource(t, nil)
	standby, err := primary.Standby(t.Context(), devstack.StandbyOptions{Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the standby's log:\n%s", standby.Log())
		}
		if err := standby.Close(); err != nil {
			t.Error(err)
		}
	})
	s.options.AdminDSN = s.options.DSN
	s.options.DSN = standby.DSN("app")
	return s, primary, standby
}

// The slot is on the standby, whose primary is idle; the stream goes on through the standby's promotion.
func TestStandbyStreamsAndIsPromoted(t *testing.T) {
	t.Parallel()
	s, primary, standby := replica(t, nil)
	s.exec("insert into outbox default values")
	c := s.connect()
	if why, err := c.Endangered(t.Context()); err != nil || why != "" {
		t.Errorf("endangered by %q, %v", why, err)
	}
	if !c.System.Standby || c.System.Timeline != 1 {
		t.Fatalf("System = %+v, want a standby on timeline 1", c.System)
	}
	if err := CreatePublication(t.Context(), s.options); err != nil {
		t.Fatal(err)
	}
	setup, err := OpenSetup(t.Context(), s.options)
	if err != nil {
		t.Fatal(err)
	}
	defer setup.Close()
	if err := c.CatchUp(t.Context(), setup); err != nil {
		t.Fatal(err)
	}
	if missing, err := c.CheckPublication(t.Context()); err != nil || missing {
		t.Fatalf("after catching up: missing %v, %v", missing, err)
	}
	start, snapshot, err := c.CreateSlot(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	existing, err := c.OpenSnapshot(t.Context(), snapshot)
	if err != nil {
		t.Fatal(err)
	}
	if has, err := existing.HasRows(t.Context(), s.options.Tables); err != nil || !has {
		t.Errorf("the snapshot shows a row: %v, %v", has, err)
	}
	existing.Close()

	st := s.startAt(c, start)
	lookout := c.Lookout()
	defer lookout.Close()
	mustBeOn := func(want int32) {
		t.Helper()
		if timeline, err := lookout.Timeline(t.Context()); err != nil || timeline != want {
			t.Errorf("timeline %d, %v, want %d", timeline, err, want)
		}
	}
	s.exec("insert into outbox default values")
	if kinds, _ := st.transaction(); kinds != "BRIC" {
		t.Errorf("the messages are %s", kinds)
	}
	mustBeOn(1)

	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustBeOn(2)
	s.db = connectDB(t, s.options.DSN)
	s.exec("insert into outbox default values")
	if kinds, _ := st.transaction(); strings.Trim(kinds, "R") != "BIC" && kinds != "BRIC" {
		t.Errorf("the messages after the promotion are %s", kinds)
	}
	again := s.connect()
	history, err := again.History(t.Context())
	if err != nil || again.System.Timeline != 2 || again.System.Standby {
		t.Fatalf("System = %+v, %v, want a primary on timeline 2", again.System, err)
	}
	if end := history[1]; len(history) != 1 || end < start {
		t.Errorf("history %v, want an end of timeline 1 behind %s", history, start)
	}
	promoted := again.Lookout()
	defer promoted.Close()
	if timeline, err := promoted.Timeline(t.Context()); timeline != 2 || err != nil {
		t.Errorf("timeline %d, %v of a primary, want 2", timeline, err)
	}

	if err := standby.Restart(t.Context(), devstack.StopImmediate); err != nil {
		t.Fatal(err)
	}
	if _, err := lookout.Timeline(t.Context()); err == nil {
		t.Error("the connection is gone, and so is the certainty that it is the same server")
	}
	if _, err := lookout.Timeline(t.Context()); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a server that was started again: %v", err)
	}
}

func TestFirstTimelineHasNoHistory(t *testing.T) {
	t.Parallel()
	if h, err := newSource(t).connect().History(t.Context()); err != nil || !maps.Equal(h, History{}) {
		t.Errorf("%v, %v", h, err)
	}
}

// An idle primary does not say which transactions run; without a way to ask it, the wait has an end and a reason.
func TestSlotOnAStandbyOfWhichThePrimaryCannotBeAsked(t *testing.T) {
	t.Parallel()
	s, _, _ := replica(t, nil)
	s.exec("create role reader login replication")
	s.exec("checkpoint") // everything there is to say is said
	for admin, want := range map[string]string{
		"":                                      "set source.admin_dsn",
		as(t, s.options.AdminDSN, "reader", ""): "grant execute on function pg_log_standby_snapshot()",
	} {
		s.options.AdminDSN = admin
		create := func() error {
			c := s.connect()
			defer c.Close()
			eventually(t, "the server has given up the attempt before", func() bool {
				slot, err := c.Slot(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return slot == nil
			})
			c.slotTimeout = 2 * time.Second
			_, _, err := c.CreateSlot(t.Context(), false)
			return err
		}
		err := create()
		for err == nil { // the primary had something to say after all, which it has every 15 s at most
			stacktest.DropSlot(t, s.options.DSN, s.options.Slot)
			err = create()
		}
		if !IsPermanent(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("CreateSlot: %v, want %q", err, want)
		}
	}
}

func TestSlotOnAStandbyThatRemovedItsRows(t *testing.T) {
	t.Parallel()
	s, _, _ := replica(t, map[string]string{"hot_standby_feedback": "off"})
	if err := CreatePublication(t.Context(), s.options); err != nil {
		t.Fatal(err)
	}
	c := s.connect()
	start, _, err := c.CreateSlot(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if why, err := c.Endangered(t.Context()); err != nil || !strings.Contains(why, "hot_standby_feedback") {
		t.Errorf("endangered by %q, %v", why, err)
	}
	st := s.startAt(c, start)
	ended := make(chan error, 1)
	go func() { // ends with the stream
		var err error
		for err == nil {
			_, err = st.Receive(context.Background(), time.Time{})
		}
		ended <- err
	}()
	// Rows of the catalogue that the slot still has to see.
	s.exec("create table gone (i int)")
	s.exec("drop table gone")
	s.exec("vacuum pg_class")
	select {
	case err := <-ended:
		if !IsConnectionLost(err) {
			t.Errorf("the stream ends with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the stream goes on")
	}
	asking := s.connect()
	eventually(t, "the slot is lost", func() bool {
		slot, err := asking.Slot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		reason, lost := slot.Lost()
		want := "rows_removed"
		if s.version() < 170000 {
			want = "conflicting"
		}
		if lost && !strings.Contains(reason, want) {
			t.Errorf("the reason is %q", reason)
		}
		return lost
	})
}

func TestFailoverIsAsConfigured(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		setting string
		version int
		standby bool
		want    bool
		says    string
	}{
		{"auto", 180004, false, true, ""},
		{"auto", 170000, false, true, ""},
		{"auto", 160010, false, false, ""},
		{"auto", 180004, true, false, ""},
		{"true", 180004, false, true, ""},
		{"true", 160010, false, false, "Postgres 16"},
		{"true", 180004, true, false, "standby"},
		{"false", 180004, false, false, ""},
	} {
		got, err := System{Version: c.version, Standby: c.standby}.Failover(c.setting)
		if got != c.want || (err != nil) != (c.says != "") || (err != nil && (!IsPermanent(err) || !strings.Contains(err.Error(), c.says))) {
			t.Errorf("%+v: %v, %v", c, got, err)
		}
	}
}

func TestFailoverOfASlotCanBeChanged(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	if s.version() < failoverSince {
		t.Skip("failover slots came with 17")
	}
	c := s.connect()
	if _, _, err := c.CreateSlot(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{true, false, true} {
		if err := c.SetFailover(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if slot, err := c.Slot(t.Context()); err != nil || slot.Failover != want {
			t.Errorf("%+v, %v, want failover %v", slot, err, want)
		}
	}
}

func TestSlotTellsWhoHoldsIt(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	asking := s.connect()
	_, start := s.createSlot()
	slot, err := asking.Slot(t.Context())
	if err != nil || slot.Holder() != "" {
		t.Fatalf("nobody: %q, %v", slot.Holder(), err)
	}
	s.startAt(s.connect(), start)
	slot, err = asking.Slot(t.Context())
	if err != nil || !strings.HasPrefix(slot.Holder(), "tidemark from 127.0.0.1 (Postgres backend ") {
		t.Errorf("held by %q, %v", slot.Holder(), err)
	}
	if got := (&Slot{Active: true, ActivePID: 7}).Holder(); got != "somebody (Postgres backend 7)" {
		t.Errorf("held by somebody of whom the role may know nothing: %q", got)
	}
}
