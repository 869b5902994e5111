package wal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// walsender is the server's end of a stream, played by a test, which says byte by byte what a real one would not.
type walsender struct {
	t    *testing.T
	conn net.Conn

	mu       sync.Mutex
	statuses []status
	changed  chan struct{} // capacity 1: there are more
}

// status is what the reader tells. (https://www.postgresql.org/docs/current/protocol-replication.html: Standby status update)
type status struct {
	written, flushed, applied pglogrepl.LSN
	reply                     bool
	at                        time.Time
}

// play connects a Reader with a walsender that says nothing by itself.
func play(t *testing.T, publication string) (*Reader, *walsender) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // one connection is all
	client, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	w := &walsender{t: t, conn: server, changed: make(chan struct{}, 1)}
	heard := make(chan struct{})
	go func() { // ends with the connection
		defer close(heard)
		w.listen()
	}()
	r := newReader(t, client, publication)
	t.Cleanup(func() {
		_ = client.Close()
		_ = server.Close()
		<-heard
	})
	return r, w
}

func newReader(tb testing.TB, client net.Conn, publication string) *Reader {
	tb.Helper()
	config, err := pgconn.ParseConfig("")
	if err != nil {
		tb.Fatal(err)
	}
	valve := &valve{}
	config.BuildFrontend = valve.frontend // as Connect does
	pg, err := pgconn.Construct(&pgconn.HijackedConn{Conn: client, Config: config})
	if err != nil {
		tb.Fatal(err)
	}
	now := time.Now()
	r := &Reader{
		conn: &Conn{options: Options{Slot: "slot", Publication: publication}, pg: pg, valve: valve}, net: client,
		confirmed:      func() pglogrepl.LSN { return 0x16B3748 },
		statusInterval: 10 * time.Millisecond, silence: time.Minute, lastHeard: now, nextStatus: now,
	}
	if err := r.arm(r.wake(now)); err != nil {
		tb.Fatal(err)
	}
	return r
}

// listen reads statuses until the connection ends.
func (w *walsender) listen() {
	for {
		var head [5]byte
		if _, err := io.ReadFull(w.conn, head[:]); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(w.conn, body); err != nil {
			return
		}
		if head[0] != 'd' || len(body) != 34 || body[0] != 'r' {
			if head[0] != 'X' { // a farewell
				w.t.Errorf("the reader says %q %x", head[0], body)
			}
			continue
		}
		lsn := func(at int) pglogrepl.LSN { return pglogrepl.LSN(uint64At(body, at)) }
		w.mu.Lock()
		w.statuses = append(w.statuses, status{lsn(1), lsn(9), lsn(17), body[33] != 0, time.Now()})
		w.mu.Unlock()
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// status waits for a status that came after since and is as ok wants it.
func (w *walsender) status(since time.Time, ok func(status) bool) status {
	w.t.Helper()
	limit := afterwards(2 * time.Minute)
	for {
		w.mu.Lock()
		i := slices.IndexFunc(w.statuses, func(s status) bool { return s.at.After(since) && ok(s) })
		if i >= 0 {
			defer w.mu.Unlock()
			return w.statuses[i]
		}
		w.mu.Unlock()
		select {
		case <-w.changed:
		case <-limit:
			w.t.Fatal("no such status")
		}
	}
}

func (w *walsender) say(b []byte) {
	w.t.Helper()
	if _, err := w.conn.Write(b); err != nil {
		w.t.Errorf("say: %v", err)
	}
}

// message is a message of the protocol, with its length.
func message(kind byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))) //nolint:gosec // small
	return append(b, body...)
}

func xlogData(data string) []byte {
	return message('d', append(append([]byte{'w'}, make([]byte, 24)...), data...))
}

func keepalive(end uint64, reply byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{'k'}, end)
	return message('d', append(append(b, make([]byte, 8)...), reply))
}

// problem is an ErrorResponse or a NoticeResponse.
func problem(kind byte, code, text string) []byte {
	return message(kind, fmt.Appendf(nil, "SWARNING\x00VWARNING\x00C%s\x00M%s\x00\x00", code, text))
}

