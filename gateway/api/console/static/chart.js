// @ts-check
/** Bars by day or group as SVG, with a sentence and the numbers as a table behind it. */
import { h, replace, svg } from "./core.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {{label: string, value: number, text: string, part?: string}} Bar */

const HEIGHT = 220;
const LABEL_PX = 64;
const GUTTER_PX = 52;
const TOP = 14;
const BOTTOM = 24;
const GRID_LINES = 4;
const DAY_MS = 86_400_000;
const DAYS_MAX = 92;

/** Rounds up to 1, 2, 4, 6 or 8 times a power of ten, whose quarters are short numbers. @param {number} value */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 4, 6, 8].find((step) => step * power >= value * 0.999999) ?? 10) * power;
}

/** Writes a value of the scale in US dollars. @param {number} value */
export const dollars = (value) => `$${value.toLocaleString("en-US", { maximumFractionDigits: 8 })}`;

/** @param {Bar[]} bars @param {(value: number) => string} unit @param {number} width in pixels */
function draw(bars, unit, width) {
  const top = ceiling(Math.max(...bars.map((bar) => bar.value)));
  const plot = HEIGHT - TOP - BOTTOM;
  const slot = (width - GUTTER_PX) / bars.length;
  const thick = Math.max(1, Math.min(40, slot * 0.66));
  const labelEvery = Math.ceil(LABEL_PX / slot);
  const lines = [...Array(GRID_LINES + 1).keys()].map((index) => {
    const y = Math.round(TOP + plot * (1 - index / GRID_LINES)) + 0.5;
    return [svg("line", { x1: GUTTER_PX, x2: width, y1: y, y2: y, class: index ? "grid" : "axis" }),
      svg("text", { x: GUTTER_PX - 10, y: y + 4, class: "scale", "text-anchor": "end" }, unit((top * index) / GRID_LINES))];
  });
  const drawn = bars.map((bar, index) => {
    const tall = bar.value > 0 ? Math.max(1.5, (bar.value / top) * plot) : 0;
    const [middle, fromEnd] = [GUTTER_PX + slot * (index + 0.5), bars.length - 1 - index];
    return svg("g", { class: "bar" }, svg("title", null, `${bar.label}: ${bar.text}`),
      svg("rect", { x: GUTTER_PX + slot * index, y: TOP, width: slot, height: plot, class: "hit" }),
      svg("rect", { x: middle - thick / 2, y: TOP + plot - tall, width: thick, height: tall, rx: Math.min(2.5, thick / 3) }),
      fromEnd % labelEvery === 0 && svg("text", { x: fromEnd ? middle : Math.min(middle + thick / 2, width), y: HEIGHT - 6, class: "label", "text-anchor": fromEnd ? "middle" : "end" }, bar.label));
  });
  return [lines, drawn];
}

/** Returns a row for each day of a range; days without a request have none of the API. @param {{from: string, to: string, data: Row[]}} report @returns {Row[]} */
export function everyDay({ from, to, data }) {
  const [first, days] = [Date.parse(from), Math.round((Date.parse(to) - Date.parse(from)) / DAY_MS) + 1];
  if (!(days > 0 && days <= DAYS_MAX)) return data;
  const found = new Map(data.map((row) => [row.day, row]));
  return [...Array(days).keys()].map((index) => new Date(first + index * DAY_MS).toISOString().slice(0, 10)).map((day) => found.get(day) ?? { day, usd: "0" });
}

/** Draws bars in the width that there is. @param {{title: string, sentence: string, bars: Bar[], unit: (value: number) => string, columns: [string, string]}} options */
export function barChart({ title, sentence, bars, unit, columns }) {
  if (!bars.length) return h("p", { class: "note" }, "There is nothing to draw in this range.");
  const canvas = svg("svg", { role: "img", "aria-label": `${title}. ${sentence}`, height: HEIGHT });
  const place = h("div", { class: "canvas" }, canvas);
  new ResizeObserver(() => {
    const width = Math.max(place.clientWidth, 200);
    canvas.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    replace(canvas, draw(bars, unit, width));
  }).observe(place);
  return h("figure", { class: "chart" },
    place,
    h("figcaption", null, sentence),
    h("details", null, h("summary", null, "Show as a table"),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
        h("table", null, h("caption", null, title), h("thead", null, h("tr", null, h("th", { scope: "col" }, columns[0]), h("th", { scope: "col", class: "num" }, columns[1]))),
          h("tbody", null, bars.map((bar) => h("tr", null, h("th", { scope: "row" }, bar.label), h("td", { class: "num" }, bar.text))))))));
}

/** Bars of one line each, widest first. @param {{label: any, value: number, text: string}[]} rows */
export function ranking(rows) {
  const most = Math.max(1, ...rows.map((row) => row.value));
  return h("ol", { class: "ranking" }, rows.map((row) => h("li", null,
    h("span", { class: "name" }, row.label), h("span", { class: "track", "aria-hidden": "true" }, h("span", { vars: { share: `${(row.value / most) * 100}%` } })),
    h("span", { class: "num" }, row.text))));
}
