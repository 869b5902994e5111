"use strict";
// The page of a running relay. Whatever comes from events is put in as text, never as markup.

const $ = (id) => document.getElementById(id);
const windowSeconds = 600, eventRows = 100;
let points = [], last = null, heard = 0, paused = false, waiting = [], parkedSeen = null;

function put(id, text) { const at = $(id); if (at.textContent !== text) at.textContent = text; }
function make(tag, props, ...children) {
  const at = document.createElement(tag);
  Object.assign(at, props);
  at.append(...children);
  return at;
}
function tone(at, name) { if (name) at.dataset.tone = name; else delete at.dataset.tone; }

// Numbers, as a person reads them.
function bytes(n) {
  if (n === null || n === undefined) return "unknown";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
  return (i === 0 ? n : n.toFixed(n < 100 ? 1 : 0)) + " " + units[i];
}
function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s === 0) return "0 s";
  if (s < 0.0995) return (s * 1000).toFixed(s < 0.00995 ? 1 : 0) + " ms";
  if (s < 10) return s.toFixed(1) + " s";
  if (s < 100) return Math.round(s) + " s";
  if (s < 5400) return Math.floor(s / 60) + " min";
  if (s < 172800) return Math.floor(s / 3600) + " h " + Math.floor(s % 3600 / 60) + " min";
  return Math.floor(s / 86400) + " d";
}
function count(n) { return n < 10 && n % 1 ? n.toFixed(1) : Math.round(n).toLocaleString("en"); }
function clock(t) { return new Date(t).toLocaleTimeString("en-GB"); }
function short(id) { return id.length > 44 ? id.slice(0, 43) + "…" : id; }

// What to think of it, and what to do.
function judge(u) {
  const s = u.status, r = s.relay, behind = r.lag_seconds > 10;
  switch (r.state) {
  case "streaming":
    if (u.not_ready) return ["bad", "Streaming, not ready", u.not_ready];
    if (r.parked > 0) return ["warn", "Streaming", r.parked + (r.parked === 1 ? " event is" : " events are") + " parked: see below what stands against them, then release or discard."];
    if (behind) return ["warn", "Streaming, behind", "Events that were committed " + seconds(r.lag_seconds) + " ago are not in Kafka yet. Nothing is lost; it is catching up if the lag falls."];
    return ["good", "Streaming", "What is committed is in Kafka within moments."];
  case "standby":
    return ["calm", "Hot standby", "The slot is held by " + (r.held_by || "another process") + ". This process takes over when it is free."];
  case "existing_rows":
    return ["calm", "Publishing existing rows", "Rows that were in the table before the slot go first. The stream begins when they are in Kafka."];
  case "interrupted":
    return ["warn", "Interrupted", "It connects again by itself, and goes on where it was. " + (r.last_error || "")];
  case "starting":
    return [r.last_error ? "warn" : "idle", "Starting", r.last_error || "Connecting to source and Kafka."];
  default:
    return ["bad", "Stopped", r.last_error ? r.last_error : "It has stopped, or is about to begin again."];
  }
}

function showState(name, text, kind) {
  tone($("state"), kind);
  put("state-name", name);
  put("state-text", text);
  document.title = name + " · tidemark";
}

function show(u) {
  const s = u.status, r = s.relay;
  const [kind, name, text] = judge(u);
  showState(name, text, kind);
  put("slot", s.slot + ", " + s.slot_state);
  put("source", (s.standby ? "standby" : "primary") + ", timeline " + (s.timeline || "–"));
  put("stored", s.stored_lsn || "nothing");
  put("end", s.current_lsn || "–");
  put("updated", clock(u.now));
  put("lag-seconds", seconds(r.lag_seconds));
  put("lag-bytes", bytes(s.lag_bytes) + " of log not stored");
  tone($("lag-seconds").parentNode, r.lag_seconds > 10 ? "warn" : "");
  put("rate", count(r.events_per_second));
  const p = [...points].reverse().find((x) => x.p50_seconds !== null);
  put("latency", p ? seconds(p.p50_seconds) : "–");
  put("latency-99", p ? "p99 " + seconds(p.p99_seconds) + (p === points[points.length - 1] ? "" : ", at " + clock(p.at)) : "no event yet");
  put("inflight", count(r.inflight_events));
  put("inflight-bytes", bytes(r.inflight_bytes));
  put("oldest", seconds(r.oldest_unacked_seconds));
  tone($("oldest").parentNode, r.oldest_unacked_seconds > 10 ? "warn" : "");
  put("parked-count", count(r.parked));
  put("parked-hint", r.parked ? "wait for a decision, or behind one" : "nothing is held up");
  tone($("parked-tile"), r.parked ? "warn" : "");
  put("retained", s.retained_wal === null ? "–" : bytes(s.retained_wal));
  const budget = r.wal_budget_bytes, share = budget ? s.retained_wal / budget : 0;
  put("budget", budget ? Math.round(share * 100) + " % of source.wal_budget, " + bytes(budget) : "source.wal_budget is not set");
  $("budget-meter").hidden = !budget;
  $("budget-meter").value = Math.min(share, 1);
  tone($("wal-tile"), share >= 1 ? "bad" : share >= 0.5 ? "warn" : "");
  put("version", "tidemark " + u.version);
  if (u.topics) showTopics(u);
  if (parkedSeen !== r.parked) { parkedSeen = r.parked; loadParked(); }
}

