// Small charts, drawn by hand. Each is a picture with a name; the numbers stand in a table beside it.

import { h, s } from "./dom.js";

const LEFT = 52;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;

/** A place that draws itself in its own width, and again when that changes. `draw(width)` gives SVG elements. */
function drawn(label, height, draw) {
  const place = h("div", { class: "chart" });
  let width = 0;
  const redraw = () => {
    const now = Math.max(160, Math.round(place.clientWidth || 320));
    if (now === width) return;
    width = now;
    place.replaceChildren(s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, draw(width)));
  };
  new ResizeObserver(redraw).observe(place);
  redraw();
  return place;
}

/** Round numbers that cover [low, high]. */
export function ticks(low, high, about = 4) {
  if (!(high > low)) return [low];
  const rough = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) found.push(Number((at * step).toPrecision(12)));
  return found;
}

/** Ticks from 0 on, the last one at or above `most`. */
function ticksAbove(most) {
  const found = ticks(0, most, 3);
  if (found.at(-1) < most * 0.999) found.push(Number((found.at(-1) + (found[1] ?? most) - found[0]).toPrecision(12)));
  return found;
}

function frame(width, height, yTicks, y, yFormat) {
  return yTicks.map((tick) => [
    s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
    s("text", { class: "tick", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, yFormat(tick)),
  ]);
}

function xLabels(height, labels) {
  return labels.map(([x, text, anchor]) => s("text", { class: "tick", x, y: height - 6, "text-anchor": anchor ?? "middle" }, text));
}

/** Stacked bars over time. `points`: {start, end, values}; `classes` name the parts from the bottom up. */
export function stackedBars(label, points, classes, { format, timeLabel, height = 150 }) {
  return drawn(label, height, (width) => {
    const most = Math.max(...points.map((point) => point.values.reduce((a, b) => a + b, 0)), 1e-12);
    const yTicks = ticksAbove(most);
    const top = yTicks.at(-1);
    const y = (value) => height - BOTTOM - (value / top) * (height - TOP - BOTTOM);
    const first = points[0].start;
    const last = points.at(-1).end;
    const x = (time) => LEFT + ((time - first) / (last - first || 1)) * (width - LEFT - RIGHT);
    const bars = points.map((point) => {
      let below = 0;
      return point.values.map((value, part) => {
        const bar = s("rect", {
          class: `fill ${classes[part]}`, x: x(point.start) + 0.5, width: Math.max(1, x(point.end) - x(point.start) - 1),
          y: y(below + value), height: Math.max(0, y(below) - y(below + value)),
        });
        below += value;
        return bar;
      });
    });
    return [frame(width, height, yTicks, y, format), bars, xLabels(height, [[LEFT, timeLabel(first), "start"], [width - RIGHT, timeLabel(last), "end"]])];
  });
}

/** Lines over time. `lines`: {class, values}, a value for each point. */
export function lines(label, points, series, { format, timeLabel, height = 150 }) {
  return drawn(label, height, (width) => {
    const most = Math.max(...series.flatMap((each) => each.values), 1e-12);
    const yTicks = ticksAbove(most);
    const top = yTicks.at(-1);
    const y = (value) => height - BOTTOM - (value / top) * (height - TOP - BOTTOM);
    const first = points[0].start;
    const last = points.at(-1).end;
    const x = (time) => LEFT + ((time - first) / (last - first || 1)) * (width - LEFT - RIGHT);
    const paths = series.map((each) => s("polyline", {
      class: `line ${each.class}`, points: points.map((point, at) => `${x((point.start + point.end) / 2)},${y(each.values[at])}`).join(" "),
    }));
    return [frame(width, height, yTicks, y, format), paths, xLabels(height, [[LEFT, timeLabel(first), "start"], [width - RIGHT, timeLabel(last), "end"]])];
  });
}

/** An interval on an axis from `low` to `high`, as part of a table row. */
export function intervalBar(estimate, low, high, kind) {
  const width = 160;
  const x = (value) => 4 + Math.min(1, Math.max(0, (value - low) / (high - low || 1))) * (width - 8);
  return s("svg", { class: "interval", width, height: 16, viewBox: `0 0 ${width} 16`, "aria-hidden": "true" },
    s("line", { class: "axis", x1: 4, x2: width - 4, y1: 8, y2: 8 }),
    s("line", { class: `whisker ${kind}`, x1: x(estimate.low), x2: x(estimate.high), y1: 8, y2: 8 }),
    s("circle", { class: `fill ${kind}`, cx: x(estimate.value), cy: 8, r: 4 }));
}

/** A bar for a share in [0, 1], as part of a table row. */
export function shareBar(share, kind) {
  return s("svg", { class: "share", width: 100, height: 10, viewBox: "0 0 100 10", "aria-hidden": "true" },
    s("rect", { class: "axis-fill", width: 100, height: 10, rx: 2 }),
    s("rect", { class: `fill ${kind}`, width: Math.max(0, Math.min(100, share * 100)), height: 10, rx: 2 }));
}

/** What a value does to an estimate. `points`: {x, estimate}; `marks`: {x, class, label}. */
export function sweep(label, points, { format, xFormat, kind, marks, height = 150 }) {
  const known = points.filter((point) => point.estimate);
  if (!known.length) return h("p", { class: "empty" }, "The log cannot tell.");
  return drawn(label, height, (width) => {
    const low = Math.min(...known.map((point) => point.estimate.low));
    const high = Math.max(...known.map((point) => point.estimate.high));
    const margin = (high - low) * 0.08 || Math.abs(high) * 0.1 || 0.01;
    const [from, to] = [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
    const y = (value) => height - BOTTOM - ((value - from) / (to - from)) * (height - TOP - BOTTOM);
    const [first, last] = [points[0].x, points.at(-1).x];
    const x = (value) => LEFT + ((value - first) / (last - first || 1)) * (width - LEFT - RIGHT);
    const band = [...known.map((point) => `${x(point.x)},${y(point.estimate.high)}`), ...known.toReversed().map((point) => `${x(point.x)},${y(point.estimate.low)}`)];
    return [
      frame(width, height, ticks(from, to, 3), y, format),
      s("polygon", { class: `band ${kind}`, points: band.join(" ") }),
      s("polyline", { class: `line ${kind}`, points: known.map((point) => `${x(point.x)},${y(point.estimate.value)}`).join(" ") }),
      known.map((point) => s("circle", { class: `fill ${kind}`, cx: x(point.x), cy: y(point.estimate.value), r: 2 })),
      marks.filter((mark) => mark.x >= first && mark.x <= last).map((mark) => s("line", { class: `mark ${mark.class}`, x1: x(mark.x), x2: x(mark.x), y1: TOP, y2: height - BOTTOM })),
      xLabels(height, [[LEFT, xFormat(first), "start"], [(LEFT + width - RIGHT) / 2, xFormat((first + last) / 2)], [width - RIGHT, xFormat(last), "end"]]),
    ];
  });
}
