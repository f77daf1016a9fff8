// What was decided, newest first, and why.

import { announce, field, fill, h, note, panel, table } from "./dom.js";
import { openDecision } from "./decision.js";
import { count, route, seconds, time, usd } from "./format.js";

const OUTCOMES = ["ok", "degraded", "client_error", "backend_error", "client_disconnected", "timeout", "rejected"];

export function decisions(context, { rest, signal }) {
  const form = filters();
  const place = h("div");
  const trail = [];
  let query = {};
  let cursor = null;

  const load = () => fill(place, () => context.api.get("decisions", { ...query, cursor, limit: 50 }, { signal }), (page) => {
    announce(`${page.decisions.length} decisions`);
    return shown(page);
  });

  function shown(page) {
    const newer = h("button", { type: "button", disabled: !trail.length, onclick: () => { cursor = trail.pop(); load(); } }, "Newer");
    const older = h("button", { type: "button", disabled: !page.next_cursor, onclick: () => { trail.push(cursor); cursor = page.next_cursor; load(); } }, "Older");
    return [
      rows(context, page.decisions),
      page.problem ? note("warning", page.problem) : null,
      h("div", { class: "actions" }, newer, older, h("span", { class: "muted" },
        `${count(page.decisions.length)} of ${count(page.scanned)} records looked at.${page.next_cursor && page.decisions.length < 50 ? " There is more to search." : ""}`)),
    ].filter(Boolean);
  }

  const search = (event) => {
    event?.preventDefault();
    query = Object.fromEntries(new FormData(form).entries());
    trail.length = 0;
    cursor = null;
    load();
  };
  form.addEventListener("submit", search);
  form.addEventListener("reset", () => setTimeout(search));
  load();
  if (rest[0]) openDecision(context, rest[0], rest[1] ?? null);
  return [panel("Find", form), panel("Decisions", place)];
}

function filters() {
  const select = (name, options) => h("select", { name }, h("option", { value: "" }, "any"), options.map((each) => h("option", { value: each }, each)));
  const text = (name, placeholder) => h("input", { type: "text", name, placeholder, autocomplete: "off", spellcheck: "false" });
  return h("form", { role: "search", "aria-label": "Decisions" },
    h("div", { class: "filters" },
      field("Answered by", select("route", ["student", "teacher", "none"])),
      field("Outcome", select("outcome", OUTCOMES)),
      field("Policy", text("policy", "e.g. cascade")),
      field("Reason", text("reason", "e.g. low_confidence")),
      field("Tag", text("tag", "e.g. team=docs")),
      field("Id, tenant, session, model", text("q", ""))),
    h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Search"), h("button", { type: "reset" }, "Clear")));
}

function tag(text) {
  return h("span", { class: "tag", title: text }, text);
}

function rows(context, found) {
  return table("Decisions", [
    { label: "Time", cell: (row) => h("button", { type: "button", class: "link", "data-decision": row.decision_id, onclick: () => openDecision(context, row.decision_id, row.position) }, time(row.created_s)) },
    { label: "Answered by", cell: (row) => route(row.route) },
    { label: "Policy: reason", cell: (row) => `${row.policy}: ${row.reason}` },
    { label: "Outcome", cell: (row) => h("span", { class: row.outcome === "ok" ? "ok" : "bad" }, row.outcome === "ok" ? "ok" : `${row.outcome} ${row.status}`) },
    { label: "Asked for", cell: (row) => h("span", { class: "mono" }, row.requested_model) },
    { label: "Tokens in / out", number: true, cell: (row) => (row.usage ? `${count(row.usage.prompt_tokens)} / ${count(row.usage.completion_tokens)}` : "–") },
    { label: "Latency", number: true, cell: (row) => seconds(row.latency_s) },
    { label: "Cost", number: true, cell: (row) => usd(row.cost_usd) },
    { label: "By the teacher", number: true, cell: (row) => usd(row.counterfactual_cost_usd) },
    { label: "Tenant, tags", cell: (row) => [tag(row.tenant), Object.entries(row.tags ?? {}).map(([key, value]) => tag(`${key}=${value}`))] },
  ], found, { empty: "No decision fits." });
}
