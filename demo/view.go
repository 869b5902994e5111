package demo

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidemark/tidemark/checkpoint"
)

const (
	frameInterval = 250 * time.Millisecond
	lineInterval  = time.Second
	shownRecords  = 8
	fullColumns   = 100 // where ids are shown whole
)

// view is what there is to see at a moment.
type view struct {
	phase   string
	written time.Duration // how long the writers have been writing; 0 before
	counts  Counts
	waiting time.Duration // of the oldest row that is behind
	latency percentiles
	stored  string
	kills   int64
	rate    rate
}

func (d *demo) look(ctx context.Context) view {
	now := time.Now()
	v := view{phase: *d.phase.Load(), latency: d.ledger.recent(now), stored: "none yet", kills: d.relay.kills.Load()}
	v.counts, v.waiting = d.ledger.findings(now)
	if c := d.stored(ctx); c != nil && c.State == checkpoint.Streaming {
		v.stored = c.LSN.String()
	}
	if began := d.began.Load(); began != nil {
		if ended := d.ended.Load(); ended != nil {
			now = *ended
		}
		v.written = now.Sub(*began)
	}
	v.rate = d.rates.add(v.counts, now)
	return v
}

// show draws, or prints a line now and then, until ctx is done.
func (d *demo) show(ctx context.Context) error {
	interval := frameInterval
	if d.Terminal == nil {
		interval = lineInterval
	}
	for wait(ctx, interval) {
		switch v := d.look(ctx); {
		case d.Terminal != nil:
			d.screen.draw(d.frame(v))
		case v.written > 0:
			d.screen.say(line(v))
		}
	}
	return nil
}

// line is a view for those who read along in a file.
func line(v view) string {
	s := fmt.Sprintf("%-8s %3.0fs  committed %d  rolled back %d  published %d  lag %d rows  p50 %s  p99 %s  stored %s",
		v.phase, v.written.Seconds(), v.counts.Committed, v.counts.RolledBack, v.counts.Published, v.counts.Lost,
		duration(v.latency.p50), duration(v.latency.p99), v.stored)
	if v.kills > 0 {
		s += fmt.Sprintf("  kills %d", v.kills)
	}
	if c := v.counts; c.Doubled+c.Misordered+c.Phantom > 0 {
		s += fmt.Sprintf("  doubled %d  misordered %d  phantom %d", c.Doubled, c.Misordered, c.Phantom)
	}
	return s
}

// frame is a view for a terminal.
func (d *demo) frame(v view) []string {
	s, c := d.screen, v.counts
	columns, _ := d.Terminal.Size()
	row := func(name, first, second, third string) string {
		return " " + s.paint(bold, pad(name, 11)) + pad(first, 27) + pad(second, 24) + third
	}
	between := func(what string) string { return s.paint(faint, "    │       "+what) }
	lag := "lag " + amount(c.Lost, "row")
	if c.Lost > 0 {
		lag += ", " + duration(v.waiting)
	}
	killed := ""
	if d.KillEvery > 0 {
		killed = times("killed", v.kills)
	}
	checks := []string{s.verdict(c.Doubled, "doubled"), s.verdict(c.Misordered, "misordered"), s.verdict(c.Phantom, "phantom")}
	if v.phase == phaseDone {
		checks = append([]string{s.verdict(c.Lost, "lost")}, checks...)
	}
	lines := []string{
		"",
		" " + s.paint(bold, "tidemark demo") + "   " + s.paint(cyan, d.doing(v)),
		"",
		row("Postgres", amount(c.Committed, "row")+" committed", comma(c.RolledBack)+" rolled back", perSecond(v.rate.committed)),
		between("its log, by logical replication"),
		row("tidemark", lag, "stored LSN "+v.stored, killed),
		between("records that Kafka acknowledges"),
		row("Kafka", amount(c.Published, "record")+" published", "", perSecond(v.rate.published)),
		between("a consumer that checks each record"),
		" " + s.paint(bold, pad("reader", 11)) + strings.Join(checks, "   "),
		pad("", 12) + "p50 " + duration(v.latency.p50) + "   p99 " + duration(v.latency.p99) + "   from the commit to here",
		"",
	}
	lines = append(lines, " "+s.paint(faint, recordLine(columns, "id", "key", "type", "position")))
	if r := d.ledger.lastRecord(); r.id != "" && (len(d.shown) == 0 || d.shown[0].id != r.id) {
		d.shown = append([]record{r}, d.shown[:min(len(d.shown), shownRecords-1)]...)
	}
	for i := range shownRecords {
		text := ""
		if i < len(d.shown) {
			r := d.shown[i]
			text = " " + recordLine(columns, r.id, r.key, r.typ, r.position)
		}
		lines = append(lines, text)
	}
	return append(lines, "")
}

