package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/tidemark/tidemark/devstack/stacktest"
)

//nolint:gochecknoglobals // a flag of the test binary; make screenshots sets it
var screenshots = flag.String("screenshots", "", "write screenshots of the page into this folder")

// browser opens a page in a real browser. What the page's script throws, or its policy forbids, fails the test.
func browser(t *testing.T, url string) context.Context {
	t.Helper()
	path, err := findChromium()
	stacktest.Require(t, "chromium", err)
	// Root has no sandbox. The folder of the browser's data is chromedp's own: its processes may write there for a moment after
	// their end, and chromedp waits for that.
	o := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), o...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	do(t, ctx) // which starts the browser; what follows is limited
	ctx, cancel = context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	watchConsole(t, ctx)
	do(t, ctx, chromedp.EmulateViewport(1440, 900), chromedp.Navigate(url))
	return ctx
}

func findChromium() (string, error) {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("none of chromium, chromium-browser and google-chrome is in PATH")
}

func do(t *testing.T, ctx context.Context, actions ...chromedp.Action[chromedp.Void]) { //nolint:revive // t comes first in tests
	t.Helper()
	if err := chromedp.Do(ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// shows waits until the text of what a selector finds is right.
func shows(t *testing.T, ctx context.Context, selector, what string, is func(string) bool) { //nolint:revive // t comes first in tests
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		text, err := chromedp.Run(ctx, chromedp.Evaluate[string](fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector)))
		if err != nil {
			t.Fatal(err)
		}
		if is(text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s is %q", what, selector, text)
		}
		if err := chromedp.Do(ctx, chromedp.Sleep(50*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
}

func has(want string) func(string) bool {
	return func(text string) bool { return strings.Contains(text, want) }
}

// TestThePageInABrowser is an operator's visit: the numbers move, a parked event is released with the token and not
// without, an event is looked up, and what events hold stays text.
func TestThePageInABrowser(t *testing.T) {
	if _, err := findChromium(); err != nil {
		stacktest.Require(t, "chromium", err)
	}
	w := startRun(t, "TIDEMARK_HTTP_TOKEN=s3cret", "TIDEMARK_DELIVERY_ON_POISON=park", "TIDEMARK_SOURCE_WAL_BUDGET=1GiB", "TIDEMARK_CHECKPOINT_INTERVAL=50ms")
	w.limitTopic(t, "outbox.event.invoice", "2000")
	const evil = `<script>document.title='owned'</script>`
	insert := func(topic, key, payload string) (id string) {
		t.Helper()
		err := w.db.QueryRow(t.Context(), `insert into outbox (aggregatetype, aggregateid, type, payload) values ($1, $2, 'placed', $3) returning id::text`, topic, key, payload).Scan(&id)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := insert("order", evil, `{"n": 1}`)
	ctx := browser(t, w.url)
	shows(t, ctx, "#state-name", "it streams", has("Streaming"))
	shows(t, ctx, "#events", "the event is there, its key as text", has(evil))
	shows(t, ctx, "#topics", "the topic is counted", has("outbox.event.order"))

	// Live: more events, and the numbers move.
	w.exec(t, `insert into outbox (aggregatetype, aggregateid, type, payload)
		select (array['order', 'payment', 'shipment'])[1 + g % 3], 'customer-' || g % 40, 'placed', jsonb_build_object('n', g) from generate_series(1, 400) g`)
	shows(t, ctx, "#topics", "another topic", has("outbox.event.payment"))
	shows(t, ctx, "#latency", "a latency", func(text string) bool { return strings.HasSuffix(text, "s") })
	shows(t, ctx, "#budget", "the budget", has("1.0 GiB"))
	shows(t, ctx, "#slot", "the slot", has("active"))

	// Look-up.
	do(t, ctx, chromedp.SendKeys(chromedp.CSS("#lookup-id"), first+kb.Enter))
	shows(t, ctx, "#receipt", "the look-up finds it", func(text string) bool {
		return strings.Contains(text, "published") && strings.Contains(text, first) && strings.Contains(text, "outbox.event.order ")
	})

	// Doctor.
	do(t, ctx, chromedp.Click(chromedp.CSS("#doctor-run")))
	shows(t, ctx, "#doctor", "the checks", has("source"))

	// Parked: refused without the token and with a wrong one, released with it.
	parked := insert("invoice", "<b>17</b>", `{"filler": "`+noise(6000)+`"}`)
	shows(t, ctx, "#parked", "the parked event", has(parked))
	shows(t, ctx, "#parked", "its key as text", has("<b>17</b>"))
	shows(t, ctx, "#state-text", "the state says so", has("1 event is parked"))
	if status, text := w.ask(t, "POST", "/api/parked/"+parked+"/release", ""); status != 401 {
		t.Errorf("a release without the token: %d %s", status, text)
	}
	if status, text := w.ask(t, "GET", "/api/parked/"+parked+"?payload=true", ""); status != 401 || strings.Contains(text, "filler") {
		t.Errorf("the payload without the token: %d %s", status, text)
	}
	release := `#parked button.main`
	do(t, ctx, chromedp.Click(chromedp.CSS(release)), chromedp.WaitVisible(chromedp.CSS("#token-form")), chromedp.SendKeys(chromedp.CSS("#token"), "wrong"+kb.Enter))
	shows(t, ctx, "#parked-said", "the wrong token is refused", has("missing or wrong"))
	shows(t, ctx, "#parked", "it is still there", has(parked))
	w.photograph(t, ctx)
	w.limitTopic(t, "outbox.event.invoice", "1000000")
	do(t, ctx, chromedp.SendKeys(chromedp.CSS("#token"), "s3cret"+kb.Enter))
	shows(t, ctx, "#parked-said", "it is released", has("Released"))
	shows(t, ctx, "#parked", "it is published", has("Nothing is parked"))
	shows(t, ctx, "#topics", "to its topic", has("outbox.event.invoice"))
	shows(t, ctx, "#state-text", "all is well", has("in Kafka within moments"))

	// Shown and discarded: the payload on request alone, the discard when it is confirmed.
	w.limitTopic(t, "outbox.event.refund", "2000")
	doomed := insert("refund", "18", `{"note": "<img src=x>", "filler": "`+noise(6000)+`"}`)
	shows(t, ctx, "#parked", "the parked event", has(doomed))
	if text := evaluate[string](t, ctx, "document.documentElement.outerHTML"); strings.Contains(text, "img src=x") {
		t.Error("a payload is on the page before anybody has asked for it")
	}
	do(t, ctx, chromedp.Click(chromedp.CSS(`#parked button:last-child`)))
	shows(t, ctx, "#parked pre", "the payload, as text", has(`<img src=x>`))
	do(t, ctx, chromedp.Click(chromedp.CSS(`#parked button.danger`)))
	shows(t, ctx, "#parked button.danger", "it asks first", has("will never be published"))
	if _, text := w.get(t, "/api/parked"); !strings.Contains(text, doomed) {
		t.Errorf("it is discarded before that is confirmed: %s", text)
	}
	do(t, ctx, chromedp.Click(chromedp.CSS(`#parked button.danger`)))
	shows(t, ctx, "#parked-said", "it is discarded", has("Discarded"))
	shows(t, ctx, "#parked", "it is gone", has("Nothing is parked"))
	if _, text := w.get(t, "/api/parked"); strings.Contains(text, doomed) {
		t.Errorf("it is still parked: %s", text)
	}

	// Paused, the events stand still and the numbers go on.
	do(t, ctx, chromedp.Click(chromedp.CSS("#pause")))
	later := insert("order", "later", `{}`)
	eventually(t, "it waits", func() bool { return evaluate[bool](t, ctx, fmt.Sprintf("waiting.some((e) => e.id === %q)", later)) })
	if text := evaluate[string](t, ctx, "document.querySelector('#events').innerText"); strings.Contains(text, later) {
		t.Error("the events go on although they are paused")
	}
	do(t, ctx, chromedp.Click(chromedp.CSS("#pause")))
	shows(t, ctx, "#events", "what has come meanwhile", has(later))

	mustBeReadable(t, ctx)

	title, err := chromedp.Run(ctx, chromedp.Title())
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := chromedp.Run(ctx, chromedp.Evaluate[int]("document.querySelectorAll('main script, main img').length"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(title, "owned") || scripts > 0 {
		t.Errorf("a key has become markup: title %q, %d elements", title, scripts)
	}
	w.stop()
	shows(t, ctx, "#state-name", "it is gone", has("No answer"))
}

// evaluate returns what an expression is on the page.
func evaluate[T any](t *testing.T, ctx context.Context, expression string) T { //nolint:revive // t comes first in tests
	t.Helper()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// mustBeReadable holds the page to what takes no eye: on a phone nothing is wider than the screen, and text stands out from
// what is behind it, in either color scheme, as WCAG asks of small text (4.5).
func mustBeReadable(t *testing.T, ctx context.Context) { //nolint:revive // t comes first in tests
	t.Helper()
	const contrasts = `(() => {
		const rgb = (color) => color.match(/[\d.]+/g).map(Number);
		const luminance = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
			.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
		const ground = (at) => { const c = rgb(getComputedStyle(at).backgroundColor); return c.length < 4 || c[3] > 0 || !at.parentElement ? c : ground(at.parentElement); };
		return ["#state-name", "#state-text", "#slot", "#lag-seconds", "#lag-bytes", "#events td", "#topics td", ".badge", "button", "figcaption", "footer a"].map((name) => {
			const at = document.querySelector(name), [a, b] = [luminance(rgb(getComputedStyle(at).color)), luminance(ground(at))];
			return name + " " + ((Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)).toFixed(1);
		});
	})()`
	grounds := map[string]bool{}
	for _, scheme := range []string{"dark", "light"} {
		do(t, ctx, inScheme(scheme))
		grounds[evaluate[string](t, ctx, "getComputedStyle(document.body).backgroundColor")] = true
		for _, line := range evaluate[[]string](t, ctx, contrasts) {
			var contrast float64
			if at := strings.LastIndexByte(line, ' '); at < 0 || json.Unmarshal([]byte(line[at+1:]), &contrast) != nil || contrast < 4.5 {
				t.Errorf("%s: too little contrast: %s", scheme, line)
			}
		}
	}
	if len(grounds) != 2 {
		t.Errorf("dark and light are the same: %v", grounds)
	}
	for _, width := range []int64{320, 390} {
		do(t, ctx, chromedp.EmulateViewport(width, 844))
		if got := evaluate[int64](t, ctx, "document.documentElement.scrollWidth"); got > width {
			t.Errorf("on a screen of %d pixels the page is %d wide", width, got)
		}
	}
	do(t, ctx, chromedp.EmulateViewport(1440, 900))
}

// noise is text that does not compress.
func noise(n int) string {
	out := make([]byte, n)
	state := uint64(88172645463325252)
	for i := range out {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		out[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[state%64]
	}
	return string(out)
}

// limitTopic sets how large the records of a topic may be, and creates it if it is not there.
func (w *working) limitTopic(t *testing.T, topic, bytes string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(w.brokers()...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err = admin.CreateTopic(t.Context(), 1, 1, nil, topic); err != nil && !strings.Contains(err.Error(), "EXISTS") {
		t.Fatal(err)
	}
	if _, err := admin.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &bytes}}, topic); err != nil {
		t.Fatal(err)
	}
}

// photograph takes the screenshots of docs/, if they are asked for: with some minutes of life on the page.
func (w *working) photograph(t *testing.T, ctx context.Context) { //nolint:revive // t comes first in tests
	t.Helper()
	if *screenshots == "" {
		return
	}
	do(t, ctx, chromedp.Evaluate[chromedp.Void]("sessionStorage.clear(); document.querySelector('#token-form').hidden = true; said('')"))
	w.live(t, 60*time.Second)
	for _, shot := range []struct {
		name, scheme  string
		width, height int64
	}{{"page-light", "light", 1280, 860}, {"page-dark", "dark", 1280, 860}, {"page-phone", "light", 390, 844}} {
		do(t, ctx, inScheme(shot.scheme), chromedp.EmulateViewport(shot.width, shot.height), chromedp.Sleep(1500*time.Millisecond))
		png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(*screenshots, shot.name+".png"), png, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do(t, ctx, inScheme("light"), chromedp.EmulateViewport(1440, 900), chromedp.Click(chromedp.CSS(`#parked button.main`)), chromedp.WaitVisible(chromedp.CSS("#token-form")))
}

// inScheme has the page shown in the color scheme light or dark.
func inScheme(scheme string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	})
}

// live writes rows at a rate that comes and goes.
func (w *working) live(t *testing.T, d time.Duration) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < d; {
		n := 15 + int(time.Since(begin).Seconds())%40
		for range 4 {
			w.exec(t, `insert into outbox (aggregatetype, aggregateid, type, payload)
				select (array['order', 'payment', 'shipment'])[1 + (g + $1) % 3], 'customer-' || (g * 7 + $1) % 900, (array['placed', 'paid', 'sent'])[1 + (g + $1) % 3],
				jsonb_build_object('n', g, 'note', 'thank you') from generate_series(1, $1) g`, n)
			time.Sleep(120 * time.Millisecond) //nolint:forbidigo // it sets the pace
		}
	}
}
