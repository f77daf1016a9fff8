// What-if: turn a number of the policy and see, from the logged traffic, what it would do. Nothing changes until it is
// applied as a new version.

import { announce, choice, fill, h, note, panel, table, uid } from "./dom.js";
import { sweep } from "./charts.js";
import { applyDialog, historyPanel } from "./actions.js";
import { count, estimated, number, percent, plural, points, seconds, time, usd } from "./format.js";

const WAIT_MS = 250;
const POINTS = 21;
const WINDOWS = [[86400, "Last day"], [7 * 86400, "Last 7 days"], [0, "All"]];
const MEASURES = [
  ["student_share", "Student share", percent, 0, points],
  ["cost_usd_per_month", "Cost a month", usd, -1],
  ["cost_usd_per_request", "Cost a request", usd, -1],
  ["all_teacher_usd_per_month", "All by the teacher", usd, 0],
  ["quality", "Quality, 1 = good", (value) => value.toFixed(3), 1],
  ["quality_loss", "Lost against all-teacher", (value) => value.toFixed(3), -1],
  ["latency_s", "Mean latency", seconds, -1],
];

export function thresholds(context, { signal }) {
  const state = { document: null, version: null, options: [], changed: new Map(), active: null, length: 0, turn: 0 };
  const sliders = h("div", null);
  const prediction = h("div", { class: "prediction", "aria-busy": "true" }, h("p", { class: "loading" }, "Loading …"));
  const conflictPlace = h("div");
  const certificates = h("div");
  const apply = h("button", { type: "button", class: "primary", disabled: true, onclick: () => applyDialog(context.api, candidate(state), state.version, {
    applied: (version) => { state.changed.clear(); context.sawVersion(version.version); load(); },
    conflict: (error) => showConflict(error),
  }) }, "Apply as new version …");
  const reset = h("button", { type: "button", disabled: true, onclick: () => { state.changed.clear(); draw(); ask(); announce("Back to the values in force"); } }, "Reset");

  async function load() {
    conflictPlace.replaceChildren();
    await fill(sliders, async () => {
      const [current, options] = await Promise.all([context.api.get("policy", null, { signal }), context.api.get("replay/options", null, { signal })]);
      Object.assign(state, { document: current.document, version: current.version, options: flat(options.policies) });
      context.sawVersion(current.version);
      certificates.replaceChildren(...(current.certificates ?? []).map(standing));
      state.changed = new Map([...state.changed].filter(([key]) => state.options.some((each) => each.key === key)));
      state.active ??= state.options.find((each) => isThreshold(each) && each.value !== null)?.key ?? state.options[0]?.key ?? null;
      return options;
    }, () => groups(state, turned));
    if (state.document) { marks(); ask(); }
  }

  function draw() {
    sliders.replaceChildren(...groups(state, turned));
    marks();
  }

  function marks() {
    apply.disabled = reset.disabled = state.changed.size === 0;
  }

  function turned(option, value) {
    state.active = option.key;
    if (value === option.value) state.changed.delete(option.key);
    else state.changed.set(option.key, value);
    marks();
    ask(WAIT_MS);
  }

  let timer = null;
  function ask(wait = 0) {
    clearTimeout(timer);
    prediction.pending = true;
    prediction.setAttribute("aria-busy", "true");
    timer = setTimeout(predict, wait);
  }

  async function predict() {
    prediction.pending = false;
    const option = state.options.find((each) => each.key === state.active);
    await fill(prediction, () => context.api.post("replay", {
      ...(state.changed.size ? { document: candidate(state) } : {}),
      ...(state.length ? { since_s: Date.now() / 1000 - state.length } : {}),
      ...(option && option.sweepable ? { sweep: { policy: option.policy, option: option.option, values: values(option) } } : {}),
    }, { signal }), (result) => {
      const shown = result.candidate ?? result.baseline;
      announce(`Predicted student share ${shown.student_share ? percent(shown.student_share.value) : "not known"}`);
      return predicted(result, option, state);
    });
  }

  function showConflict(error) {
    const current = error.body.current_version;
    conflictPlace.replaceChildren(note("error",
      h("p", null, h("b", null, `Version ${current} is in force by now: `), `somebody changed the policy while you worked on version ${state.version}. Nothing of yours was applied.`),
      h("div", { class: "actions" },
        h("button", { type: "button", onclick: load }, `Put my changes on top of version ${current}`),
        h("button", { type: "button", onclick: () => { state.changed.clear(); load(); } }, "Drop my changes"))));
    conflictPlace.querySelector("button").focus();
  }

  document.addEventListener("policy-version", (event) => {
    if (state.version === null || event.detail.version === state.version) return;
    if (!state.changed.size) load();
    else conflictPlace.replaceChildren(note("warning", `Version ${event.detail.version} is in force by now; what you see was predicted from version ${state.version}. `,
      h("button", { type: "button", onclick: load }, "Load it and keep my changes")));
  }, { signal });
  signal.addEventListener("abort", () => clearTimeout(timer));
  load();

  return [
    h("div", { class: "what-if" },
      panel("What if", h("p", { class: "muted" }, "Turn a value; nothing changes until you apply it."), certificates, conflictPlace, sliders,
        h("div", { class: "actions always" }, apply, reset)),
      panel("Predicted from the log",
        h("div", { class: "bar" }, choice("Logged requests", WINDOWS, state.length, (value) => { state.length = value; ask(); })),
        prediction)),
    historyPanel(context, signal),
  ];
}

