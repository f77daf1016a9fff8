// The bundles that the gateway may serve, their verdicts, and which one is current.

import { announce, dialog, field, fill, h, note, panel, table } from "./dom.js";
import { bytes, number, time } from "./format.js";

const EVERY_MS = 5000;
const MOVING = ["verifying", "starting", "warming", "installing", "stopping_old"];

export function students(context, { signal }) {
  const place = h("div", { class: "view" });
  const load = () => fill(place, () => context.api.get("students", null, { signal }).catch((error) => {
    if (error.code === "no_registry") return null;
    throw error;
  }), (listed) => (listed ? shown(context, listed, load) : withoutRegistry()));
  const timer = setInterval(() => { if (!document.hidden && !place.contains(document.activeElement)) load(); }, EVERY_MS);
  signal.addEventListener("abort", () => clearInterval(timer));
  load();
  return place;
}

function withoutRegistry() {
  return panel("Students", note("note", h("p", null, "The configuration names no registry of bundles (", h("code", null, "student.registry"), "): the gateway serves one student at a fixed address."),
    h("p", null, "With a registry, bundles that ", h("code", null, "locum train run"), " builds are promoted and rolled back here.")));
}

function shown(context, { bundles, damaged, status }, reload) {
  const state = status.state;
  const problems = Object.entries(damaged);
  return [
    panel("Promotion", h("dl", { class: "facts" }, [
      ["Current", status.current ?? "none"], ["Before it", status.previous ?? "none"],
      ["Gateway", status.gateway_runs && state ? `${state.phase}: ${state.message}` : "none serves this registry"],
      ["Serves", state?.serving ?? "nothing"],
      ["Last change", status.pointer ? [`${status.pointer.change.action}, `, time(status.pointer.change.time_s)] : "none"],
    ].map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, value)))),
    state && MOVING.includes(state.phase) ? note("note", `${state.wanted} is on its way: ${state.phase}.`) : null,
    state?.phase === "failed" ? note("error", h("p", null, state.message), state.log_tail?.length ? h("pre", { class: "code", tabindex: "0" }, state.log_tail.join("\n")) : null) : null,
    h("div", { class: "actions" }, h("button", { type: "button", disabled: !status.previous, onclick: () => change(context, reload, {
      title: "Roll back the student", text: `${status.previous} becomes current again; ${status.current} stops when its requests have ended.`,
      path: "students/rollback", body: {}, done: `${status.previous} is current`,
    }) }, "Roll back to the one before"))),
    panel("Bundles", table("Bundles", [
      { label: "Bundle", cell: (row) => h("span", { class: "mono" }, row.bundle_id) },
      { hidden: "Place", cell: (row) => (row.bundle_id === status.current ? h("b", null, "current") : row.bundle_id === status.previous ? "before it" : "") },
      { label: "Verdict", cell: (row) => h("span", { class: `verdict ${row.verdict}` }, row.verdict) },
      { label: "Made", cell: (row) => time(row.created_s) },
      { label: "Size", number: true, cell: (row) => bytes(row.model_bytes) },
      { label: "Quantized", cell: (row) => row.quantization ?? "no" },
      { label: "Cascade threshold", number: true, cell: (row) => number(row.cascade_threshold ?? null) },
      { hidden: "Change", cell: (row) => h("button", { type: "button", "aria-label": `Promote ${row.bundle_id}`, onclick: () => promote(context, reload, row, status) }, row.bundle_id === status.current ? "Promote again" : "Promote") },
    ], bundles.toReversed(), { empty: "There is no bundle yet: locum train run builds one.", rowProps: (row) => ({ class: ["bundle", row.bundle_id === status.current && "current"] }) }),
    problems.length ? note("error", h("p", null, "Damaged bundles:"), h("ul", null, problems.map(([name, problem]) => h("li", null, `${name}: ${problem}`)))) : null),
  ];
}

function promote(context, reload, row, status) {
  return change(context, reload, {
    title: `Promote ${row.bundle_id}`,
    text: `It is verified, loaded beside ${status.current ?? "nothing"} and answers when it is warm. Its verdict is ${row.verdict}.`,
    path: "students/promote", body: { bundle_id: row.bundle_id }, force: row.verdict !== "pass", done: `${row.bundle_id} is current`,
  });
}

function change(context, reload, { title, text, path, body, force, done }) {
  return dialog(title, (close) => {
    const reason = h("input", { type: "text", maxlength: 1000, required: Boolean(force), autocomplete: "off" });
    const sure = h("input", { type: "checkbox", id: "force-promotion", required: true });
    const message = h("div");
    const submit = h("button", { type: "submit", class: force ? "danger" : "primary" }, title);
    return h("form", { onsubmit: async (event) => {
      event.preventDefault();
      submit.disabled = true;
      try {
        await context.api.post(path, { ...body, ...(reason.value ? { reason: reason.value } : {}), ...(force ? { force: true } : {}) });
        close();
        announce(done);
        reload();
      } catch (error) {
        submit.disabled = false;
        message.replaceChildren(note("error", error.message));
      }
    } },
    h("p", null, text),
    force ? h("label", { class: "check", for: "force-promotion" }, sure, "Promote it against its verdict") : null,
    field("Reason", reason, force ? "Needed against a verdict; kept in the registry's history." : "Kept in the registry's history and in the audit log."),
    message,
    h("div", { class: "actions" }, submit, h("button", { type: "button", onclick: close }, "Cancel")));
  });
}
