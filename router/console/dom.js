// Elements are built here and nowhere else: every text becomes a text node, so that nothing a client sent to the
// gateway can become markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. `props`: attributes; `on<event>` are listeners, `class` may be a list; null and false are left out. */
export function h(tag, props, ...children) {
  return filled(document.createElement(tag), props, children);
}

/** The same in SVG. */
export function s(tag, props, ...children) {
  return filled(document.createElementNS(SVG, tag), props, children);
}

function filled(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.setAttribute("class", Array.isArray(value) ? value.filter(Boolean).join(" ") : value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Say something to whoever cannot see the change. */
export function announce(text) {
  const live = document.getElementById("live");
  live.textContent = "";
  requestAnimationFrame(() => { live.textContent = text; });
}

let count = 0;

/** An id that no other element has. */
export function uid(prefix) {
  count += 1;
  return `${prefix}-${count}`;
}

/** A table. `columns`: {label, cell(row), number}, with `hidden` instead of `label` for a heading that only
 * screen readers need; the first column heads its row. */
export function table(caption, columns, rows, { empty = "Nothing yet.", hiddenCaption = true, rowProps } = {}) {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  const head = h("tr", null, columns.map((column) => h("th", { scope: "col", class: column.number && "number" }, column.hidden ? h("span", { class: "visually-hidden" }, column.hidden) : column.label)));
  const body = rows.map((row) => h("tr", rowProps?.(row), columns.map((column, at) => {
    const cell = column.cell(row);
    return at === 0
      ? h("th", { scope: "row", class: column.number && "number" }, cell)
      : h("td", { class: [column.number && "number", column.class].filter(Boolean).join(" ") || null }, cell ?? "–");
  })));
  const label = h("caption", { class: hiddenCaption && "visually-hidden" }, caption);
  return h("div", { class: "scroll", role: "group", "aria-label": caption, tabindex: "0" },
    h("table", null, label, h("thead", null, head), h("tbody", null, body)));
}

/** A titled part of a page. */
export function panel(title, ...children) {
  const id = uid("panel");
  return h("section", { class: "panel", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}

/** A message in its place. `kind`: note, warning, error or good. */
export function note(kind, ...children) {
  return h("div", { class: `note ${kind}`, role: kind === "error" ? "alert" : null }, ...children);
}

/** What went wrong, with a way on. */
export function failure(error, retry) {
  return note("error", h("p", null, error.message), retry && h("button", { type: "button", onclick: retry }, "Try again"));
}

/**
 * Fill `place` with what `load` resolves to; the last call wins. Loading shows only where nothing stands yet. A place
 * that is `pending` stays busy: another call is coming.
 */
export async function fill(place, load, render) {
  const turn = (place.turn = (place.turn ?? 0) + 1);
  place.setAttribute("aria-busy", "true");
  if (!place.childElementCount) place.replaceChildren(h("p", { class: "loading" }, "Loading …"));
  try {
    const value = await load();
    if (turn !== place.turn) return;
    const shown = [render(value)].flat().filter(Boolean);
    const same = shown.length === place.childNodes.length && shown.every((each, at) => each === place.childNodes[at]);
    if (!same) place.replaceChildren(...shown); // putting an element where it is already takes its focus away
  } catch (error) {
    if (error.name === "AbortError" || error.signedOut) return;
    if (turn === place.turn) place.replaceChildren(failure(error, () => fill(place, load, render)));
  } finally {
    if (turn === place.turn && !place.pending) place.removeAttribute("aria-busy");
  }
}

/** A field with its label. */
export function field(label, input, hint) {
  input.id ||= uid("field");
  const hintId = hint && uid("hint");
  if (hint) input.setAttribute("aria-describedby", hintId);
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input, hint && h("small", { id: hintId }, hint));
}

/** One of several words as radio buttons in a row. `choices`: [[value, label], ...]. */
export function choice(legend, choices, chosen, onchange) {
  const name = uid("choice");
  return h("fieldset", { class: "choice" }, h("legend", { class: "visually-hidden" }, legend), choices.map(([value, label]) => {
    const id = uid("radio");
    const input = h("input", { type: "radio", name, id, value: String(value), onchange: () => onchange(value) });
    input.checked = value === chosen;
    return [input, h("label", { for: id }, label)];
  }));
}

/** A modal dialog. Esc closes it, and the focus returns to where it was. Resolves when it is closed. */
export function dialog(title, build, { drawer = false } = {}) {
  const before = document.activeElement;
  const id = uid("dialog");
  const element = h("dialog", { class: drawer ? "drawer" : "box", "aria-labelledby": id });
  const close = () => element.close();
  const body = h("div", { class: "dialog-body" });
  element.append(
    h("div", { class: "dialog-head" }, h("h2", { id }, title), h("button", { type: "button", class: "quiet", onclick: close, "aria-label": "Close" }, "×")),
    body,
  );
  body.append(...[build(close, body)].flat());
  document.body.append(element);
  element.showModal();
  return new Promise((resolve) => {
    element.addEventListener("close", () => {
      element.remove();
      if (before?.isConnected) before.focus();
      resolve();
    });
  });
}