/** What is proven of a policy's threshold, or why nothing is any more. */
function standing(certificate) {
  const promise = `at most ${number(100 * certificate.max_quality_loss)} points lost, ${percent(certificate.confidence, 0)} confidence, ${count(certificate.n)} labels`;
  const known = certificate.acknowledged ? ` ${certificate.acknowledged.by} has acknowledged what had happened to it: ${certificate.acknowledged.comment}` : "";
  if (certificate.status === "valid") return h("p", { class: "muted" }, `Certificate of ${certificate.policy}: ${promise}. A higher threshold voids it.${known}`);
  const events = (certificate.events ?? []).map((each) => `${each.what.replaceAll("_", " ")} ${time(each.at_s)}`);
  const why = [certificate.causes.join(", ").replaceAll("_", " "), ...events].join("; ");
  return note("warning", `The certificate of ${certificate.policy} is void (${why}); it said: ${promise}. Tune again${events.length ? ", or acknowledge it" : ""}.`);
}

/** Options in the order of the document, each with its key and whether a chart over it makes sense. */
function flat(policies) {
  return policies.flatMap((policy, at) => policy.options.map((option) => ({
    ...option, policy: policy.policy, at, key: `${at}.${option.option}`,
    sweepable: policies.filter((each) => each.policy === policy.policy).length === 1,
    step: option.type === "integer" ? 1 : niceStep((option.max - option.min) / 100),
  })));
}

function niceStep(about) {
  const power = 10 ** Math.floor(Math.log10(about || 0.01));
  return Number([1, 2, 5, 10].map((each) => each * power).find((each) => each >= about * 0.999).toPrecision(6));
}

function candidate(state) {
  const copy = structuredClone(state.document);
  for (const option of state.options) {
    if (state.changed.has(option.key)) copy.routing.policies[option.at][option.option] = state.changed.get(option.key);
  }
  return copy;
}

/** Points of a sweep, with the value in force and the chosen one among them. */
function values(option) {
  const found = Array.from({ length: POINTS }, (_, at) => option.min + ((option.max - option.min) * at) / (POINTS - 1));
  const rounded = found.map((each) => (option.type === "integer" ? Math.round(each) : Number(each.toPrecision(6))));
  return [...new Set(option.value === null ? rounded : [...rounded, option.value])].sort((a, b) => a - b);
}

function groups(state, turned) {
  const names = [...new Set(state.options.map((each) => each.at))];
  if (!names.length) return [h("p", { class: "empty" }, "No policy of the active document has a number to turn.")];
  return names.map((at) => {
    const options = state.options.filter((each) => each.at === at);
    return h("fieldset", { class: "policy-options" }, h("legend", null, options[0].policy), folded(options, state, turned));
  });
}

/** The thresholds first; what is turned seldom is folded away, unless it was turned. */
function folded(options, state, turned) {
  const rows = (chosen) => chosen.map((option) => slider(option, state, turned));
  const often = options.filter((option) => isThreshold(option) || state.changed.has(option.key));
  const seldom = options.filter((option) => !often.includes(option));
  if (!seldom.length) return rows(often);
  return [rows(often), h("details", null, h("summary", null, plural(seldom.length, often.length ? "more number" : "number")), rows(seldom))];
}

function isThreshold(option) {
  return /threshold|escalate_/.test(option.option);
}

