// Light or dark: as the system says, until the reader chooses.

import { h } from "./dom.js";

const STORED = "locum-theme";
const NAMES = { auto: "System", light: "Light", dark: "Dark" };

function set(theme) {
  if (theme === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", theme);
}

export function applyTheme() {
  set(localStorage.getItem(STORED) ?? "auto");
}

export function themeToggle() {
  const select = h("select", { "aria-label": "Colours", onchange: () => {
    localStorage.setItem(STORED, select.value);
    set(select.value);
  } }, Object.entries(NAMES).map(([value, label]) => h("option", { value }, label)));
  select.value = localStorage.getItem(STORED) ?? "auto";
  return select;
}