function showTopics(u) {
  put("topics-note", u.topics_of > u.topics.length ? "the " + u.topics.length + " busiest of " + u.topics_of : u.topics_of ? "since this process was started" : "none yet");
  $("topics").replaceChildren(...u.topics.map((t) => make("tr", {}, make("td", { textContent: t.topic }),
    make("td", { className: "n", textContent: count(t.events) }), make("td", { className: "n", textContent: bytes(t.bytes) }))));
}

function eventRow(e) {
  const key = e.key === null ? make("td", {}, make("span", { className: "null", textContent: "null" })) : make("td", { textContent: short(e.key), title: e.key });
  const latency = (new Date(e.acked_at) - new Date(e.committed_at)) / 1000;
  return make("tr", {}, make("td", { className: "when", textContent: clock(e.acked_at) }), make("td", { textContent: e.id, title: e.id + ", position " + e.position }),
    make("td", { textContent: e.topic, title: e.table }), key, make("td", { textContent: e.type }),
    make("td", { className: "n", textContent: e.partition + "/" + e.offset }), make("td", { className: "n", textContent: seconds(Math.max(latency, 0)) }));
}

function showEvents(list) {
  waiting = waiting.concat(list).slice(-eventRows);
  if (paused || waiting.length === 0) return;
  $("events").prepend(...waiting.reverse().map(eventRow));
  waiting = [];
  while ($("events").rows.length > eventRows) $("events").deleteRow(-1);
  $("events-none").hidden = true;
}

