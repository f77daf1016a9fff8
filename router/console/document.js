// The policy document as JSON: edited, tried without effect, and applied.

import { announce, fill, h, note, panel, uid } from "./dom.js";
import { applyDialog, changesTable, historyPanel } from "./actions.js";
import { lineOf, mistakeAt, placeOf } from "./places.js";
import { time } from "./format.js";

export function policyDocument(context, { signal }) {
  const place = h("div");
  const load = () => fill(place, () => context.api.get("policy", null, { signal }), (current) => {
    context.sawVersion(current.version);
    return editor(context, current, load);
  });
  load();
  return [panel("Policy document", place), historyPanel(context, signal)];
}

function editor(context, current, reload) {
  let base = current.version;
  const original = JSON.stringify(current.document, null, 2);
  const label = uid("editor");
  const problems = uid("problems");
  const text = h("textarea", { id: label, class: "mono", spellcheck: "false", autocomplete: "off", wrap: "off", "aria-describedby": problems });
  const lines = h("pre", { class: "lines mono", "aria-hidden": "true" });
  const said = h("div", { id: problems, "aria-live": "polite" });
  text.value = original;

  function number(wrong = new Set()) {
    const count = text.value.split("\n").length;
    lines.replaceChildren(...Array.from({ length: count }, (_, at) => h("span", { class: wrong.has(at + 1) && "wrong" }, `${wrong.has(at + 1) ? "▶ " : ""}${at + 1}\n`)));
    lines.scrollTop = text.scrollTop;
  }

  function showProblems(found) {
    number(new Set(found.map((each) => each.line).filter(Boolean)));
    text.toggleAttribute("aria-invalid", found.length > 0);
    said.replaceChildren(note("error", h("p", null, `${found.length === 1 ? "A problem" : `${found.length} problems`}:`), h("ul", null, found.map((each) => h("li", null,
      each.line ? h("button", { type: "button", class: "link", onclick: () => goTo(each.offset) }, `Line ${each.line}`) : null, each.line ? ": " : null, each.message)))));
    if (found[0]?.line) goTo(found[0].offset);
  }

  function goTo(offset) {
    text.focus();
    text.setSelectionRange(offset, text.value.indexOf("\n", offset) === -1 ? text.value.length : text.value.indexOf("\n", offset));
    text.scrollTop = (lineOf(text.value, offset) - 6) * parseFloat(getComputedStyle(text).lineHeight);
  }

  /** The document, or null after saying what is wrong with the text. */
  function parsed() {
    try {
      return JSON.parse(text.value);
    } catch (error) {
      const offset = mistakeAt(text.value, error.message);
      showProblems([{ message: `not JSON: ${error.message}`, offset, line: offset === null ? null : lineOf(text.value, offset) }]);
      return null;
    }
  }

  async function tried() {
    const document_ = parsed();
    if (document_ === null) return null;
    try {
      const result = await context.api.post("policy/validate", { document: document_, records: 0 });
      if (result.valid) return { document_, result };
      showProblems(result.problems.map((problem) => {
        const found = placeOf(text.value, problem.split(":")[0]);
        return { message: problem, offset: found?.offset, line: found?.line };
      }));
    } catch (error) {
      if (!error.signedOut) said.replaceChildren(note("error", error.message));
    }
    return null;
  }

  const check = h("button", { type: "button", onclick: async () => {
    const done = await tried();
    if (!done) return;
    number();
    text.removeAttribute("aria-invalid");
    said.replaceChildren(note("good", "This gateway can use it. Nothing was changed."), changesTable(done.result.diff));
  } }, "Check");
  const apply = h("button", { type: "button", class: "primary", onclick: async () => {
    const done = await tried();
    if (!done) return;
    await applyDialog(context.api, done.document_, base, {
      applied: (version) => { context.sawVersion(version.version); reload(); },
      conflict: (error) => {
        const theirs = error.body.current_version;
        said.replaceChildren(note("error", h("p", null, h("b", null, `Version ${theirs} is in force by now. `), `Your text was made from version ${base}; nothing was applied.`),
          h("div", { class: "actions" },
            h("button", { type: "button", onclick: () => { base = theirs; said.replaceChildren(note("warning", `Applying replaces version ${theirs} whole. The next step shows the difference.`)); } }, `Keep my text for version ${theirs + 1}`),
            h("button", { type: "button", onclick: reload }, `Load version ${theirs}`))));
        announce("Somebody else was first");
      },
    });
  } }, "Apply as new version …");
  const back = h("button", { type: "button", onclick: () => { text.value = original; number(); said.replaceChildren(); } }, "Undo my edits");
  text.addEventListener("input", () => number());
  text.addEventListener("scroll", () => { lines.scrollTop = text.scrollTop; });
  number();
  return [
    h("p", { class: "muted" }, `Version ${current.version}, by ${current.author}, `, time(current.created_s), ". Tab leaves the field."),
    h("label", { for: label, class: "visually-hidden" }, "Policy document, JSON"),
    h("div", { class: "editor" }, lines, text),
    h("div", { class: "actions" }, check, apply, back),
    said,
  ];
}
