package bench

import (
	"cmp"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// Result is everything that a run has measured. Its JSON form is public.
type Result struct {
	At       time.Time  `json:"at"`
	Machine  string     `json:"machine"`
	System   string     `json:"system"`
	Tidemark string     `json:"tidemark"`
	Go       string     `json:"go"`
	Postgres string     `json:"postgres"`
	Kafka    string     `json:"kafka"`
	Cases    []Measured `json:"cases"`
}

// Measured is one backlog, with a Drain a run for each of its readers.
type Measured struct {
	Name        string    `json:"name,omitempty"`
	Load        Load      `json:"load"`
	FillSeconds float64   `json:"fill_seconds"`
	Raw         []Drain   `json:"raw_reader"`
	Relay       []Drain   `json:"tidemark"`
	Beside      []Drain   `json:"beside,omitempty"`
	Latency     []Latency `json:"latency,omitempty"`
	Together    float64   `json:"together,omitempty"` // rows a second that writers, relay and a consumer get through at once
	IdleCPU     *float64  `json:"idle_cpu,omitempty"` // share of a core
}

// Drain is one reading of the backlog.
type Drain struct {
	Seconds      float64 `json:"seconds"`       // from the start of the process, or of the stream for the raw reader, to the last row
	FirstSeconds float64 `json:"first_seconds"` // to the first record that a consumer could read; 0 for the raw reader
	CPUSeconds   float64 `json:"cpu_seconds"`   // to the last row, user and kernel mode
	PeakBytes    int64   `json:"peak_bytes"`    // resident memory; 0 for the raw reader, which has no process of its own
	Bytes        int64   `json:"bytes"`         // of the protocol; the raw reader's alone
	Records      int64   `json:"records"`       // offsets that the topics have in the end
	Curve        []Point `json:"curve,omitempty"`
}

// Point is how much had arrived at a time.
type Point struct {
	Seconds float64 `json:"seconds"`
	Records int64   `json:"records"`
}

func (d Drain) rate(rows int) float64 {
	if d.Seconds == 0 {
		return 0
	}
	return float64(rows) / d.Seconds
}

// Latency is how long rows took from the sending of the COMMIT to the consumer, at one rate. What the COMMIT itself took,
// of which the server's disk is the most, is a part of it: before that no relay can see the row.
type Latency struct {
	Rate           int      `json:"rate"`
	PerTransaction int      `json:"rows_per_transaction"`
	Seconds        float64  `json:"seconds"`
	CPUSeconds     float64  `json:"cpu_seconds"` // the relay's
	Rows           int      `json:"rows"`
	P50            float64  `json:"p50_ms"`
	P95            float64  `json:"p95_ms"`
	P99            float64  `json:"p99_ms"`
	P999           float64  `json:"p99.9_ms"`
	Max            float64  `json:"max_ms"`
	CommitP50      float64  `json:"commit_p50_ms"` // of the COMMITs alone
	CommitP99      float64  `json:"commit_p99_ms"`
	Histogram      []Bucket `json:"histogram"`
}

// Bucket counts rows that took less than UpTo, and not less than the bucket before.
type Bucket struct {
	UpTo float64 `json:"up_to_ms"`
	Rows int     `json:"rows"`
}

// newLatency takes latencies in order of size.
func newLatency(sorted []time.Duration) Latency {
	l := Latency{Rows: len(sorted)}
	if len(sorted) == 0 {
		return l
	}
	at := func(q float64) float64 {
		return milliseconds(sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)])
	}
	l.P50, l.P95, l.P99, l.P999, l.Max = at(0.5), at(0.95), at(0.99), at(0.999), at(1)
	// Each bucket is a quarter wider than the one before, from the one with the first row to the one with the last.
	const growth = 1.25
	upTo := math.Pow(growth, math.Floor(math.Log(milliseconds(sorted[0]))/math.Log(growth))+1)
	for i := 0; i < len(sorted); upTo *= growth {
		b := Bucket{UpTo: math.Round(upTo*1000) / 1000}
		for ; i < len(sorted) && milliseconds(sorted[i]) < upTo; i++ {
			b.Rows++
		}
		l.Histogram = append(l.Histogram, b)
	}
	return l
}

func milliseconds(d time.Duration) float64 { return float64(max(d, time.Microsecond)) / 1e6 }

// median returns the drain of median length. With an even number of runs it is the slower one of the two in the middle.
func (m *Measured) median(drains []Drain) Drain {
	if len(drains) == 0 {
		return Drain{}
	}
	sorted := slices.SortedFunc(slices.Values(drains), func(a, b Drain) int { return cmp.Compare(a.Seconds, b.Seconds) })
	return sorted[len(sorted)/2]
}

// ratios returns how long each run of a reader took, as a multiple of the raw reader's in the same round, in order of size.
func (m *Measured) ratios(drains []Drain) []float64 {
	var out []float64
	for i := range min(len(drains), len(m.Raw)) {
		out = append(out, drains[i].Seconds/m.Raw[i].Seconds)
	}
	slices.Sort(out)
	return out
}

// Ratio is the median of the relay's ratios to the raw reader; 0 if there is none.
func (m *Measured) Ratio() float64 { return middle(m.ratios(m.Relay)) }

func middle(sorted []float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)/2]
}

// peak is the largest of all runs.
func peak(drains []Drain) (most int64) {
	for _, d := range drains {
		most = max(most, d.PeakBytes)
	}
	return most
}

func machine() string {
	name := runtime.GOARCH
	info, _ := os.ReadFile("/proc/cpuinfo") // elsewhere the architecture has to do
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			name = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%s of %s, %s", plural(runtime.NumCPU(), "core"), name, runtime.GOOS)
}

// ownCPU is the processor time that this process has had so far.
func ownCPU() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// address takes a DSN apart, for a program that knows none.
func address(dsn string) (host, port, user, password string, err error) {
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		return "", "", "", "", fmt.Errorf("--source: %w", err)
	}
	if _, _, err := net.SplitHostPort(net.JoinHostPort(c.Host, "0")); err != nil {
		return "", "", "", "", fmt.Errorf("--source: %w", err)
	}
	return c.Host, strconv.Itoa(int(c.Port)), c.User, c.Password, nil
}

// plural counts things.
func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return comma(n) + " " + what
}

func rowsOf(n int) string { return plural(n, "row") }

// comma writes a number with commas between the thousands.
func comma(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func bytesOf(n int) string {
	switch {
	case n >= 10<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%d KiB", n>>10)
	default:
		return fmt.Sprintf("%d B", n)
	}
}

func durationOf(ms float64) string {
	switch {
	case ms < 10:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0f ms", ms)
	default:
		return fmt.Sprintf("%.1f s", ms/1000)
	}
}
