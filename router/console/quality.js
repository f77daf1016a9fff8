// Quality by model, tag and student from the graded sample, what the drift detectors see, and the regression set.

import { announce, choice, dialog, field, fill, h, note, panel, table } from "./dom.js";
import { intervalBar } from "./charts.js";
import { count, estimated, number, percent, plural, points, range, route, time } from "./format.js";

const WINDOWS = [[3600, "1 h"], [86400, "24 h"], [7 * 86400, "7 d"], [0, "All"]];
const SPLITS = [["", "not split"], ["student", "student"], ["reason", "reason"], ["grader", "grader"], ["tag", "a tag"]];
const TOLD = "too few grades";
const score = (value) => value.toFixed(3);
const hundredths = (value) => (value * 100).toFixed(1);

export function quality(context, { signal }) {
  const asked = { window: 86400, by: "", tag: "" };
  const figures = h("div", { class: "view" });
  const drift = h("div");
  const rounds = h("div");
  const load = () => fill(figures, () => context.api.get("quality", { window_s: asked.window || null, by: asked.by === "tag" ? `tag:${asked.tag}` : asked.by }, { signal }), shown);
  const tag = h("input", { type: "text", autocomplete: "off", spellcheck: "false", placeholder: "e.g. team" });
  const tagField = field("Tag", tag);
  tagField.hidden = true;
  const split = h("select", { onchange: () => {
    asked.by = split.value;
    tagField.hidden = asked.by !== "tag";
    if (asked.by !== "tag" || tag.value) load().then(() => announce("Split anew"));
    else tag.focus();
  } }, SPLITS.map(([value, label]) => h("option", { value }, label)));
  tag.addEventListener("change", () => { asked.tag = tag.value.trim(); if (asked.tag) load(); });
  load();
  loadDrift();
  fill(rounds, () => optional(context.api.get("regression", null, { signal })), regression);

  function loadDrift() {
    return fill(drift, () => optional(context.api.get("drift", null, { signal })), (found) => driftShown(found, () => restart(context, loadDrift)));
  }

  return [
    h("div", { class: "bar" }, choice("Window", WINDOWS, asked.window, (value) => { asked.window = value; load().then(() => announce("Window changed")); }), field("Split by", split), tagField),
    figures,
    h("div", { class: "columns" }, panel("Drift", drift), panel("Regression set", rounds)),
  ];
}

/** What a gateway may be without: its own words instead of an error. */
async function optional(answer) {
  try {
    return await answer;
  } catch (error) {
    if (error.status === 404) return { off: error.message };
    throw error;
  }
}

function shown({ by, total, parts }) {
  const rows = parts.length ? [...parts, { ...total, name: "all" }] : [total];
  const figures = table("Quality of the answers", [
    { label: by ?? "Part", cell: (row) => row.name },
    { label: "Requests", number: true, cell: (row) => count(row.requests.student + row.requests.teacher) },
    { label: "Student share", number: true, cell: (row) => percent(row.student_share) },
    { label: "Clients got", cell: (row) => estimated(row.quality.mix, score, TOLD) },
    { label: "Student's answers", cell: (row) => estimated(row.quality.student, score, TOLD) },
    { label: "Teacher's answers", cell: (row) => estimated(row.quality.teacher, score, TOLD) },
    { label: "Lost, points", cell: (row) => estimated(row.quality_loss, hundredths, TOLD) },
    { label: "Feedback, student", cell: (row) => estimated(row.feedback.student, score, TOLD) },
    { label: "Feedback, teacher", cell: (row) => estimated(row.feedback.teacher, score, TOLD) },
  ], rows, { empty: "No request in this time." });
  return [
    panel("Quality from the graded sample", h("p", { class: "muted" }, "Scores from 0 to 1, 1 = good, weighed by the probability of being drawn; 95 % confidence. Lost: against the teacher alone, in hundredths."), figures, bars(rows, by)),
    panel("How it was graded", graded(total)),
  ];
}

/** Where the intervals lie, one under the other. */
function bars(rows, by) {
  const known = rows.flatMap((row) => ["student", "teacher"].map((name) => ({ row, name, estimate: row.quality[name] })).filter((each) => each.estimate));
  if (!known.length) return null;
  const low = Math.min(...known.map((each) => each.estimate.low));
  const high = Math.max(...known.map((each) => each.estimate.high));
  return table("Intervals", [
    { label: by ?? "Part", cell: (each) => each.row.name },
    { label: "Answers of", cell: (each) => route(each.name) },
    { label: `Interval, ${score(low)} to ${score(high)}`, cell: (each) => intervalBar(each.estimate, low, high, each.name) },
    { label: "As text", cell: (each) => range(each.estimate, score) },
  ], known);
}

