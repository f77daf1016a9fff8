// Cost and quality, split by who answered, as they are now.

import { announce, choice, fill, h, note, panel, table } from "./dom.js";
import { intervalBar, lines, shareBar, stackedBars } from "./charts.js";
import { count, estimated, percent, plural, range, route, seconds, time, usd } from "./format.js";

const EVERY_MS = 5000;
const WINDOWS = [[300, "5 min"], [3600, "1 h"], [86400, "24 h"], [0, "Since start"]];
const MONTH_S = 30 * 86400;
const SOURCES = { shadow: "shadow sample", feedback: "feedback" };

export function overview(context, { signal }) {
  let length = Number(sessionStorage.getItem("locum-window") ?? 3600);
  const state = h("p", { class: "muted state", id: "state" });
  const pause = h("input", { type: "checkbox", id: "live-refresh" });
  pause.checked = true;
  const body = parts();
  const load = () => fill(body.holder, () => context.api.get("summary", { window_s: length || null }, { signal }), (summary) => {
    context.sawVersion(summary.policy_version);
    body.show(summary);
    state.replaceChildren("As of ", time(summary.end_s, { withDate: false }), summary.start_s === null
      ? ", everything since the gateway started."
      : `, over ${seconds(summary.end_s - summary.start_s)}${length && summary.end_s - summary.start_s < length * 0.95 ? ": that is how long this process remembers." : "."}`);
    return body.all;
  });
  const chosen = choice("Window", WINDOWS, length, (value) => {
    length = value;
    sessionStorage.setItem("locum-window", String(value));
    load().then(() => announce(`Shows ${WINDOWS.find(([each]) => each === value)[1]}`));
  });
  const timer = setInterval(() => { if (pause.checked && !document.hidden) load(); }, EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  load();
  return [
    h("div", { class: "bar" }, chosen, h("label", { class: "check", for: "live-refresh" }, pause, "Live"), state),
    body.holder,
  ];
}

/** The panels are made once: what a reader has opened or focused survives a refresh. */
function parts() {
  const tiles = h("div", { class: "tiles" });
  const places = {};
  const place = (name) => (places[name] = h("div"));
  const series = h("details", null, h("summary", null, "As a table"), place("series"));
  const all = [
    tiles,
    h("div", { class: "columns" },
      panel("Requests over time", place("bars"), legend(), series),
      panel("Cost over time", place("costs"), h("p", { class: "legend" }, key("student"), "spent ", key("baseline"), "all by the teacher"))),
    panel("Split by model", place("split")),
    h("div", { class: "columns" },
      panel("Quality by model", place("quality")),
      panel("What it costs beside the answers", place("beside"))),
    h("div", { class: "columns" },
      panel("Escalations by reason", place("escalations")),
      panel("Errors, fallbacks, refusals", place("trouble"))),
  ];
  const show = (summary) => {
    tiles.replaceChildren(...tilesOf(summary));
    const drawnNow = JSON.stringify(summary.series);
    if (places.bars.dataset.shown !== drawnNow) {
      places.bars.dataset.shown = drawnNow;
      showSeries(summary, places);
    }
    places.split.replaceChildren(split(summary));
    places.quality.replaceChildren(quality(summary));
    places.beside.replaceChildren(beside(summary));
    places.escalations.replaceChildren(escalations(summary));
    places.trouble.replaceChildren(trouble(summary));
  };
  return { holder: h("div", { class: "view" }), all, show };
}

function key(kind) {
  return h("i", { class: `key ${kind}`, "aria-hidden": "true" });
}

function legend() {
  return h("p", { class: "legend" }, key("student"), "student ", key("teacher"), "teacher");
}

function tile(label, value, ...detail) {
  return h("div", { class: "tile" }, h("h2", null, label), h("p", { class: "value" }, value), h("p", { class: "detail" }, ...detail));
}

function tilesOf(summary) {
  const { requests, cost, student_share: share, now } = summary;
  const failed = summary.outcomes.filter((each) => !["ok", "degraded"].includes(each.outcome)).reduce((sum, each) => sum + each.count, 0);
  const saved = cost.all_teacher_usd ? cost.saved_usd / cost.all_teacher_usd : null;
  const monthly = summary.start_s === null ? null : (cost.answers_usd * MONTH_S) / Math.max(1, summary.end_s - summary.start_s);
  return [
    tile("Student share", share ? percent(share.value) : "–", share ? `${range(share, percent)}, n = ${count(share.n)}` : "no answers yet"),
    tile("Spent on answers", usd(cost.answers_usd), monthly === null ? `all by the teacher: ${usd(cost.all_teacher_usd)}` : `at this rate ${usd(monthly)} in 30 days`),
    tile("Saved", saved === null ? "–" : percent(saved), `${usd(cost.saved_usd)} against ${usd(cost.all_teacher_usd)} all by the teacher`),
    tile("Requests", count(requests.total), `${count(now.inflight_requests)} being answered`),
    tile("Failed", requests.total ? percent(failed / requests.total) : "–", plural(failed, "request")),
    tile("Latency, p95", seconds(summary.latency.student.p95_s), `student; teacher ${seconds(summary.latency.teacher.p95_s)}`),
  ];
}

function showSeries(summary, places) {
  const points = summary.series.map((point, at) => ({
    start: at ? summary.series[at - 1].end_s : summary.start_s ?? summary.series[0].end_s - (summary.series[1] ? summary.series[1].end_s - summary.series[0].end_s : 15),
    end: point.end_s, values: [point.student, point.teacher], raw: point,
  }));
  if (!points.length) {
    for (const name of ["bars", "costs", "series"]) places[name].replaceChildren(h("p", { class: "empty" }, "Comes after the first 15 seconds."));
    return;
  }
  const timeLabel = (at) => new Date(at * 1000).toISOString().slice(11, 16);
  places.bars.replaceChildren(stackedBars("Requests over time, by who answered", points, ["student", "teacher"], { format: count, timeLabel }));
  places.costs.replaceChildren(lines("Cost over time, beside what the teacher alone would cost", points, [
    { class: "baseline", values: points.map((point) => point.raw.all_teacher_usd) },
    { class: "student", values: points.map((point) => point.raw.answers_usd) },
  ], { format: usd, timeLabel }));
  places.series.replaceChildren(table("Requests and cost over time", [
    { label: "Until", cell: (point) => time(point.end) },
    { label: "Student", number: true, cell: (point) => count(point.raw.student) },
    { label: "Teacher", number: true, cell: (point) => count(point.raw.teacher) },
    { label: "Spent", number: true, cell: (point) => usd(point.raw.answers_usd) },
    { label: "All by the teacher", number: true, cell: (point) => usd(point.raw.all_teacher_usd) },
  ], points.toReversed()));
}

function split(summary) {
  const { requests, cost, latency } = summary;
  const answered = requests.student + requests.teacher;
  const rows = ["student", "teacher"].map((name) => ({ name, requests: requests[name], usd: cost[`${name}_usd`], latency: latency[name] }));
  return table("Requests, cost and latency by model", [
    { label: "Model", cell: (row) => route(row.name) },
    { label: "Requests", number: true, cell: (row) => h("span", { "data-count": row.name }, count(row.requests)) },
    { label: "Share of answers", number: true, cell: (row) => [percent(answered ? row.requests / answered : null), " ", shareBar(answered ? row.requests / answered : 0, row.name)] },
    { label: "Cost", number: true, cell: (row) => usd(row.usd) },
    { label: "Cost per 1,000", number: true, cell: (row) => usd(row.requests ? (row.usd / row.requests) * 1000 : null) },
    { label: "p50", number: true, cell: (row) => seconds(row.latency.p50_s) },
    { label: "p95", number: true, cell: (row) => seconds(row.latency.p95_s) },
  ], rows);
}

function quality(summary) {
  return table("Quality by model", [
    { label: "Answers of", cell: (row) => route(row.route) },
    { label: "Graded by", cell: (row) => SOURCES[row.source] ?? row.source },
    { label: "Score, 1 = good", number: true, cell: (row) => estimated(row.score, (value) => value.toFixed(3)) },
    { label: "Interval in 0 to 1", cell: (row) => intervalBar(row.score, 0, 1, row.route) },
  ], summary.quality, { empty: "No answer was graded in this time. Feedback or a shadow sample gives grades: POST /v1/feedback, or the table [quality.shadow] of the configuration." });
}

function beside(summary) {
  const { cost } = summary;
  const rows = [
    ["Drafts that were thrown away (in the student's cost)", cost.drafts_usd],
    ["Shadow answers", cost.shadow_usd], ["Judges", cost.judge_usd], ["Embeddings", cost.embeddings_usd],
    ["Student's machine, busy", cost.machine_busy_usd], ["Student's machine, idle", cost.machine_idle_usd],
  ];
  return [
    table("Costs beside the answers", [
      { label: "For", cell: ([label]) => label },
      { label: "Cost", number: true, cell: ([, value]) => usd(value) },
    ], rows),
    cost.unpriced_requests ? note("warning", `${plural(cost.unpriced_requests, "answer")} without a known price: not in any sum.`) : null,
  ].reduce((holder, each) => { if (each) holder.append(each); return holder; }, h("div"));
}

function escalations(summary) {
  const total = summary.requests.student + summary.requests.teacher;
  return table("Escalations by policy and reason", [
    { label: "Policy", cell: (row) => row.policy },
    { label: "Reason", cell: (row) => row.reason },
    { label: "Requests", number: true, cell: (row) => count(row.count) },
    { label: "Of all", number: true, cell: (row) => percent(total ? row.count / total : null) },
    { hidden: "Of all, as a bar", cell: (row) => shareBar(total ? row.count / total : 0, "teacher") },
  ], summary.escalations, { empty: "No policy sent a request to the teacher." });
}

function trouble(summary) {
  const rows = [
    ...summary.outcomes.filter((each) => each.outcome !== "ok").map((each) => ["outcome", each.outcome, each.count]),
    ...summary.fallbacks.map((each) => ["fallback", each.cause, each.count]),
    ...summary.refusals.map((each) => ["refused", each.cause, each.count]),
    ...summary.policy_errors.map((each) => ["policy failed", each.policy, each.count]),
    ...(summary.dropped_records ? [["record", "not written in time", summary.dropped_records]] : []),
  ];
  const down = Object.entries(summary.now.backends).filter(([, up]) => !up).map(([name]) => name);
  const alarms = Object.entries(summary.now.drift_alarm).filter(([, value]) => value > 0).map(([name]) => name);
  return h("div", null,
    down.length ? note("error", `The last probe did not reach: ${down.join(", ")}.`) : null,
    alarms.length ? note("warning", "Drift: ", h("a", { href: "#/quality" }, alarms.join(", "))) : null,
    table("Errors, fallbacks and refusals", [
      { label: "Kind", cell: ([kind]) => kind },
      { label: "What", cell: ([, what]) => what },
      { label: "Requests", number: true, cell: ([, , n]) => count(n) },
    ], rows, { empty: "None in this time." }));
}
