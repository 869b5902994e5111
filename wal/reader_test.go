package wal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"

	"github.com/tidemark/tidemark/devstack"
)

// shortTimeout makes the server cut this connection if it hears nothing of it for 3 seconds.
func (s *source) shortTimeout() {
	s.t.Helper()
	s.options.DSN = with(s.t, s.options.DSN, "options", "-c wal_sender_timeout=3s")
	s.options.StatusInterval = time.Hour // what was configured must not matter
}

// walsender is the server's process for the slot.
func (s *source) walsender() string {
	s.t.Helper()
	return s.query("select active_pid from pg_replication_slots where slot_name = $1", s.options.Slot)
}

// afterwards returns a channel that is closed when d has passed.
func afterwards(d time.Duration) <-chan struct{} {
	done := make(chan struct{})
	time.AfterFunc(d, func() { close(done) })
	return done
}

func TestReaderBringsRowsAndTellsHowFarTheLogIs(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	st := s.stream()
	s.exec("insert into outbox (payload) values ('first'), (null)")
	var rows [][]string
	var end pglogrepl.LSN
	for end == 0 {
		switch m := st.next(); m[0] {
		case 'I':
			rows = append(rows, tuple(t, m))
		case 'C':
			end = pglogrepl.LSN(uint64At(m, 1+1+8))
		}
	}
	if len(rows) != 2 || rows[0][4] != "first" || rows[1][4] != "null" {
		t.Errorf("the rows are %q", rows)
	}
	s.exec("begin")
	s.exec("insert into outbox (payload) values ('never')")
	s.exec("rollback")
	at := s.lsn("select pg_current_wal_insert_lsn()")
	s.exec("insert into outbox default values") // a commit is flushed, a rollback need not be
	s.exec("select pg_switch_wal()")
	if err := st.Ask(); err != nil {
		t.Fatal(err)
	}
	var kinds []byte
	for told := pglogrepl.LSN(0); told < at; {
		m, err := st.Receive(t.Context(), time.Now().Add(2*time.Minute))
		switch {
		case err != nil:
			t.Fatal(err)
		case m.Kind == Quiet:
			t.Fatalf("the server is at %s, and nothing tells that it has sent everything before %s", told, at)
		case m.Kind == Data:
			kinds = append(kinds, m.Data[0])
		case m.Kind == Keepalive:
			told = m.WALEnd
		}
	}
	if got := string(kinds); got != "" && got != "B" && got != "BI" && got != "BIC" { // nothing of what was rolled back
		t.Errorf("the messages are %s", kinds)
	}
}

func TestReceiveIsQuietWhenTheTimeHasCome(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	st := s.stream()
	quiet := func(until time.Time) time.Duration {
		begin := time.Now()
		for {
			m, err := st.Receive(t.Context(), until)
			switch {
			case err != nil:
				t.Fatal(err)
			case m.Kind == Data:
				t.Fatalf("%q comes from nowhere", m.Data)
			case m.Kind == Quiet:
				if time.Now().Before(until) {
					t.Errorf("quiet %s too early", time.Until(until))
				}
				return time.Since(begin)
			}
		}
	}
	for _, d := range []time.Duration{-time.Hour, 0, time.Millisecond, 30 * time.Millisecond, 300 * time.Millisecond, 2 * time.Millisecond} {
		if took := quiet(time.Now().Add(d)); took > max(d, 0)+time.Minute {
			t.Errorf("quiet %s after the time", took-d)
		}
	}
	s.exec("insert into outbox default values") // after a quiet call the next one goes on
	if kinds, _ := st.transaction(); kinds != "BRIC" {
		t.Errorf("the messages are %s", kinds)
	}
}

