package relay

import (
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
)

func TestLagIsTheAgeOfTheOldestThatIsNotStored(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	var m marks
	lag := func(want time.Duration, when string) {
		t.Helper()
		if got := m.lag(now); got != want {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	lag(0, "nothing is known")
	m.note(1000, ago(5*time.Second)) // the end of the log, looked up
	lag(5*time.Second, "nothing was read yet")
	m.note(200, ago(3*time.Hour)) // a row of the backlog
	lag(3*time.Hour, "the backlog is old")
	m.passed(199)
	lag(3*time.Hour, "stored up to just before that row")
	m.passed(200)
	lag(5*time.Second, "that row is stored, and the end of the log is not")
	m.passed(1000)
	lag(0, "all is stored")
	m.note(1001, now.Add(time.Minute))
	lag(0, "the source's clock is ahead")
}

func TestMarksAreBoundedAndKeepTheOldest(t *testing.T) {
	now := time.Now()
	var m marks
	for i := range 10 * maxMarks {
		m.note(pglogrepl.LSN(i+1), now.Add(time.Duration(i)*time.Second))
		if len(m) > maxMarks {
			t.Fatalf("%d marks", len(m))
		}
	}
	if got := m.lag(now.Add(time.Hour)); got != time.Hour {
		t.Errorf("the oldest mark is lost: %v", got)
	}
}