function graded({ labels, drawn, coverage, judge }) {
  const pairs = (counts) => Object.entries(counts).map(([name, n]) => `${name} ${count(n)}`).join(", ") || "none";
  const facts = [
    ["Shadow answers graded", `${count(labels.shadow)} (worth ${count(labels.shadow_effective)} of equal weight)`],
    ["More grades for ±1 point of what is lost", count(labels.missing_for_1_point)], ["By", pairs(labels.by_grader)], ["Requests drawn", pairs(drawn)],
    ["Of the drawn, answered", estimated(coverage, percent, "none drawn")], ["Feedback", plural(labels.feedback, "judgement")],
    ["Judge agrees with itself in both orders", estimated(judge.consistent, percent, "no judge")],
    ["Judge's bias for the first place", estimated(judge.position_bias, points, "no judge")],
  ];
  return h("dl", { class: "facts" }, facts.map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, value))));
}

function driftShown(found, onrestart) {
  if (found.off) return h("p", { class: "empty" }, found.off);
  const { reference, detectors, calibration, alarms } = found;
  const rows = Object.entries(detectors).map(([name, finding]) => ({ name, finding }));
  return [
    alarms.length ? note("error", `Alarm: ${alarms.join(", ")}.`) : note(found.looked_s ? "good" : "note", found.looked_s ? ["No alarm. Last look: ", time(found.looked_s)] : "Nothing was compared yet."),
    h("p", { class: "muted" }, reference.fixed_s ? ["Against ", plural(reference.requests, "request"), " up to ", time(reference.last_s), "."] : `The reference is being gathered: ${count(reference.requests)} of ${count(reference.wanted)} requests.`),
    table("Drift detectors", [
      { label: "Detector", cell: (row) => row.name.replaceAll("_", " ") },
      { label: "Score, alarm from 1", number: true, cell: (row) => (row.finding ? h("span", { class: row.finding.alarm ? "bad" : "ok" }, number(row.finding.score, 2)) : "–") },
      { label: "Strongest in", cell: (row) => (row.finding ? [row.finding.measure, row.finding.route && ` of the ${row.finding.route}`, row.finding.tag && `, ${row.finding.tag}`] : "–") },
      { label: "Effect", number: true, cell: (row) => (row.finding ? `${number(row.finding.effect)} of ${number(row.finding.threshold)}` : "–") },
      { label: "n", number: true, cell: (row) => (row.finding ? count(row.finding.n) : "–") },
    ], rows),
    calibration.labels ? h("p", null, `Calibration over ${plural(calibration.labels, "grade")}: ${percent(calibration.expected_wrong)} of the student's answers were expected to be wrong, ${percent(calibration.observed_wrong)} were.`) : null,
    h("div", { class: "actions" }, h("button", { type: "button", onclick: onrestart }, "Take a new reference …")),
  ].filter(Boolean);
}

function restart(context, done) {
  return dialog("Take a new reference", (close) => {
    const message = h("div");
    return [
      h("p", null, "What is normal now becomes what later traffic is compared with: after a change that was meant, say. The old reference is forgotten, and nothing is compared until the new one is complete."),
      message,
      h("div", { class: "actions" },
        h("button", { type: "button", class: "primary", onclick: async () => {
          try {
            await context.api.post("drift/reference", {});
            close();
            announce("A new reference is being gathered");
            done();
          } catch (error) {
            message.replaceChildren(note("error", error.message));
          }
        } }, "Forget the old reference"),
        h("button", { type: "button", onclick: close }, "Cancel")),
    ];
  });
}

function regression(found) {
  if (found.off) return h("p", { class: "empty" }, found.off);
  return [
    found.alarm ? note("error", "The last round is worse than an earlier one.") : null,
    ...found.compared.map((each) => h("p", null, "Against ", h("code", null, each.against_model), " of ", time(each.against_s), ": ", estimated(each.difference, points))),
    table("Rounds", [
      { label: "Asked at", cell: (row) => time(row.started_s) },
      { label: "Model", cell: (row) => [route(row.route), " ", h("code", null, row.model)] },
      { label: "Right", cell: (row) => estimated(row.score, percent, "no answer") },
      { label: "Failed", number: true, cell: (row) => count(row.failed) },
    ], found.rounds, { empty: "No round yet." }),
  ].filter(Boolean);
}