func TestReceiveAndHoldEndWithTheirContext(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	st := s.stream()
	for name, wait := range map[string]func(context.Context) error{
		"Hold": func(ctx context.Context) error { return st.Hold(ctx, nil) },
		"Receive": func(ctx context.Context) error {
			for {
				if _, err := st.Receive(ctx, time.Time{}); err != nil {
					return err
				}
			}
		},
		"Receive until": func(ctx context.Context) error {
			_, err := st.Receive(ctx, time.Now().Add(time.Hour))
			for err == nil {
				_, err = st.Receive(ctx, time.Now().Add(time.Hour))
			}
			return err
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var at time.Time
		time.AfterFunc(50*time.Millisecond, func() { at = time.Now(); cancel() })
		err := wait(ctx)
		if took := time.Since(at); !errors.Is(err, context.Canceled) || IsConnectionLost(err) || IsPermanent(err) || took > time.Minute {
			t.Errorf("%s: %v, %s after the end of its context", name, err, took)
		}
	}
	s.exec("insert into outbox default values") // the stream has not suffered
	if kinds, _ := st.transaction(); kinds != "BRIC" {
		t.Errorf("the messages are %s", kinds)
	}
}

// While everything behind the reader stands still, the server hears of it, and does not cut the stream.
func TestHoldKeepsTheStreamBeyondTheServersTimeout(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.shortTimeout()
	st := s.stream()
	// More than all buffers on the way hold, so that the server, too, stands still in the middle of sending.
	st.meanwhile(func() { s.exec("insert into outbox (payload) select repeat('x', 100000) from generate_series(1, 200)") })
	for range 3 {
		st.next()
	}
	before := s.walsender()
	if err := st.Hold(t.Context(), afterwards(5*time.Second)); err != nil {
		t.Fatal(err)
	}
	if kinds, _ := st.transaction(); len(kinds) != 203-3 {
		t.Errorf("%d messages after the hold", len(kinds))
	}
	if after := s.walsender(); after != before || before == "" {
		t.Errorf("the walsender was %s and is %s", before, after)
	}
}

func TestReceiveKeepsTheStreamBeyondTheServersTimeout(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.shortTimeout()
	st := s.stream()
	before := s.walsender()
	for until := time.Now().Add(5 * time.Second); ; {
		m, err := st.Receive(t.Context(), until)
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == Quiet {
			break
		}
	}
	s.exec("insert into outbox default values")
	if kinds, _ := st.transaction(); kinds != "BRIC" {
		t.Errorf("the messages are %s", kinds)
	}
	if after := s.walsender(); after != before || before == "" {
		t.Errorf("the walsender was %s and is %s", before, after)
	}
}

// The server may throw away what is confirmed. That is what the store has taken, and nothing that was merely read.
func TestConfirmedIsWhatTheCallerSaysAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	st := s.stream()
	var ends []pglogrepl.LSN
	for range 4 {
		s.exec("insert into outbox default values")
		_, end := st.transaction()
		ends = append(ends, end)
	}
	told := func() string { // what the walsender has been told: written, flushed, applied
		return s.query("select concat_ws(' ', write_lsn, flush_lsn, replay_lsn) from pg_stat_replication where pid = $1::int", s.walsender())
	}
	statuses := func(n int) { // lets n statuses arrive
		for range n {
			before := s.query("select coalesce(reply_time, '-infinity') from pg_stat_replication where pid = $1::int", s.walsender())
			eventually(t, "a status arrives", func() bool {
				if m, err := st.Receive(t.Context(), time.Now().Add(20*time.Millisecond)); err != nil || m.Kind == Data {
					t.Fatalf("Receive() = %q, %v", m.Data, err)
				}
				return s.query("select reply_time > $2::timestamptz from pg_stat_replication where pid = $1::int", s.walsender(), before) == "true"
			})
		}
	}
	for i, at := range []pglogrepl.LSN{st.start, ends[0], ends[0], ends[2], ends[3]} {
		st.confirmed.Store(uint64(at))
		statuses(3)
		if got := s.slotConfirmed(); got != at {
			t.Errorf("%d: the slot is at %s, want %s", i, got, at)
		}
		if got, want := told(), strings.Repeat(at.String()+" ", 3); got+" " != want {
			t.Errorf("%d: the walsender was told %s, want three times %s", i, got, at)
		}
	}
	st.Close()

	// A new stream begins behind what was confirmed, and nowhere else.
	eventually(t, "the slot is free", func() bool { return s.walsender() == "" })
	s.exec("insert into outbox (payload) values ('fifth')")
	st = s.startAt(s.connect(), ends[3])
	for {
		if m := st.next(); m[0] == 'I' {
			if got := tuple(t, m)[4]; got != "fifth" {
				t.Errorf("the first row is %q", got)
			}
			break
		}
	}
}

