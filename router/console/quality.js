// Quality by model, tag and student, and what the drift detectors see.
import { h, panel } from "./dom.js";
export function quality() { return panel("Quality", h("p", { class: "empty" }, "soon")); }
