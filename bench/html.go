package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

//go:embed report.html
var reportHTML string

// HTML writes the result as one page that needs nothing else: no script, no font, no network.
func (r *Result) HTML(w io.Writer) error {
	page, err := template.New("report").Parse(reportHTML)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	type section struct {
		*Measured
		Title, About string
		Lines        []line
		Plots        []template.HTML
		Idle         string
	}
	var sections []section
	for i := range r.Cases {
		m := &r.Cases[i]
		s := section{Measured: m, Title: m.Name, About: m.describe(), Lines: m.lines()}
		if s.Title == "" {
			s.Title = "Backlog"
		}
		s.Plots = append(s.Plots, m.curves())
		for j := range m.Latency {
			s.Plots = append(s.Plots, m.Latency[j].plot())
		}
		if m.IdleCPU != nil {
			s.Idle = fmt.Sprintf("%.2f %%", *m.IdleCPU*100)
		}
		sections = append(sections, s)
	}
	err = page.Execute(w, map[string]any{"Result": r, "At": r.At.Format("2006-01-02 15:04 MST"), "Sections": sections})
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// A plot's size, and the room for the text around it.
const (
	plotWidth, plotHeight       = 720, 260
	plotLeft, plotTop           = 70, 30
	plotInnerWidth, plotInnerHt = plotWidth - plotLeft - 20, plotHeight - plotTop - 45
)

// plot is an SVG that grows. Only text of ours goes into it.
type plot struct {
	strings.Builder
	maxX, maxY float64
}

// draw adds to it. Writing into memory does not fail.
func (p *plot) draw(format string, args ...any) { _, _ = fmt.Fprintf(&p.Builder, format, args...) }

func newPlot(title string, maxX, maxY float64) *plot {
	p := &plot{maxX: max(maxX, 1e-9), maxY: max(maxY, 1e-9)}
	p.draw(`<svg viewBox="0 0 %d %d" role="img" aria-label="%s"><text class="t" x="%d" y="16">%s</text>`,
		plotWidth, plotHeight, template.HTMLEscapeString(title), plotLeft, template.HTMLEscapeString(title))
	return p
}

func (p *plot) x(v float64) float64 { return plotLeft + v/p.maxX*plotInnerWidth }
func (p *plot) y(v float64) float64 { return plotTop + plotInnerHt - v/p.maxY*plotInnerHt }

// axes draws round numbers along both sides.
func (p *plot) axes(xLabel string, formatX, formatY func(float64) string) {
	for _, v := range ticks(p.maxY) {
		p.draw(`<path class="g" d="M%d %.1fH%d"/><text class="l" text-anchor="end" x="%d" y="%.1f">%s</text>`,
			plotLeft, p.y(v), plotLeft+plotInnerWidth, plotLeft-6, p.y(v)+4, formatY(v))
	}
	if formatX != nil {
		for _, v := range ticks(p.maxX) {
			p.draw(`<text class="l" text-anchor="middle" x="%.1f" y="%d">%s</text>`, p.x(v), plotTop+plotInnerHt+16, formatX(v))
		}
	}
	p.draw(`<text class="l" text-anchor="middle" x="%d" y="%d">%s</text>`, plotLeft+plotInnerWidth/2, plotHeight-8, template.HTMLEscapeString(xLabel))
}

func (p *plot) html() template.HTML {
	p.WriteString("</svg>")
	return template.HTML(p.String()) //nolint:gosec // made above, of numbers and text of ours
}

// ticks returns some round numbers from 0 to most.
func ticks(most float64) []float64 {
	step := math.Pow(10, math.Floor(math.Log10(most)))
	for _, finer := range []float64{2, 2.5, 2} {
		if most/step >= 4 {
			break
		}
		step /= finer
	}
	var out []float64
	for v := 0.0; v <= most*1.0001; v += step {
		out = append(out, v)
	}
	return out
}

// curves shows what had been read when. The raw reader's are straight lines, since it tells only when it was done.
func (m *Measured) curves() template.HTML {
	longest := 0.0
	for _, drains := range [][]Drain{m.Raw, m.Relay, m.Beside} {
		for _, d := range drains {
			longest = max(longest, d.Seconds)
		}
	}
	p := newPlot("Rows over time, a line a run", longest, float64(m.Load.Rows))
	p.axes("seconds", trimmed, func(v float64) string { return comma(int(v)) })
	for _, of := range []struct {
		class  string
		drains []Drain
	}{{"raw", m.Raw}, {"relay", m.Relay}, {"beside", m.Beside}} {
		for _, d := range of.drains {
			points := d.Curve
			if points == nil {
				points = []Point{{0, 0}, {d.Seconds, int64(m.Load.Rows)}}
			}
			p.draw(`<polyline class="%s" points="`, of.class)
			for _, point := range points {
				p.draw("%.1f,%.1f ", p.x(point.Seconds), p.y(min(float64(point.Records), p.maxY)))
			}
			p.WriteString(`"/>`)
		}
	}
	return p.html()
}

// plot shows the histogram, with the percentiles.
func (l *Latency) plot() template.HTML {
	most := 0
	for _, b := range l.Histogram {
		most = max(most, b.Rows)
	}
	title := fmt.Sprintf("COMMIT to consumer at %s/s: p50 %s, p95 %s, p99 %s, p99.9 %s, at most %s (the COMMIT alone: p50 %s, p99 %s)",
		comma(l.Rate), durationOf(l.P50), durationOf(l.P95), durationOf(l.P99), durationOf(l.P999), durationOf(l.Max),
		durationOf(l.CommitP50), durationOf(l.CommitP99))
	p := newPlot(title, float64(len(l.Histogram)), float64(most))
	p.axes("less than … milliseconds", nil, func(v float64) string { return comma(int(v)) })
	every := len(l.Histogram)/12 + 1
	for i, b := range l.Histogram {
		left, right := p.x(float64(i)), p.x(float64(i+1))
		p.draw(`<rect class="bar" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s rows below %s</title></rect>`,
			left+1, p.y(float64(b.Rows)), right-left-2, p.y(0)-p.y(float64(b.Rows)), comma(b.Rows), durationOf(b.UpTo))
		if i%every == 0 {
			p.draw(`<text class="l" text-anchor="middle" x="%.1f" y="%d">%s</text>`, right, plotTop+plotInnerHt+16, trimmed(b.UpTo))
		}
	}
	return p.html()
}

func trimmed(v float64) string {
	if v < 100 {
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
	}
	return fmt.Sprintf("%.0f", v)
}