// Wherever a pause falls into a message, and whatever the reader does meanwhile, the message arrives whole.
func TestReceiveGoesOnInTheMiddleOfAMessage(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // no secret
	r, w := play(t, "tidemark")
	var want []string
	var bytes []byte
	for i := range 200 {
		size := random.IntN(60)
		if i%50 == 49 {
			size = readBuffer + random.IntN(readBuffer)
		}
		data := strings.Repeat(string(rune('a'+i%26)), size) + fmt.Sprint(i)
		want = append(want, data)
		bytes = append(bytes, xlogData(data)...)
		if i%7 == 0 {
			bytes = append(bytes, keepalive(uint64(i), byte(i%2))...) //nolint:gosec // small
			want = append(want, fmt.Sprint("keepalive ", pglogrepl.LSN(i)))
		}
	}
	said := make(chan struct{})
	go func() { // ends with what there is to say
		defer close(said)
		for pause := time.NewTicker(12 * time.Millisecond); len(bytes) > 0; { // longer than the status interval
			n := min(1+random.IntN(40), len(bytes))
			if random.IntN(20) == 0 {
				n = min(len(bytes), random.IntN(len(bytes)/4+1)+1)
			}
			w.say(bytes[:n])
			bytes = bytes[n:]
			if random.IntN(3) == 0 {
				<-pause.C
			}
		}
	}()
	for i, n := 0, 0; i < len(want); n++ {
		until := time.Time{}
		if n%3 == 0 {
			until = time.Now().Add(time.Duration(n%5) * time.Millisecond)
		}
		m, err := r.Receive(t.Context(), until)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		var got string
		switch m.Kind {
		case Quiet:
			if n%10 == 0 {
				if err := r.Hold(t.Context(), afterwards(3*time.Millisecond)); err != nil {
					t.Fatal(err)
				}
			}
			continue
		case Data:
			got = string(m.Data)
		case Keepalive:
			got = fmt.Sprint("keepalive ", m.WALEnd)
		}
		if got != want[i] {
			t.Fatalf("message %d is %.80q (%d bytes), want %.80q (%d bytes)", i, got, len(got), want[i], len(want[i]))
		}
		i++
	}
	<-said
}

// Who stands again and again for a moment, as one does whom little room is given, stands for long.
func TestHoldSendsStatusHoweverShortItIs(t *testing.T) {
	t.Parallel()
	r, w := play(t, "tidemark")
	begin := time.Now()
	done := make(chan struct{}, 1)
	for end := begin.Add(2 * time.Minute); time.Now().Before(end); {
		done <- struct{}{}
		if err := r.Hold(t.Context(), done); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		n := len(w.statuses)
		w.mu.Unlock()
		if n >= 3 {
			return
		}
	}
	t.Error("no status is sent")
}

func TestStatusSaysThreeTimesTheSame(t *testing.T) {
	t.Parallel()
	r, w := play(t, "tidemark")
	two := make(chan struct{})
	go func() { // ends with the second status, or fails the test
		defer close(two)
		first := w.status(time.Time{}, func(status) bool { return true })
		w.status(first.at, func(status) bool { return true })
	}()
	if err := r.Hold(t.Context(), two); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := r.Ask(); err != nil {
		t.Fatal(err)
	}
	w.status(begin, func(s status) bool { return s.reply })
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.statuses {
		if s.written != 0x16B3748 || s.flushed != s.written || s.applied != s.written {
			t.Errorf("status %d is %+v", i, s)
		}
		if last := i == len(w.statuses)-1; s.reply != last {
			t.Errorf("status %d of %d wants a reply: %v", i, len(w.statuses), s.reply)
		}
	}
}

