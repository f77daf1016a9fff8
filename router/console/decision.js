// One decision: every policy's vote, the draft, what it cost, and what was learned about it later.

import { dialog, fill, h, note, table } from "./dom.js";
import { count, number, route, seconds, time, usd } from "./format.js";

export function openDecision(context, id, position) {
  return dialog("Decision", (close, body) => {
    fill(body, () => context.api.get(`decisions/${encodeURIComponent(id)}`, { position }), (found) => shown(found));
    return [];
  }, { drawer: true });
}

function facts(entries) {
  return h("dl", { class: "facts" }, entries.filter(Boolean).map(([term, ...value]) => h("div", null, h("dt", null, term), h("dd", null, value.flat().map((each) => each ?? "–")))));
}

function shown({ record, score, feedback, shadows, complete, texts }) {
  const decision = record.decision;
  return [
    h("p", { class: "mono" }, record.decision_id),
    h("p", null, "Answered by ", route(record.route), ...why(record)),
    record.fallback_cause ? note("warning", `The chosen backend failed: ${record.fallback_cause}.`) : null,
    record.degraded ? note("warning", `Degraded: ${record.degraded}.`) : null,
    h("h3", null, "Votes"), votes(record),
    ...draft(record.draft),
    h("h3", null, "Request"),
    facts([
      ["Time", time(record.created_s)], ["Endpoint", h("code", null, record.endpoint), record.stream ? " (stream)" : ""],
      ["Asked for", h("code", null, record.requested_model)], ["Tenant", record.tenant], ["Session", record.session ?? "–"],
      ["Purpose", record.purpose ?? "traffic"], ["Captured", record.capture],
      ["Tags", Object.entries(record.tags ?? {}).length ? Object.entries(record.tags).map(([key, value]) => h("span", { class: "tag" }, `${key}=${value}`)) : "–"],
    ]),
    h("h3", null, "Answer"),
    facts([
      ["Outcome", `${record.outcome} (${record.status}${record.error_code ? `, ${record.error_code}` : ""})`], ["Finish reason", record.finish_reason],
      ["Latency", seconds(record.latency_s)], ["First token", seconds(record.ttft_s)], ["Time per token", seconds(record.tpot_s)], ["Router overhead", seconds(record.overhead_s)],
      ["Tokens", record.usage ? `${count(record.usage.prompt_tokens)} in${record.usage.cached_tokens ? ` (${count(record.usage.cached_tokens)} cached)` : ""}, ${count(record.usage.completion_tokens)} out${record.usage.reasoning_tokens ? ` (${count(record.usage.reasoning_tokens)} reasoning)` : ""}` : "not reported"],
      ["Cost", record.cost_usd === null || record.cost_usd === undefined ? "not known" : usd(record.cost_usd)],
      ["The teacher would have cost", record.counterfactual_cost_usd === null || record.counterfactual_cost_usd === undefined ? "not known" : usd(record.counterfactual_cost_usd)],
      ["Mean logprob", number(record.mean_logprob ?? null)], ["Backend", record.backend_fingerprint],
      ["Policy version", h("code", null, decision.version)], ["Propensity", number((decision.propensity ?? 1) * (record.draft?.review?.propensity ?? 1))],
      ["Student", h("code", null, record.student)], ["Teacher", h("code", null, record.teacher)],
    ]),
    h("h3", null, "Features"), features(record.features),
    h("h3", null, "Judgements"), judgements(score, feedback, complete),
    ...shadow(shadows),
    h("h3", null, "Texts"), ...textsOf(record, texts),
  ].filter(Boolean);
}

function why(record) {
  const by = decidedBy(record);
  if (record.reason === "default" && by === "default") return [": no policy decided otherwise."];
  if (by === "request") return [": the client asked for it."];
  return [` because of ${by}: `, h("b", null, record.reason), "."];
}

function decidedBy(record) {
  const review = record.draft?.escalated ? record.draft.review : null;
  return (review ?? record.decision).policy || "the gateway";
}

function votes(record) {
  const review = record.draft?.review;
  const rows = [...(record.votes ?? []), ...(review ? [{ ...review, policy: `${review.policy} (about the draft)` }] : [])];
  return table("Votes of the policies", [
    { label: "Policy", cell: (row) => (row.shadow ? [row.policy, " ", h("span", { class: "tag" }, "shadow")] : row.policy) },
    { label: "Vote", cell: (row) => (row.route ? route(row.route) : h("span", { class: "muted" }, "abstained")) },
    { label: "Reason", cell: (row) => row.reason },
    { label: "Score", number: true, cell: (row) => number(row.score ?? null) },
    { label: "Threshold", number: true, cell: (row) => number(row.threshold ?? null) },
    { hidden: "Meaning", cell: (row) => compare(row) },
  ], rows, { empty: record.decision.policy === "request" ? "The client chose the model itself; no policy was asked." : "No policy was asked." });
}

function compare({ score, threshold }) {
  if (score === null || score === undefined || threshold === null || threshold === undefined) return "";
  return h("span", { class: "muted" }, score > threshold ? "above: teacher" : "not above: student");
}