// Charts: the last ten minutes, the newest on the right.
const svgns = "http://www.w3.org/2000/svg";
function draw(at, props, text) {
  const e = document.createElementNS(svgns, at);
  for (const [name, value] of Object.entries(props)) e.setAttribute(name, value);
  if (text !== undefined) e.textContent = text;
  return e;
}
function nice(max) {
  const base = 10 ** Math.floor(Math.log10(max));
  return [1, 2, 2.5, 5, 10].map((m) => m * base).find((m) => m >= max * 0.999);
}
const charts = [
  { id: "rate", lines: [(p) => p.rate], text: count, least: 10, area: true },
  { id: "latency", lines: [(p) => p.p50_seconds, (p) => p.p99_seconds], text: seconds, least: 0.01 },
  { id: "lag", lines: [(p) => p.lag_seconds], text: seconds, least: 1, area: true },
];
function chart(c) {
  const svg = $(c.id + "-chart"), w = svg.clientWidth, h = svg.clientHeight;
  if (!w || points.length === 0) return;
  const left = 52, bottom = 16, top = 6, now = new Date(points[points.length - 1].at).getTime();
  let max = c.least;
  for (const p of points) for (const line of c.lines) max = Math.max(max, line(p) || 0);
  max = nice(max);
  const x = (p) => w - (now - new Date(p.at)) / 1000 / windowSeconds * (w - left) - 1, y = (v) => h - bottom - v / max * (h - bottom - top);
  const out = [];
  for (const v of [0, max / 2, max]) {
    out.push(draw("line", { class: "grid", x1: left, x2: w, y1: y(v), y2: y(v) }), draw("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, c.text(v)));
  }
  for (const [label, share] of [["−10 min", 0], ["−5 min", 0.5], ["now", 1]]) {
    out.push(draw("text", { x: left + share * (w - left), y: h - 3, "text-anchor": ["start", "middle", "end"][share * 2] }, label));
  }
  c.lines.forEach((line, n) => {
    let path = "", area = "", start = null, before = null;
    const close = () => { if (start !== null) area += "L" + before + "," + y(0) + "L" + start + "," + y(0) + "Z"; start = null; };
    for (const p of points) {
      const v = line(p);
      if (v === null) { close(); continue; }
      const px = x(p).toFixed(1), step = (start === null ? "M" : "L") + px + "," + y(v).toFixed(1);
      path += step; area += step;
      if (start === null) { start = px; path += "h0.01"; }
      before = px;
    }
    close();
    if (c.area) out.push(draw("path", { class: "area", d: area }));
    out.push(draw("path", { class: n ? "two" : "one", d: path, "stroke-linecap": "round" }));
  });
  let at = points[points.length - 1];
  if (c.over !== undefined) {
    at = points.reduce((a, b) => Math.abs(x(b) - c.over) < Math.abs(x(a) - c.over) ? b : a);
    out.push(draw("line", { class: "cross", x1: x(at), x2: x(at), y1: top, y2: h - bottom }));
  }
  put(c.id + "-at", (c.over === undefined ? "" : clock(at.at) + "  ") + c.lines.map((line) => line(at) === null ? "–" : c.text(line(at))).join(" / "));
  svg.replaceChildren(...out);
}
function drawAll() { charts.forEach(chart); }
for (const c of charts) {
  $(c.id + "-chart").addEventListener("pointermove", (e) => { c.over = e.offsetX; chart(c); });
  $(c.id + "-chart").addEventListener("pointerleave", () => { delete c.over; chart(c); });
}
addEventListener("resize", drawAll);

// Live.
function listen() {
  const stream = new EventSource("/api/live");
  stream.onmessage = (m) => {
    const u = JSON.parse(m.data);
    heard = Date.now();
    last = u;
    if (points.length && u.points.length && u.points[0].at <= points[points.length - 1].at) points = []; // all of it, after a break
    points = points.concat(u.points).filter((p) => new Date(u.now) - new Date(p.at) < windowSeconds * 1000);
    if (u.points.length > 1 && u.events.length) { $("events").replaceChildren(); waiting = []; }
    show(u);
    showEvents(u.events);
    put("events-note", u.status.relay.events_per_second > 50 ? "up to 50 of each second" : "");
    drawAll();
  };
  stream.onerror = () => { if (stream.readyState === EventSource.CLOSED) { stream.close(); setTimeout(listen, 3000); } };
}
setInterval(() => {
  if (Date.now() - heard < 4000 || (last === null && performance.now() < 4000)) return;
  const since = heard ? "Nothing has been heard of it since " + clock(heard) + "." : "It has not answered yet.";
  showState("No answer", since + " If the process has ended, its log and exit status say why (3: going on would lose or hide events, and the log says the way out). Trying again.", "bad");
}, 1000);
$("pause").addEventListener("click", () => {
  paused = !paused;
  put("pause", paused ? "Go on" : "Pause");
  $("pause").setAttribute("aria-pressed", paused);
  showEvents([]);
});

// Requests. The token stays in this tab.
async function ask(path, options) {
  const response = await fetch(path, options), body = await response.json().catch(() => ({}));
  if (!response.ok) throw Object.assign(new Error(body.error || "HTTP status " + response.status), { status: response.status });
  return body;
}
let afterToken = null;
async function withToken(work) {
  const token = sessionStorage.getItem("tidemark.token");
  if (!token) { askToken(work, ""); return; }
  try {
    await work({ headers: { Authorization: "Bearer " + token } });
  } catch (e) {
    if (e.status === 401) { sessionStorage.removeItem("tidemark.token"); askToken(work, e.message); return; }
    said(e.message, "bad");
  }
}
function askToken(work, why) {
  if (last && !last.token) { said("Changes over HTTP are off: set http.token in the relay's configuration. Or use tidemark parked on a shell.", "warn"); return; }
  afterToken = work;
  $("token-form").hidden = false;
  said(why, "bad");
  $("token").focus();
}
$("token-form").addEventListener("submit", (e) => {
  e.preventDefault();
  sessionStorage.setItem("tidemark.token", $("token").value);
  $("token").value = "";
  $("token-form").hidden = true;
  said("");
  const work = afterToken;
  afterToken = null;
  if (work) withToken(work);
});
function said(text, kind) { tone($("parked-said"), kind); put("parked-said", text || ""); }

// Parked events.
const parkedStates = { waiting: ["warn", "waits for a decision"], released: ["calm", "released, on its way"], publishing: ["calm", "handed over to Kafka"] };
async function loadParked() {
  if (last && last.status.relay.parked === 0 && $("parked").childElementCount === 0) { nothingParked(); return; }
  try {
    const r = await ask("/api/parked");
    put("parked-note", r.total > r.events.length ? "the first " + r.events.length + " of " + r.total : "");
    if (r.events.length === 0) { nothingParked(); return; }
    $("parked").replaceChildren(...r.events.map(parkedItem));
  } catch (e) { said(e.message, "bad"); }
}
function nothingParked() { $("parked").replaceChildren(make("p", { className: "none", textContent: "Nothing is parked." })); put("parked-note", ""); }
function parkedItem(e) {
  const [kind, state] = e.behind && e.state === "waiting" ? ["idle", "waits behind an earlier event of its key"] : parkedStates[e.state] || ["idle", e.state];
  const badge = make("span", { className: "badge", textContent: state });
  tone(badge, kind);
  const item = make("div", { className: "item" }, make("p", { className: "title", textContent: e.id }), make("p", {}, badge),
    make("p", { className: "soft", textContent: e.topic + ", key " + (e.key === null ? "null" : e.key) + ", committed " + clock(e.committed_at) + ", " + (e.payload_bytes === null ? "no payload" : bytes(e.payload_bytes)) }));
  if (e.reason) item.append(make("p", { textContent: e.reason }));
  const row = make("div", { className: "row" }), path = "/api/parked/" + encodeURIComponent(e.position);
  const change = (what, done) => withToken(async (options) => {
    await ask(path + "/" + what, { method: "POST", ...options });
    said(done, "good");
    loadParked();
  });
  if (e.state === "waiting" && !e.behind) row.append(make("button", { type: "button", className: "main", textContent: "Release", onclick: () => change("release", "Released: the relay publishes it, and what waits behind it, within about a second.") }));
  if (e.state !== "publishing") row.append(discardButton(() => change("discard", "Discarded for good.")));
  row.append(make("button", { type: "button", textContent: "Show payload", onclick: () => withToken(async (options) => showPayload(item, await ask(path + "?payload=true", options))) }));
  item.append(row);
  return item;
}
function discardButton(work) {
  const b = make("button", { type: "button", className: "danger", textContent: "Discard" });
  b.onclick = () => {
    if (b.dataset.sure) { work(); return; }
    b.dataset.sure = "yes";
    b.textContent = "Discard for good: it will never be published";
    setTimeout(() => { delete b.dataset.sure; b.textContent = "Discard"; }, 6000);
  };
  return b;
}
function showPayload(item, events) {
  const p = events[0].details.payload;
  item.querySelectorAll("pre").forEach((old) => old.remove());
  item.append(make("pre", { textContent: p.text !== undefined ? p.text : p.base64 !== undefined ? p.base64 + "\n(base64: it is no text)" : "(null)" }));
}
$("parked-again").addEventListener("click", loadParked);

// Look-up.
const receiptTones = { published: "good", parked: "warn", dead_lettered: "warn", not_yet_published: "calm", missing: "bad", unknown: "idle", not_found: "idle" };
$("lookup").addEventListener("submit", async (e) => {
  e.preventDefault();
  const id = $("lookup-id").value.trim();
  if (!id) return;
  $("receipt").replaceChildren(make("p", { className: "none", textContent: "Looking in the table and in Kafka…" }));
  try {
    $("receipt").replaceChildren(receipt(await ask("/api/events/" + encodeURIComponent(id))));
  } catch (err) {
    const p = make("p", { className: "said", textContent: err.message });
    tone(p, "bad");
    $("receipt").replaceChildren(p);
  }
});
function receipt(r) {
  const badge = make("span", { className: "badge", textContent: (r.state || "").replaceAll("_", " ") });
  tone(badge, receiptTones[r.state] || "idle");
  const item = make("div", { className: "item" }, make("p", { className: "title", textContent: r.id }), make("p", {}, badge), make("p", { textContent: r.text || "" }));
  for (const x of r.records || []) {
    const also = [x.replayed && "replayed", x.dead_letter && "dead letter", x.duplicate && "duplicate"].filter(Boolean).join(", ");
    item.append(make("p", { className: "title", textContent: x.topic + " " + x.partition + "/" + x.offset }),
      make("p", { className: "soft", textContent: [x.timestamp && new Date(x.timestamp).toISOString(), x.position, also].filter(Boolean).join(" · ") }));
  }
  return item;
}

// Doctor.
const doctorTones = { ok: "good", warn: "warn", fail: "bad", skipped: "idle" };
$("doctor-run").addEventListener("click", async () => {
  $("doctor").replaceChildren(make("p", { className: "none", textContent: "Looking…" }));
  try {
    const r = await ask("/api/doctor"), n = r.counts || {};
    put("doctor-note", (n.fail || 0) + " failed, " + (n.warn || 0) + " to be seen to, " + (n.ok || 0) + " ok");
    const order = ["fail", "warn", "skipped", "ok"];
    const list = [...r.checks].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state));
    $("doctor").replaceChildren(...list.map((c) => {
      const badge = make("span", { className: "badge", textContent: c.state });
      tone(badge, doctorTones[c.state]);
      const item = make("div", { className: "item" }, make("p", {}, badge, " ", make("span", { className: "title", textContent: c.check })), make("p", { className: "soft", textContent: c.finding }));
      if (c.fix) item.append(make("p", { textContent: c.fix }));
      if (c.sql) item.append(make("pre", { textContent: c.sql.join("\n") }));
      return item;
    }));
  } catch (e) {
    const p = make("p", { className: "said", textContent: e.message });
    tone(p, "bad");
    $("doctor").replaceChildren(p);
  }
});

listen();
