// @ts-check
/** Changes of tenants, keys and provider keys: who, what, before and after. */
import { empty, h, utc, words, when } from "./core.js";
import { pager, table } from "./ui.js";

/** @typedef {import("./core.js").Row} Row */

/** @param {import("./core.js").Context} context @param {Row} page */
export const auditTable = (context, page) => [
  table("Changes, newest first", [
    { label: "When", cell: (row) => when(row.at) }, { label: "Who", cell: (row) => row.actor }, { label: "What", cell: (row) => words(row.action) },
    { label: "On", cell: (row) => row.target ?? [row.tenant, row.key_id].filter(Boolean).join(" / ") },
    { label: "Change", wide: true, cell: (row) => change(row) },
  ], page.data, { none: empty("No change matches.", "imagegate audit --limit 20") }),
  pager(context, "before", page.next),
];

/** @param {Row} row */
function change(row) {
  const [before, after] = [flat(row.before), flat(row.after)];
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((name) => before[name] !== after[name]);
  if (!names.length) return "–";
  const lines = names.map((name) => h("div", null, `${name}: `, name in before && row.after && h("del", null, before[name]), name in before && name in after && row.after && " → ", name in after && h("ins", null, after[name])));
  return names.length <= 2 ? lines : h("details", null, h("summary", null, `${names.length} fields`), lines);
}

/** Writes nested values as `limits.concurrency: 3`. @param {any} value @param {string} [prefix] @returns {Record<string, string>} */
export function flat(value, prefix = "") {
  if (value === null || value === undefined) return {};
  if (typeof value !== "object" || Array.isArray(value)) return { [prefix]: Array.isArray(value) ? value.join(", ") : String(value) };
  return Object.assign({}, ...Object.entries(value).map(([name, each]) => flat(/_at$|_until$/.test(name) && typeof each === "number" ? utc(each) : each, prefix ? `${prefix}.${name}` : name)));
}