function draft(found) {
  if (!found) return [];
  return [h("h3", null, "Draft of the student"), facts([
    ["Fate", found.escalated ? "thrown away" : "delivered"], ["Judged by", found.prefix ? "its beginning" : "the whole answer"],
    ["Tokens", count(found.tokens ?? 0)], ["Mean logprob", number(found.mean_logprob ?? null)],
    ["Cost", found.cost_usd === null || found.cost_usd === undefined ? "not known" : usd(found.cost_usd)], ["Finish reason", found.finish_reason],
    ...signalsOf(found.signals),
  ])];
}

function signalsOf(found) {
  if (!found) return [];
  const value = (name, digits) => (found[name] === undefined || found[name] === null ? null : number(found[name], digits));
  return [
    ["Checks", found.failed === undefined || found.failed === null ? "not made" : found.failed.join(", ") || "all passed"],
    ["Lowest logprob, 10 % quantile", value("min_logprob") && `${value("min_logprob")}, ${value("logprob_q10")}`],
    ["Margin, mean and lowest", value("mean_margin") && `${value("mean_margin")}, ${value("min_margin")}`],
    ["Entropy", value("mean_entropy")], ["Stated confidence", value("stated_confidence")],
    ["Agreement of a second sample", value("agreement") ?? ((found.unavailable ?? []).includes("agreement") ? "not in time" : null)],
  ].filter(([, shown]) => shown !== null);
}

function features(found) {
  if (!found) return h("p", { class: "empty" }, "The request was refused before any were taken.");
  const chunks = found.chunks ?? [];
  const signals = found.signals ?? {};
  return facts([
    ["Prompt, estimated", `${count(found.approx_prompt_tokens)} tokens`], ["Prompt, counted", signals.prompt_tokens ? `${count(signals.prompt_tokens)} tokens` : "–"],
    ["Output asked for", `${count(found.requested_output_tokens)} tokens`], ["Student's window", found.student_window_tokens ? `${count(found.student_window_tokens)} tokens` : "not known"],
    ["Messages", count(found.message_count)], ["Reasoning effort", found.reasoning_effort],
    ["Retrieved chunks", chunks.length ? `${count(chunks.length)}, scores ${chunks.map((chunk) => number(chunk.score ?? null)).join(", ")}` : found.retrieval_attempted ? "none found" : "no retrieval"],
    ["Stated confidence", number(found.retrieval_confidence ?? null)],
    ["Needs", [found.has_tools && "tools", found.has_response_format && "response format", found.has_images && "images"].filter(Boolean).join(", ") || "–"],
    signals.quote ? ["Teacher's answer, expected", `${count(Math.round(signals.quote.tokens))} tokens, at a price of ${number(signals.quote.price * signals.quote.cost)}`] : null,
    signals.lot ? ["Drawn", signals.lot.excluded ?? number(signals.lot.draw)] : null,
    ["Not measured in time", (signals.unavailable ?? []).join(", ") || "–"],
  ]);
}

function judgements(score, feedback, complete) {
  return h("div", null,
    complete ? null : note("warning", "Looking for judgements took too long; there may be more."),
    score === null ? null : h("p", null, "Score that counts: ", h("b", null, number(score))),
    table("Feedback", [
      { label: "Time", cell: (row) => time(row.created_s) },
      { label: "Source", cell: (row) => row.source || "–" },
      { label: "Score", number: true, cell: (row) => number(row.score ?? null) },
      { label: "Label", cell: (row) => row.label ?? "–" },
      { label: "Correction", cell: (row) => row.correction ?? "–" },
    ], feedback, { empty: "Nobody judged this answer." }));
}

function shadow(found) {
  return found.flatMap((each) => [
    h("h3", null, `Shadow answer of the ${each.asked}`),
    facts([["Status", each.status], ["Asked at", time(each.created_s)], ["Latency", seconds(each.latency_s)], ["Drawn with probability", number(each.propensity)],
      ["Cost", usd(each.cost_usd)], ["Judges", usd(each.judge_cost_usd)], ["Predicted P(student wrong)", number(each.predicted ?? null)]]),
    table("Grades", [
      { label: "Grader", cell: (row) => row.grader },
      { label: "Student", number: true, cell: (row) => number(row.student ?? null) },
      { label: "Teacher", number: true, cell: (row) => number(row.teacher ?? null) },
      { label: "Preferred", cell: (row) => row.preferred ?? "–" },
      { label: "Both orders agree", cell: (row) => (row.consistent === null || row.consistent === undefined ? "–" : row.consistent ? "yes" : "no") },
    ], each.grades ?? [], { empty: "Not graded." }),
    each.completion ? h("pre", { class: "code" }, each.completion) : null,
  ].filter(Boolean));
}

function textsOf(record, texts) {
  if (texts === "not_captured") return [h("p", { class: "empty" }, "None were captured.")];
  if (texts === "hidden") return [h("p", { class: "empty" }, "Captured, and not shown: admin.show_texts is off.")];
  const part = (label, text) => (text ? [h("h4", null, label), h("pre", { class: "code", tabindex: "0" }, text)] : []);
  return [...part("Last user turn", record.features?.last_user_turn), ...part("Draft", record.draft?.text), ...part("Answer", record.completion), ...part("Request body", record.request)];
}
