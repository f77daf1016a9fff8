// The shell: signing in, the way between the views, and what stays on screen in all of them.

import { Api } from "./api.js";
import { announce, field, h, note } from "./dom.js";
import { applyTheme, themeToggle } from "./theme.js";
import { overview } from "./overview.js";
import { thresholds } from "./thresholds.js";
import { decisions } from "./decisions.js";
import { students } from "./students.js";
import { policyDocument } from "./document.js";
import { quality } from "./quality.js";

const VIEWS = {
  overview: ["Overview", overview],
  thresholds: ["Thresholds", thresholds],
  decisions: ["Decisions", decisions],
  quality: ["Quality", quality],
  students: ["Students", students],
  policy: ["Policy", policyDocument],
};
const FIRST = "overview";
const VERSION_EVERY_MS = 5000;

const top = document.getElementById("top");
const main = document.getElementById("main");
let leave = null;

const context = {
  api: new Api((error) => signInPage(error.message)),
  version: null,
  /** Tell the bar, and whoever listens, which version is in force. */
  sawVersion(version) {
    if (version === context.version) return;
    const before = context.version;
    context.version = version;
    const badge = document.getElementById("version");
    if (badge) badge.textContent = `policy v${version}`;
    if (before !== null) document.dispatchEvent(new CustomEvent("policy-version", { detail: { before, version } }));
  },
};

function signInPage(problem) {
  leave?.();
  leave = null;
  document.querySelectorAll("dialog").forEach((open) => open.close());
  top.replaceChildren(brand(), h("div", { class: "tools" }, themeToggle()));
  const key = h("input", { type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
  const message = h("div");
  const button = h("button", { type: "submit", class: "primary" }, "Sign in");
  const form = h("form", { class: "panel sign-in", onsubmit: async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      await context.api.signIn(key.value.trim());
      shell();
    } catch (error) {
      message.replaceChildren(note("error", error.status === 401 || error.status === 403 ? "This is not an admin key of this gateway." : error.message));
      key.select();
    } finally {
      button.disabled = false;
    }
  } },
  h("h1", null, "Sign in"),
  problem ? note("warning", problem) : null,
  field("Admin key", key, "Kept in this tab until you sign out or close it."),
  message, button);
  main.replaceChildren(form);
  document.title = "Sign in – Locum console";
  key.focus();
}

function brand() {
  return h("p", { class: "brand" }, "Locum ", h("span", null, "console"));
}

function shell() {
  const links = Object.entries(VIEWS).map(([name, [label]]) => h("a", { href: `#/${name}`, "data-view": name }, label));
  const out = h("button", { type: "button", class: "quiet", onclick: () => {
    context.api.signOut();
    signInPage(null);
    announce("Signed out");
  } }, "Sign out");
  top.replaceChildren(
    brand(),
    h("nav", { "aria-label": "Views" }, links),
    h("div", { class: "tools" }, h("a", { id: "version", class: "badge", href: "#/policy" }, context.version === null ? "policy …" : `policy v${context.version}`), themeToggle(), out),
  );
  show();
}

function show() {
  if (!context.api.signedIn) return;
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const chosen = VIEWS[name] ? name : FIRST;
  const [label, view] = VIEWS[chosen];
  const keepsFocus = !document.activeElement || document.activeElement === document.body;
  leave?.();
  top.querySelectorAll("a[data-view]").forEach((link) => {
    if (link.dataset.view === chosen) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  document.title = `${label} – Locum console`;
  const stop = new AbortController();
  leave = () => stop.abort();
  main.replaceChildren(h("h1", { class: "visually-hidden" }, label), ...[view(context, { rest: rest.map(decodeURIComponent), signal: stop.signal })].flat());
  if (!keepsFocus) announce(label);
}

async function watchVersion() {
  if (context.api.signedIn && !document.hidden) {
    try {
      const status = await context.api.get("status");
      context.sawVersion(status.policy.version);
    } catch {
      // the view that is open says so
    }
  }
  setTimeout(watchVersion, VERSION_EVERY_MS);
}

applyTheme();
window.addEventListener("hashchange", () => { if (!location.hash.startsWith("#main")) show(); });
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
if (context.api.signedIn) shell();
else signInPage(null);
watchVersion();
