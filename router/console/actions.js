// Changing the policy: a dry run, the difference, a note, and the version that it was based on.

import { ApiError } from "./api.js";
import { announce, dialog, field, fill, h, note, panel, table } from "./dom.js";
import { count, percent, time } from "./format.js";

const MAX_NOTE = 1000;

/** The differences of two documents as a table. */
export function changesTable(changes) {
  const value = (each) => (each === undefined ? h("span", { class: "muted" }, "not there") : h("code", null, JSON.stringify(each)));
  return table("Changes", [
    { label: "Key", cell: (row) => h("code", null, row.key) },
    { label: "Now", cell: (row) => value(row.before) },
    { label: "Then", cell: (row) => value(row.after) },
  ], changes, { empty: "Nothing changes." });
}

function noteField() {
  const input = h("input", { type: "text", maxlength: MAX_NOTE, autocomplete: "off" });
  return [input, field("Note", input, "Why; kept with the version and in the audit log.")];
}

/**
 * Try a document, show what changes, and put it in force. `base`: the version that it was made from.
 * `applied(version)` is called when it is in force, `conflict(error)` when somebody else was first.
 */
export function applyDialog(api, document_, base, { applied, conflict }) {
  return dialog("Apply as a new version", (close, body) => {
    fill(body, () => api.post("policy/validate", { document: document_ }), (result) => {
      if (!result.valid) {
        return [note("error", h("p", null, "This gateway cannot use the document:"), h("ul", null, result.problems.map((each) => h("li", null, each)))),
          h("div", { class: "actions" }, h("button", { type: "button", onclick: close }, "Close"))];
      }
      const [input, noteRow] = noteField();
      const message = h("div");
      const apply = h("button", { type: "submit", class: "primary", disabled: !result.diff.length }, `Apply as version ${base + 1}`);
      return h("form", { onsubmit: async (event) => {
        event.preventDefault();
        apply.disabled = true;
        try {
          const version = await api.ask("PUT", "policy", { body: { document: document_, expected_version: base, comment: input.value } });
          close();
          announce(`Version ${version.version} is in force`);
          applied(version);
        } catch (error) {
          apply.disabled = false;
          if (error instanceof ApiError && error.status === 409 && error.body?.current_version !== undefined) {
            close();
            conflict(error);
          } else message.replaceChildren(note("error", error.message));
        }
      } },
      result.current_version !== base ? note("warning", `Version ${result.current_version} is in force by now; this was made from version ${base}.`) : null,
      h("p", null, `Against version ${result.current_version}, which is in force:`),
      changesTable(result.diff),
      effect(result.effect),
      noteRow, message,
      h("div", { class: "actions" }, apply, h("button", { type: "button", onclick: close }, "Cancel")));
    });
    return [];
  });
}

function effect(found) {
  if (!found) return null;
  if (found.problem) return note("warning", found.problem);
  if (!found.records) return h("p", { class: "muted" }, "The log has no request to try it on.");
  return h("p", null, `Of the last ${count(found.records)} logged requests ${count(found.changed)} would go to the other model before any draft is reviewed: teacher ${percent(found.teacher_share_before)} → ${percent(found.teacher_share_after)}.`);
}

/** The versions, newest first, each with a way back to it. */
export function historyPanel(context, signal) {
  const place = h("div");
  const load = () => fill(place, () => context.api.get("policy/history", { limit: 20 }, { signal }), (history) => table("Versions", [
    { label: "Version", cell: (row) => [String(row.version), row.version === history.current ? h("span", { class: "ok" }, " in force") : null] },
    { label: "Since", cell: (row) => time(row.created_s) },
    { label: "By", cell: (row) => `${row.author}${row.source === "api" ? "" : ` (${row.source})`}` },
    { label: "Note", cell: (row) => [row.restores !== null && row.restores !== undefined ? h("span", { class: "muted" }, `as version ${row.restores}. `) : null, row.comment || "–"] },
    { hidden: "Way back", cell: (row) => (row.version === history.current ? "" : h("button", { type: "button", "aria-label": `Roll back to version ${row.version}`, onclick: () => rollbackDialog(context, row.version, history.current, load) }, "Roll back")) },
  ], history.versions));
  const changed = () => load();
  document.addEventListener("policy-version", changed, { signal });
  load();
  return panel("History", place);
}

function rollbackDialog(context, to, current, done) {
  const { api } = context;
  return dialog(`Roll back to version ${to}`, (close, body) => {
    fill(body, () => api.get("policy/diff", { from: current, to }), (difference) => {
      const [input, noteRow] = noteField();
      const message = h("div");
      const apply = h("button", { type: "submit", class: "primary" }, `Make version ${current + 1} with the content of ${to}`);
      return h("form", { onsubmit: async (event) => {
        event.preventDefault();
        apply.disabled = true;
        try {
          const version = await api.post("policy/rollback", { to, expected_version: current, comment: input.value });
          context.sawVersion(version.version);
          close();
          announce(`Version ${version.version} is in force`);
          done();
        } catch (error) {
          apply.disabled = false;
          message.replaceChildren(note("error", error.status === 409 ? `${error.message} Close this and look at the history again.` : error.message));
        }
      } },
      changesTable(difference.changes), noteRow, message,
      h("div", { class: "actions" }, apply, h("button", { type: "button", onclick: close }, "Cancel")));
    });
    return [];
  });
}