func TestKeepaliveThatWantsAReplyGetsItAtOnce(t *testing.T) {
	t.Parallel()
	r, w := play(t, "tidemark")
	r.statusInterval, r.nextStatus = time.Hour, time.Now().Add(time.Hour)
	w.say(keepalive(1, 0))
	if m, err := r.Receive(t.Context(), time.Time{}); err != nil || m.Kind != Keepalive || m.WALEnd != 1 {
		t.Fatalf("Receive() = %+v, %v", m, err)
	}
	begin := time.Now()
	w.mu.Lock()
	if len(w.statuses) > 0 {
		t.Error("a status that nobody wanted")
	}
	w.mu.Unlock()
	w.say(keepalive(2, 1))
	if m, err := r.Receive(t.Context(), time.Time{}); err != nil || m.Kind != Keepalive || m.WALEnd != 2 {
		t.Fatalf("Receive() = %+v, %v", m, err)
	}
	if s := w.status(begin, func(status) bool { return true }); s.reply {
		t.Error("the reply wants a reply: the two would go on forever")
	}
}

// While it decodes a large transaction of other tables, a walsender looks for requests only every half
// wal_sender_timeout. It must have been asked by then, or a transaction that takes longer than the timeout would end
// every connection in the same place.
func TestServerThatDecodesForLongIsNotGivenUp(t *testing.T) {
	t.Parallel()
	const timeout = 3 * time.Second // a slow machine may take a moment of it
	r, w := play(t, "tidemark")
	r.silence, r.statusInterval = timeout, timeout/3
	ctx, cancel := context.WithCancel(t.Context())
	decoded := make(chan struct{})
	go func() { // ends after three timeouts
		defer close(decoded)
		defer cancel()
		looked := time.Now()
		for tick := time.NewTicker(timeout / 2); time.Since(w.begun()) < 3*timeout; {
			<-tick.C
			w.mu.Lock()
			asked := slices.ContainsFunc(w.statuses, func(s status) bool { return s.reply && s.at.After(looked) })
			w.mu.Unlock()
			looked = time.Now()
			if asked {
				w.say(keepalive(1, 0))
			}
		}
	}()
	var err error
	for err == nil {
		_, err = r.Receive(ctx, time.Time{})
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Receive: %v, and the server was at work", err)
	}
	<-decoded
}

// begun is when the first status came, or now.
func (w *walsender) begun() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.statuses) == 0 {
		return time.Now()
	}
	return w.statuses[0].at
}

// A status that cannot be sent, because the server reads nothing, ends the stream after the silence that is allowed.
func TestStatusThatCannotBeSentIsGivenUp(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe() // holds nothing
	t.Cleanup(func() { _ = server.Close(); _ = client.Close() })
	r := newReader(t, client, "tidemark")
	r.silence = 200 * time.Millisecond
	begin := time.Now()
	err := r.Hold(t.Context(), nil)
	if took := time.Since(begin); !IsConnectionLost(err) || !errors.Is(err, os.ErrDeadlineExceeded) || took < r.silence || took > time.Minute {
		t.Errorf("Hold: %v after %s", err, took)
	}
}

func TestReceiveRefusesWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		say    []byte
		lost   bool
		reason string
	}{
		"an empty copy message":        {message('d', nil), false, "malformed message of 0 bytes"},
		"an unknown kind of it":        {message('d', []byte("z12345678901234567890123456")), false, "malformed message of 27 bytes"},
		"data without its head":        {message('d', append([]byte{'w'}, make([]byte, 23)...)), false, "malformed message of 24 bytes"},
		"a short keepalive":            {message('d', append([]byte{'k'}, make([]byte, 16)...)), false, "malformed message of 17 bytes"},
		"a long keepalive":             {message('d', append([]byte{'k'}, make([]byte, 18)...)), false, "malformed message of 19 bytes"},
		"rows":                         {message('T', []byte{0, 0}), false, "unexpected protocol message"},
		"an unknown message":           {message('?', nil), true, "unknown message type"},
		"a length that is none":        {[]byte{'d', 0, 0, 0, 3}, true, "invalid message length"},
		"a negative length":            {[]byte{'d', 0xff, 0xff, 0xff, 0xff}, true, "invalid message length"},
		"a length beyond all messages": {[]byte{'d', 0x7f, 0xff, 0xff, 0xff}, true, "body"},
		"the end of the copy":          {message('c', nil), true, "the server ended it"},
		"the end of the command":       {message('C', []byte("COPY 0\x00")), true, "the server ended it"},
		"an error":                     {problem('E', "57P01", "terminating connection due to administrator command"), true, "administrator command"},
		"an error about a right":       {problem('E', "42501", "permission denied"), true, "grant the role what it lacks"},
		"the end":                      {nil, true, "EOF"},
		"the end inside a head":        {[]byte{'d', 0, 0}, true, "EOF"},
		"the end inside a body":        {message('d', make([]byte, 30))[:20], true, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, w := play(t, "tidemark")
			w.say(c.say)
			if err := w.conn.(*net.TCPConn).CloseWrite(); err != nil { //nolint:forcetypeassert // play made it
				t.Fatal(err)
			}
			m, err := r.Receive(t.Context(), time.Time{})
			if err == nil || IsConnectionLost(err) != c.lost || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("Receive() = %+v, %v (lost %v), want one that says %q (lost %v)", m, err, IsConnectionLost(err), c.reason, c.lost)
			}
			if permanent := strings.Contains(name, "right"); IsPermanent(err) != permanent {
				t.Errorf("permanent is %v of %v", !permanent, err)
			}
		})
	}
}

