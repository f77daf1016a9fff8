// Where a key of a JSON text stands, so that a problem is shown at its line.

/** Line (from 1) and offset of the value at `path`, or of the deepest part of it that is there. */
export function placeOf(text, path) {
  const found = new Map();
  try {
    value(text, skip(text, 0), "", found);
  } catch {
    return null; // not JSON: the parser says where
  }
  const parts = path.split(".");
  for (let length = parts.length; length >= 0; length -= 1) {
    const offset = found.get(parts.slice(0, length).join("."));
    if (offset !== undefined) return { offset, line: lineOf(text, offset) };
  }
  return null;
}

export function lineOf(text, offset) {
  return text.slice(0, offset).split("\n").length;
}

/** Offset of the mistake that JSON.parse complains about, or null. */
export function mistakeAt(text, message) {
  const at = /position (\d+)/.exec(message);
  if (at) return Number(at[1]);
  const place = /line (\d+) column (\d+)/.exec(message);
  if (!place) return /end of/.test(message) ? text.length : null;
  const lines = text.split("\n").slice(0, Number(place[1]) - 1);
  return lines.reduce((sum, line) => sum + line.length + 1, 0) + Number(place[2]) - 1;
}

function skip(text, at) {
  while (/\s/.test(text[at] ?? "")) at += 1;
  return at;
}

function string(text, at) {
  const start = at;
  for (at += 1; text[at] !== '"'; at += 1) {
    if (at >= text.length) throw new SyntaxError("no end");
    if (text[at] === "\\") at += 1;
  }
  return [JSON.parse(text.slice(start, at + 1)), at + 1];
}

function value(text, at, path, found) {
  found.set(path, at);
  const inner = (key) => (path ? `${path}.${key}` : String(key));
  if (text[at] === "{") {
    at = skip(text, at + 1);
    while (text[at] !== "}") {
      const start = at;
      const [key, end] = string(text, at);
      at = value(text, skip(text, skip(text, end) + 1), inner(key), found);
      found.set(inner(key), start);
      at = skip(text, at);
      if (text[at] === ",") at = skip(text, at + 1);
      else if (text[at] !== "}") throw new SyntaxError("no end");
    }
    return at + 1;
  }
  if (text[at] === "[") {
    at = skip(text, at + 1);
    for (let index = 0; text[at] !== "]"; index += 1) {
      at = skip(text, value(text, at, inner(index), found));
      if (text[at] === ",") at = skip(text, at + 1);
      else if (text[at] !== "]") throw new SyntaxError("no end");
    }
    return at + 1;
  }
  if (text[at] === '"') return string(text, at)[1];
  const end = /[\s,\]}]|$/.exec(text.slice(at));
  if (!end || end.index === 0) throw new SyntaxError("no value");
  return at + end.index;
}
