// Numbers with their units and intervals, and times in UTC.

import { h } from "./dom.js";

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export function count(value) {
  return value === null || value === undefined ? "–" : whole.format(value);
}

export function percent(value, digits = 1) {
  return value === null || value === undefined ? "–" : `${(value * 100).toFixed(digits)} %`;
}

/** Three significant digits, cents from 1 USD on. */
export function usd(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1000) return `${value < 0 ? "−" : ""}$${whole.format(size)}`;
  if (size >= 1 || size === 0) return `${value < 0 ? "−" : ""}$${size.toFixed(2)}`;
  const digits = Math.min(10, 2 - Math.floor(Math.log10(size)));
  return `${value < 0 ? "−" : ""}$${size.toFixed(digits)}`;
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 86400) return `${(value / 86400).toFixed(1)} d`;
  if (value >= 3600) return `${(value / 3600).toFixed(1)} h`;
  if (value >= 120) return `${(value / 60).toFixed(1)} min`;
  if (value >= 10) return `${value.toFixed(1)} s`;
  return value >= 0.9995 ? `${value.toFixed(2)} s` : `${(value * 1000).toFixed(value >= 0.01 ? 0 : 1)} ms`;
}

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  return Number.isInteger(value) ? whole.format(value) : String(Number(value.toPrecision(digits)));
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1e9) return `${(value / 1e9).toFixed(2)} GB`;
  return value >= 1e6 ? `${(value / 1e6).toFixed(0)} MB` : `${(value / 1e3).toFixed(0)} kB`;
}

/** `low to high` of an estimate. */
export function range(estimate, format) {
  return `${format(estimate.low)} to ${format(estimate.high)}`.replaceAll(" ", "\u00a0");
}

/** A value with its interval and n under it. */
export function estimated(estimate, format, none = "not known") {
  if (!estimate) return h("span", { class: "muted" }, none);
  return h("span", { class: "estimate" },
    h("b", null, format(estimate.value)),
    h("small", { title: "95 % confidence interval, and the number of observations" }, `${range(estimate, format)}, n\u00a0=\u00a0${count(estimate.n)}`));
}

/** A time in UTC; the reader's own on hover. */
export function time(unixSeconds, { withDate = true } = {}) {
  if (unixSeconds === null || unixSeconds === undefined) return "–";
  const date = new Date(unixSeconds * 1000);
  const iso = date.toISOString();
  const text = withDate ? `${iso.slice(0, 10)} ${iso.slice(11, 19)}` : iso.slice(11, 19);
  return h("time", { datetime: iso, title: `${date.toLocaleString()} local time` }, `${text} UTC`);
}

/** A difference of two shares. */
export function points(value) {
  return `${(value * 100).toFixed(1)} points`;
}

/** `3 requests`, `1 request`. */
export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}

/** A word in the colour of its model. */
export function route(name) {
  return name ? h("span", { class: `route ${name}` }, name) : h("span", { class: "muted" }, "none");
}