func TestReceivePassesOverWhatIsNotForIt(t *testing.T) {
	t.Parallel()
	r, w := play(t, "log")
	w.say(slices.Concat(
		problem('N', "01000", "just so you know"),
		problem('N', "55000", "the logical decoding takes a while"), // not about publication log
		problem('N', "55000", "catalog_log and log2 are busy"),
		problem('N', "42704", `role "log" does not exist`),
		message('S', []byte("TimeZone\x00UTC\x00")),
		message('A', []byte{0, 0, 0, 1, 'c', 0, 'p', 0}),
		xlogData("here"),
	))
	m, err := r.Receive(t.Context(), time.Time{})
	if err != nil || m.Kind != Data || string(m.Data) != "here" {
		t.Errorf("Receive() = %+v, %v", m, err)
	}
}

func TestReceiveHearsOfAMissingPublicationInEveryLanguage(t *testing.T) {
	t.Parallel()
	for _, c := range [][]byte{
		problem('N', "55000", `skipped loading publication "log"`),
		problem('N', "55000", "Laden der Publikation »log« übersprungen"),
		problem('N', "55000", "catalog: publication «log»"),
		problem('E', "42704", `publication "log" does not exist`),
		problem('E', "42704", "Publikation „log“ existiert nicht"),
	} {
		r, w := play(t, "log")
		w.say(c)
		_, err := r.Receive(t.Context(), time.Time{})
		if !IsPermanent(err) || !strings.Contains(err.Error(), "publication log did not exist") {
			t.Errorf("%q: %v", c, err)
		}
	}
}

// What PgBouncer 1.18 answered, without and with ignore_startup_parameters.
func TestAConnectionPoolerIsNamed(t *testing.T) {
	t.Parallel()
	in := message('R', make([]byte, 4))           // AuthenticationOk
	in = append(in, message('Z', []byte{'I'})...) // ReadyForQuery
	for name, answers := range map[string][][]byte{
		"refuses": {problem('E', "08P01", "unsupported startup parameter: intervalstyle")},
		"ignores": {in, append(problem('E', "42601", `syntax error at or near "IDENTIFY_SYSTEM"`), message('Z', []byte{'I'})...)},
	} {
		_, err := Connect(t.Context(), Options{DSN: answering(t, answers...)})
		if !IsPermanent(err) || !strings.Contains(err.Error(), "pooler") {
			t.Errorf("one that %s: %v", name, err)
		}
	}
}

// answering is the DSN of a server that answers each message of its first client with the next of the answers.
func answering(t *testing.T, answers ...[]byte) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() { // ends with the listener, or with the client, which the test closes
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		request := make([]byte, 4096)
		for _, a := range answers {
			if _, err := conn.Read(request); err != nil {
				return
			}
			if _, err := conn.Write(a); err != nil {
				return
			}
		}
		_, _ = io.Copy(io.Discard, conn)
	}()
	return "postgres://relay@" + listener.Addr().String() + "/shop?sslmode=disable"
}