func TestCloseConfirmsALastTime(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.options.StatusInterval = time.Hour
	st := s.stream()
	s.exec("insert into outbox default values")
	_, end := st.transaction()
	if got := s.slotConfirmed(); got != st.start {
		t.Fatalf("the slot is at %s before anything was confirmed, want %s", got, st.start)
	}
	st.confirmed.Store(uint64(end))
	st.Close()
	eventually(t, "the slot is free", func() bool { return s.walsender() == "" })
	if got := s.slotConfirmed(); got != end {
		t.Errorf("the slot is at %s, want %s", got, end)
	}
}

// Where only others write, the keepalives are what moves the slot on.
func TestKeepalivesMoveAnIdleSlotOnABusyServer(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	busy := newSource(t) // on the same server
	st := s.stream()
	before := s.slotConfirmed()
	busy.exec("insert into outbox (payload) select repeat('x', 1000) from generate_series(1, 1000)")
	at := s.lsn("select pg_current_wal_lsn()")
	eventually(t, "the slot follows", func() bool {
		m, err := st.Receive(t.Context(), time.Now().Add(50*time.Millisecond))
		if err != nil || m.Kind == Data {
			t.Fatalf("Receive() = %q, %v", m.Data, err)
		}
		if m.Kind == Keepalive {
			st.confirmed.Store(max(uint64(m.WALEnd), st.confirmed.Load()))
		}
		return s.slotConfirmed() >= at
	})
	if before >= at {
		t.Errorf("the slot was at %s from the beginning, and the others have written up to %s", before, at)
	}
}

func TestConnectionThatIsCutIsLost(t *testing.T) {
	t.Parallel()
	for name, wait := range map[string]func(*stream) error{
		"Receive": func(st *stream) error {
			for {
				if _, err := st.Receive(st.t.Context(), time.Time{}); err != nil {
					return err
				}
			}
		},
		"Hold": func(st *stream) error { return st.Hold(st.t.Context(), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSource(t)
			st := s.stream()
			s.exec("select pg_terminate_backend($1::text::int)", s.walsender())
			ended := make(chan error, 1)
			go func() { ended <- wait(st) }() // ends with the connection
			select {
			case err := <-ended:
				if !IsConnectionLost(err) || IsPermanent(err) {
					t.Errorf("%s: %v, want a lost connection", name, err)
				}
			case <-afterwards(2 * time.Minute):
				t.Fatal("nobody notices")
			}
			st.Close() // is no harm
		})
	}
}

func TestServerThatRestartsIsALostConnection(t *testing.T) {
	t.Parallel()
	s, pg := ownSource(t, nil)
	st := s.stream()
	for _, mode := range []devstack.StopMode{devstack.StopFast, devstack.StopImmediate} {
		ended := make(chan error, 1)
		go func() { // ends with the connection
			for {
				m, err := st.Receive(context.Background(), time.Time{})
				if err != nil {
					ended <- err
					return
				}
				if m.Kind == Keepalive { // a fast stop waits until everything is confirmed
					st.confirmed.Store(uint64(m.WALEnd))
				}
			}
		}()
		if err := pg.Restart(t.Context(), mode); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !IsConnectionLost(err) || IsPermanent(err) {
			t.Errorf("Receive at a stop that is %s: %v, want a lost connection", mode, err)
		}
		s.db = connectDB(t, s.options.DSN)
		s.exec("insert into outbox default values")
		st = s.startAt(s.connect(), s.slotConfirmed())
		if kinds, _ := st.transaction(); kinds != "BRIC" {
			t.Errorf("the messages after the restart are %s", kinds)
		}
	}
}

// A frozen server looks like one that has nothing to say. It is asked, and then given up.
func TestServerThatIsFrozenIsGivenUp(t *testing.T) {
	t.Parallel()
	s, pg := ownSource(t, nil)
	st := s.stream()
	if st.silence != 2*senderTimeout {
		t.Errorf("%s of silence are allowed, want twice wal_sender_timeout", st.silence)
	}
	st.silence = time.Second
	for until := time.Now().Add(2 * st.silence); ; { // as long as it lives, it answers
		m, err := st.Receive(t.Context(), until)
		if err != nil {
			t.Fatal(err)
		}
		if m.Kind == Quiet {
			break
		}
	}
	if err := pg.Pause(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Resume() })
	begin := time.Now()
	var err error
	for err == nil {
		_, err = st.Receive(t.Context(), time.Time{})
	}
	took := time.Since(begin)
	if !IsConnectionLost(err) || !strings.Contains(err.Error(), "no word") || took < time.Second/2 || took > time.Minute {
		t.Errorf("Receive: %v after %s", err, took)
	}
	// In a hold nobody listens, so nothing is said about it; the next Receive finds out.
	if err := pg.Resume(); err != nil {
		t.Fatal(err)
	}
	st.Close()
	eventually(t, "the slot is free", func() bool { return s.walsender() == "" })
	st = s.startAt(s.connect(), st.start)
	st.silence = time.Second
	if err := pg.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := st.Hold(t.Context(), afterwards(1500*time.Millisecond)); err != nil {
		t.Fatalf("Hold: %v", err)
	}
	begin = time.Now()
	for err = nil; err == nil; {
		_, err = st.Receive(t.Context(), time.Time{})
	}
	if took := time.Since(begin); !IsConnectionLost(err) || took < 500*time.Millisecond {
		t.Errorf("Receive: %v, %s after a hold that was longer than the silence that is allowed", err, took)
	}
}