// doing says what is going on, and until when.
func (d *demo) doing(v view) string {
	seconds := int(v.written.Seconds())
	switch {
	case v.phase == phaseDone:
		return fmt.Sprintf("done after %d s", seconds)
	case v.phase != phaseWriting:
		return v.phase + "…"
	case d.For > 0:
		return fmt.Sprintf("running, %d s of %v; Ctrl-C ends it now", seconds, d.For)
	default:
		return fmt.Sprintf("running, %d s; Ctrl-C ends it", seconds)
	}
}

// recordLine is a line of the list of records.
func recordLine(columns int, id, key, typ, position string) string {
	width := 36
	if columns < fullColumns {
		width = 17
		if len(id) == 36 {
			id = id[:8] + "…" + id[28:]
		}
	}
	return pad(id, width+2) + pad(key, 14) + pad(typ, 18) + position
}

// summaryLines say how it went.
func (d *demo) summaryLines(s Summary) []string {
	all := d.ledger.total()
	counts := fmt.Sprintf("committed %s   rolled back %s   published %s", comma(s.Committed), comma(s.RolledBack), comma(s.Published))
	if d.KillEvery > 0 {
		counts += "   kills " + comma(s.Kills)
	}
	lines := []string{
		counts,
		"commit to consumer: p50 " + duration(all.p50) + ", p99 " + duration(all.p99) + ", at most " + duration(all.most),
	}
	if s.Clean() {
		return append(lines, s.findings(), d.screen.paint(green, "Every committed row is in Kafka, once and in order; no rolled-back row is."))
	}
	return append(lines, d.screen.paint(red, s.findings()),
		"lost: committed, and never arrived; doubled: arrived again; misordered: arrived after a later row of its key;",
		"phantom: arrived, and no committed row explains it")
}

// findings are the numbers that should all be zero.
func (c Counts) findings() string {
	return fmt.Sprintf("lost %s   doubled %s   misordered %s   phantom %s", comma(c.Lost), comma(c.Doubled), comma(c.Misordered), comma(c.Phantom))
}

// verdict is a number that should be zero.
func (s *screen) verdict(n int, word string) string {
	if n == 0 {
		return s.paint(green, "0 "+word)
	}
	return s.paint(red, comma(n)+" "+word)
}

// rate is how much there was a second.
type rate struct{ committed, published float64 }

// rates remembers the counts of the last seconds.
type rates []struct {
	at     time.Time
	counts Counts
}

func (r *rates) add(c Counts, now time.Time) rate {
	const window = 3 * time.Second
	*r = append(*r, struct {
		at     time.Time
		counts Counts
	}{now, c})
	for len(*r) > 2 && now.Sub((*r)[0].at) > window {
		*r = (*r)[1:]
	}
	first := (*r)[0]
	seconds := now.Sub(first.at).Seconds()
	if seconds == 0 {
		return rate{}
	}
	return rate{float64(c.Committed-first.counts.Committed) / seconds, float64(c.Published-first.counts.Published) / seconds}
}

func perSecond(n float64) string { return comma(int(n+0.5)) + "/s" }

func times(what string, n int64) string {
	if n == 1 {
		return what + " once"
	}
	return fmt.Sprintf("%s %d times", what, n)
}

func amount(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return comma(n) + " " + what
}

// comma writes a number with commas between the thousands.
func comma(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// duration writes two or three digits.
func duration(d time.Duration) string {
	switch ms := float64(d) / float64(time.Millisecond); {
	case d == 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.1f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(width-utf8.RuneCountInString(s), 1))
}