// TestHoldGivesTheBufferOfALargeRowBack: such a row may wait for long, and its copy is what waits. What follows it, or was
// here already, arrives all the same.
func TestHoldGivesTheBufferOfALargeRowBack(t *testing.T) {
	t.Parallel()
	r, w := play(t, "tidemark")
	const size = 20 << 20
	large := strings.Repeat("x", size)
	said := make(chan struct{})
	go func() { // ends when all is read
		defer close(said)
		w.say(slices.Concat(xlogData("before"), xlogData(large), xlogData("after"), xlogData(large+"y"), xlogData("end")))
	}()
	for i, want := range []string{"before", large, "after", large + "y", "end"} {
		m, err := r.Receive(t.Context(), time.Time{})
		if err != nil || m.Kind != Data || string(m.Data) != want {
			t.Fatalf("message %d is %.20q of %d bytes, %v", i, m.Data, len(m.Data), err)
		}
		gone := make(chan struct{})
		if len(want) > size/2 {
			runtime.AddCleanup(&m.Data[0], func(gone chan struct{}) { close(gone) }, gone) // m is not used any more
		} else {
			close(gone)
		}
		collected := make(chan struct{})
		go func() { // ends when the buffer is free, or with the test
			defer close(collected)
			for tick := time.NewTicker(10 * time.Millisecond); ; {
				runtime.GC()
				select {
				case <-gone:
					return
				case <-t.Context().Done():
					return
				case <-tick.C:
				}
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		if err := r.Hold(ctx, collected); err != nil {
			t.Errorf("message %d is still there while the reader stands: %v", i, err)
		}
		cancel()
	}
	<-said
}

// deaf is a connection into which everything vanishes.
type deaf struct{ net.Conn }

func (deaf) Write(b []byte) (int, error)      { return len(b), nil }
func (deaf) SetReadDeadline(time.Time) error  { return nil }
func (deaf) SetWriteDeadline(time.Time) error { return nil }

// Whatever comes inside a copy message, it is understood or refused; and what is understood is all of it.
func FuzzCopyData(f *testing.F) {
	for _, seed := range [][]byte{xlogData("row")[5:], keepalive(1, 1)[5:], keepalive(1<<63, 0)[5:], {}, {'w'}, {'k'}} {
		f.Add(seed)
	}
	r := newReader(f, deaf{}, "tidemark")
	f.Fuzz(func(t *testing.T, data []byte) {
		m, ok, err := r.handleCopyData(data)
		switch {
		case ok == (err != nil):
			t.Fatalf("%x: %v and %v", data, ok, err)
		case err != nil:
		case m.Kind == Data && data[0] == 'w' && len(data) >= 25 && bytes.Equal(m.Data, data[25:]):
		case m.Kind == Keepalive && data[0] == 'k' && len(data) == 18 && uint64(m.WALEnd) == binary.BigEndian.Uint64(data[1:]):
		default:
			t.Fatalf("%x is understood as %+v", data, m)
		}
	})
}

// The server's messages are in its language, and may hold anything.
func FuzzProblem(f *testing.F) {
	f.Add("55000", `skipped loading publication "log"`, "log")
	f.Add("42704", "Publikation „log“ existiert nicht", "log")
	f.Add("00000", "loglog log", "")
	f.Fuzz(func(t *testing.T, code, text, publication string) {
		r := &Reader{conn: &Conn{options: Options{Slot: "slot", Publication: publication}}}
		_, ok, err := r.handle(&pgproto3.NoticeResponse{Code: code, Message: text})
		if gap := code == "55000" && r.names(text); ok || gap != (err != nil) || gap != (err != nil && IsPermanent(err)) {
			t.Fatalf("notice %q %q: %v, %v", code, text, ok, err)
		}
		_, ok, err = r.handle(&pgproto3.ErrorResponse{Code: code, Message: text})
		if ok || err == nil {
			t.Fatalf("error %q %q: %v, %v", code, text, ok, err)
		}
		if r.names(text) && !strings.Contains(text, publication) {
			t.Fatalf("%q does not name %q", text, publication)
		}
	})
}