func TestTimeoutsOfTheServerDecideWhenItIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	dsn := s.options.DSN
	for setting, want := range map[string]struct{ timeout, silence, interval time.Duration }{
		"0":   {senderTimeout, 2 * senderTimeout, senderTimeout / 3}, // off, which would leave the slot with a host that has vanished
		"1s":  {time.Second, minSilence, time.Second / 3},
		"7s":  {7 * time.Second, 14 * time.Second, 7 * time.Second / 3},
		"60s": {senderTimeout, 2 * senderTimeout, senderTimeout / 3},
	} {
		s.options.DSN = with(t, dsn, "options", "-c wal_sender_timeout="+setting)
		s.options.StatusInterval = time.Hour
		c, start := s.createSlot()
		timeout, err := c.limitSenderTimeout(t.Context())
		var ms int64
		if err := c.queryJSON(t.Context(), "select to_json(setting::bigint) from pg_settings where name = 'wal_sender_timeout'", &ms); err != nil {
			t.Fatal(err)
		}
		if err != nil || timeout != want.timeout || ms != want.timeout.Milliseconds() {
			t.Errorf("wal_sender_timeout %s becomes %d ms, and %s is told, %v; want %s", setting, ms, timeout, err, want.timeout)
		}
		st := s.startAt(c, start)
		if st.silence != want.silence || st.statusInterval.Round(time.Millisecond) != want.interval.Round(time.Millisecond) {
			t.Errorf("wal_sender_timeout %s: %s of silence, a status every %s, want %v", setting, st.silence, st.statusInterval, want)
		}
		st.Close()
		s.dropSlot()
		s.exec("drop publication tidemark")
	}
}

// A row may be larger than every buffer, and it takes many reads to come.
func TestLargeRowsArriveWhole(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	s.options.StatusInterval = time.Millisecond // as many interruptions as can be
	st := s.stream()
	sizes := []int{1, readBuffer - 100, readBuffer, readBuffer + 1, 3_000_000, 20_000_000, 5}
	st.meanwhile(func() {
		for _, n := range sizes {
			s.exec("insert into outbox (payload) values (repeat('x', $1::text::int) || '.')", strconv.Itoa(n))
		}
	})
	for i := 0; i < len(sizes); {
		if m := st.next(); m[0] == 'I' {
			got := tuple(t, m)[4]
			if len(got) != sizes[i]+1 || strings.Trim(got, "x") != "." {
				t.Errorf("a row of %d bytes arrives with %d", sizes[i]+1, len(got))
			}
			i++
		}
	}
}

// What Gather leaves in the socket comes when there is enough of it, or when it is asked for without patience.
func TestGatherLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	st := s.stream()
	for i := range 20 { // each too little to wake anybody
		s.exec("insert into outbox (payload) values ($1)", strconv.Itoa(i))
		until := time.Now().Add(20 * time.Millisecond)
		for quiet := false; !quiet; {
			m, err := st.Gather(t.Context(), until)
			if err != nil {
				t.Fatal(err)
			}
			if m.Kind == Data {
				st.mustBe(t, m.Data)
			}
			quiet = m.Kind == Quiet
		}
	}
	const more = 5000
	st.meanwhile(func() {
		s.exec("insert into outbox (payload) select g::text from generate_series(20, $1::text::int) g", strconv.Itoa(more-1))
	})
	for limit := time.Now().Add(time.Minute); st.rows < more-10; { // the last may stay there
		m, err := st.Gather(t.Context(), limit)
		if err != nil || m.Kind == Quiet {
			t.Fatalf("%d rows, %v", st.rows, err)
		}
		if m.Kind == Data {
			st.mustBe(t, m.Data)
		}
	}
	for st.rows < more {
		st.mustBe(t, st.next())
	}
}