function slider(option, state, turned) {
  const label = uid("option");
  const explain = uid("explain");
  const value = state.changed.get(option.key) ?? option.value;
  const common = { min: option.min, max: option.max, step: option.step, "aria-describedby": explain };
  const range = h("input", { ...common, type: "range", id: label, "data-option": `${option.policy}.${option.option}` });
  const exact = h("input", { ...common, step: option.type === "integer" ? 1 : "any", type: "number", "aria-label": `${option.policy} ${option.option}, exact value` });
  range.value = value ?? option.min;
  exact.value = value ?? "";
  const row = h("div", { class: ["option", state.changed.has(option.key) && "changed"] },
    h("label", { for: label }, option.option), range, exact,
    h("div", { class: "explain", id: explain }, option.description, " ", h("span", null, option.value === null ? "Not set." : `In force: ${number(option.value)}.`)));
  const take = (text) => {
    const chosen = Number(text);
    if (text === "" || !Number.isFinite(chosen)) return;
    row.classList.toggle("changed", chosen !== option.value);
    turned(option, chosen);
  };
  range.addEventListener("input", () => { exact.value = range.value; take(range.value); });
  exact.addEventListener("input", () => { if (exact.checkValidity()) { range.value = exact.value; take(exact.value); } });
  return row;
}

function predicted(result, option, state) {
  const { baseline, candidate: other } = result;
  const rows = MEASURES.map(([key, label, format, better, apart]) => ({ key, label, format, better, apart: apart ?? format, now: baseline[key], then: other?.[key] }));
  const shown = rows.filter((row) => row.now || row.then || row.better === 1 || row.key === "quality_loss");
  const parts = [
    h("p", { class: "muted" }, `${plural(result.records, "logged request")} over ${seconds(result.window_s)}, ${count(result.labels)} with a grade. Intervals hold with 95 % confidence.`),
    table("Prediction", [
      { label: "Measure", cell: (row) => row.label },
      { label: `In force (v${state.version})`, cell: (row) => estimated(row.now, row.format, "the log cannot tell") },
      ...(other ? [{ label: "With your values", cell: (row) => h("span", { "data-measure": row.key }, estimated(row.then, row.format, "the log cannot tell")) }, { label: "Difference", cell: (row) => difference(row) }] : []),
    ], shown),
  ];
  if (result.sweep && option) parts.push(...sweeps(result.sweep, option, state));
  const limits = distinct(result.warnings);
  const unsupported = (other ?? baseline).unsupported;
  if (unsupported) limits.push(`For ${plural(unsupported, "request")} of ${count(result.records)} it does not say what would have come: the draft, or its grade, is missing.`);
  if (limits.length) parts.push(h("h3", null, "What the log cannot tell"), note("warning", h("ul", null, limits.map((each) => h("li", null, each)))));
  return parts;
}

/** Without those that differ in a number only. */
function distinct(texts) {
  const found = new Map();
  for (const text of texts) {
    const shape = text.replace(/[\d.,]+/g, "#");
    if (!found.has(shape)) found.set(shape, text);
  }
  return [...found.values()];
}

function difference(row) {
  if (!row.now || !row.then) return "–";
  const delta = row.then.value - row.now.value;
  if (Math.abs(delta) < 1e-12) return h("span", { class: "muted" }, "none");
  const apart = row.then.low > row.now.high || row.then.high < row.now.low;
  const kind = row.better === 0 || !apart ? "" : delta * row.better > 0 ? "better" : "worse";
  return h("span", { class: `delta ${kind}` }, `${delta > 0 ? "+" : "−"}${row.apart(Math.abs(delta))}`, apart ? null : h("small", null, "intervals overlap"));
}

function sweeps(points, option, state) {
  const chosen = state.changed.get(option.key) ?? option.value;
  const marksOf = [{ x: option.value, class: "current" }, { x: chosen, class: "chosen" }].filter((mark) => mark.x !== null);
  const chart = (key, title, format, kind) => [h("h3", null, title), sweep(`${title} over ${option.option}`, points.map((point) => ({ x: point.value, estimate: point.report[key] })), { format, xFormat: number, kind, marks: marksOf })];
  return [
    h("h3", null, `Over ${option.policy}.${option.option}`),
    h("div", { class: "sweeps" },
      h("div", null, chart("student_share", "Student share", (value) => percent(value, 0), "student")),
      h("div", null, chart("cost_usd_per_month", "Cost a month", usd, "teacher")),
      h("div", null, chart("quality", "Quality", (value) => value.toFixed(2), "good"))),
    h("p", { class: "legend" }, h("i", { class: "key current", "aria-hidden": "true" }), "in force ", h("i", { class: "key chosen", "aria-hidden": "true" }), "your value"),
    h("details", null, h("summary", null, "As a table"), table(`Effect of ${option.option}`, [
      { label: option.option, number: true, cell: (row) => number(row.value) },
      { label: "Student share", cell: (row) => estimated(row.report.student_share, percent) },
      { label: "Cost a month", cell: (row) => estimated(row.report.cost_usd_per_month, usd) },
      { label: "Quality", cell: (row) => estimated(row.report.quality, (value) => value.toFixed(3)) },
    ], points)),
  ];
}