// mustBe checks that a row is the one that is next by number, if it is a row.
func (st *stream) mustBe(t *testing.T, data []byte) {
	t.Helper()
	if data[0] != 'I' {
		return
	}
	if got := tuple(t, data)[4]; got != strconv.Itoa(st.rows) {
		t.Fatalf("row %q comes as number %d", got, st.rows)
	}
	st.rows++
}

// Over TLS, too, a read that is interrupted in the middle of a record goes on where it was.
func TestLargeRowsArriveWholeOverTLS(t *testing.T) {
	t.Parallel()
	s, pg := ownSource(t, nil)
	certificate(t, pg.DataDir())
	s.exec("alter system set ssl = on")
	s.exec("select pg_reload_conf()")
	s.options.DSN = with(t, s.options.DSN, "sslmode", "require")
	eventually(t, "the server speaks TLS", func() bool {
		c, err := Connect(t.Context(), s.options)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	s.options.StatusInterval = time.Millisecond
	st := s.stream()
	if got := s.query("select ssl from pg_stat_ssl where pid = $1::int", s.walsender()); got != "true" {
		t.Fatalf("TLS: %s", got)
	}
	const rows, size = 60, 50_000
	st.meanwhile(func() {
		s.exec("insert into outbox (payload) select repeat('x', $1::text::int) from generate_series(1, $2::text::int)", strconv.Itoa(size), strconv.Itoa(rows))
	})
	for i := 0; i < rows; {
		receive := st.Receive
		if i%3 == 0 {
			receive = st.Gather
		}
		m, err := receive(t.Context(), time.Now().Add(time.Millisecond))
		switch {
		case err != nil:
			t.Fatalf("after %d rows: %v", i, err)
		case m.Kind == Quiet:
			if err := st.Hold(t.Context(), afterwards(time.Millisecond)); err != nil {
				t.Fatal(err)
			}
		case m.Kind == Data && m.Data[0] == 'I':
			if got := tuple(t, m.Data)[4]; len(got) != size || strings.Trim(got, "x") != "" {
				t.Fatalf("a row of %d bytes arrives with %d", size, len(got))
			}
			i++
		}
	}
}

// certificate makes server.crt and server.key in the data directory, for the account that it belongs to.
func certificate(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	owner, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	stat := owner.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // of every Unix
	for name, block := range map[string]*pem.Block{"server.crt": {Type: "CERTIFICATE", Bytes: cert}, "server.key": {Type: "PRIVATE KEY", Bytes: private}} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, int(stat.Uid), int(stat.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// Without its publication the server sends no rows. Up to 17 it says so with an error; from 18 on with a warning, and goes
// on as if nothing had been written. Either way the rows are missing from the stream for good.
func TestPublicationThatWasMissingForAWhileIsAGap(t *testing.T) {
	t.Parallel()
	s := newSource(t)
	st := s.stream()
	s.exec("insert into outbox default values")
	_, end := st.transaction()
	s.exec("drop publication tidemark")
	s.exec("insert into outbox (payload) values ('lost')")
	if err := CreatePublication(t.Context(), s.options); err != nil {
		t.Fatal(err)
	}
	s.exec("insert into outbox default values")
	gap := func(st *stream) {
		t.Helper()
		var err error
		for until := time.Now().Add(2 * time.Minute); err == nil; {
			var m Message
			m, err = st.Receive(t.Context(), until)
			if m.Kind == Data || err == nil && m.Kind == Quiet {
				t.Fatalf("the stream goes on with %q", m.Data)
			}
			if m.Kind == Keepalive && m.WALEnd > end+1000 {
				end = max(end, m.WALEnd) // told below if nothing else comes
			}
		}
		if !IsPermanent(err) || !strings.Contains(err.Error(), "publication tidemark") || !strings.Contains(err.Error(), "tidemark init --recreate-slot") {
			t.Errorf("Receive: %v, want a permanent error that says what to do", err)
		}
		st.Close()
		eventually(t, "the slot is free", func() bool { return s.walsender() == "" })
	}
	gap(st)
	gap(s.startAt(s.connect(), end)) // trying again does not help
}
