// @ts-check
/** Usage and cost: range, two-level grouping, chart, table with the API's total, comparison, exports, verification, closing. */
import { call, empty, get, h, heading, href, int, link, listsRequests, may, plural, problem, replace, scoped, section, serves, usd, utc, words } from "./core.js";
import { barChart, dollars, everyDay } from "./chart.js";
import { choice, cli, confirmation, flags, pager, search, table } from "./ui.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const ROWS = 100;
const PARTS_MAX = 400;
const RANGES = { "": "This month", last_month: "Last month", "1d": "Today", "7d": "Last 7 days", "30d": "Last 30 days", "90d": "Last 90 days", custom: "From – to" };
const GROUPS = /** @type {Record<string, string>} */ ({ day: "Day", hour: "Hour", month: "Month", tenant: "Tenant", cost_centre: "Cost centre", owner: "Owner", model: "Model", key: "Key", tag: "Tag", user: "User", upstream: "Upstream" });
const ADMIN_ONLY = new Set(["tenant", "cost_centre", "owner", "upstream", "hour"]);

/** Returns the range as the API takes it. @param {URLSearchParams} query @param {Date} [now] @returns {Row} */
export function rangeOf(query, now = new Date()) {
  const range = query.get("range") ?? "";
  if (range === "custom") return { from: query.get("from"), to: query.get("to") };
  if (range === "last_month") return { month: new Date(Date.UTC(now.getUTCFullYear(), now.getUTCMonth() - 1, 1)).toISOString().slice(0, 7) };
  return range ? { last: range } : {};
}

/** @param {Context} context */
export default async function usage(context) {
  const { query, session, signal } = context;
  const own = Boolean(session.tenant);
  const by = [query.get("by") || "day", query.get("then")].filter(Boolean);
  const narrow = ["model", "key"].filter((name) => serves(session, `/usage?${name}`));
  const filter = { ...rangeOf(query), ...(own ? {} : { tenant: query.get("tenant") }), ...Object.fromEntries(narrow.map((name) => [name, query.get(name)])), tag: query.get("tag") };
  const canCompare = serves(session, "/usage?compare");
  const compare = canCompare && query.get("compare") === "previous" ? "previous" : undefined;
  const asked = { ...filter, by: by.join(","), compare };
  const groups = Object.fromEntries(Object.entries(GROUPS).filter(([name]) => !(own && ADMIN_ONLY.has(name)) && (name !== "hour" || narrow.length)));
  const head = [
    heading("Usage & cost", null, `Every amount is exact and comes from the API. Days are those of ${session.time_zone ?? "UTC"}.`),
    h("div", { class: "filters" }, choice(context, "range", "Range", RANGES),
      query.get("range") === "custom" && [search(context, "from", "From", { type: "date" }), search(context, "to", "To", { type: "date" })],
      choice(context, "by", "Group by", { "": "Day", ...Object.fromEntries(Object.entries(groups).filter(([name]) => name !== "day")) }),
      choice(context, "then", "Then by", { "": "–", ...Object.fromEntries(Object.entries(groups).filter(([name]) => name !== by[0])) }),
      !own && search(context, "tenant", "Tenant"), narrow.map((name) => search(context, name, name === "key" ? "Key ID" : "Model")), search(context, "tag", "Tag", { placeholder: "KEY=VALUE" }),
      canCompare && choice(context, "compare", "Compare", { "": "–", previous: "Previous period" })),
  ];
  let report;
  try {
    report = await get(scoped(session, "/usage"), { ...asked, limit: ROWS, cursor: query.get("cursor") }, signal);
  } catch (error) {
    if (signal.aborted) throw error;
    return [head, problem(error, context.reload)]; // the filters stay, to be corrected
  }
  return [head, totals(report), chart(report), rows(context, report), pager(context, "cursor", report.next_cursor), own ? null : tools(context, filter, by)];
}

/** @param {Row} report */
function totals({ total, previous, from, to }) {
  const figure = (/** @type {string} */ label, /** @type {string} */ value, /** @type {any} */ note) => h("div", null, h("dt", null, label), h("dd", null, value, note && h("small", { class: "note" }, note)));
  const before = previous?.total;
  return h("dl", { class: "figures" },
    figure("Cost", usd(total.usd), before ? `${usd(before.usd)} in ${previous.from} – ${previous.to}` : `${from} – ${to}`),
    figure("Images", int(total.images), before ? `${int(before.images)} before` : "delivered"),
    figure("Requests", int(total.requests), before ? `${int(before.requests)} before` : "admitted"),
    figure("Withheld", int(total.withheld), `by the safety check; ${int(total.unconfirmed)} unconfirmed, ${int(total.lost)} lost`));
}

/** @param {Row} row @param {string} group */
const nameOf = (row, group) => (group === "key" && row.label ? row.label : group === "hour" ? row.hour.replace("T", " ") || "corrections" : row[group] || "none");

/** Writes a day without its year, and an hour without its day. @param {string} time */
const shortTime = (time) => (time.includes("T") ? time.slice(11, 16) : time.length > 7 ? time.slice(5) : time);

/** Draws reports of one group: bars of two groups would have to be added up. @param {Row} report */
function chart({ by, data, from, to, next_cursor: next }) {
  if (by.length !== 1 || next || !data.length) return null;
  const most = data.reduce((/** @type {Row} */ best, /** @type {Row} */ row) => (Number(row.usd) > Number(best.usd) ? row : best), data[0]);
  const isTime = ["day", "hour", "month"].includes(by[0]);
  const bars = by[0] === "day" ? everyDay({ from, to, data }) : isTime ? data : [...data].sort((left, right) => Number(right.usd) - Number(left.usd)).slice(0, 20);
  return section(`Cost by ${words(by[0])}`, barChart({
    title: `Cost by ${words(by[0])} in US dollars`, sentence: `The most is ${usd(most.usd)}: ${nameOf(most, by[0])}.${bars.length < data.length ? ` The ${bars.length} largest of ${int(data.length)} are drawn.` : ""}`,
    columns: [GROUPS[by[0]] ?? words(by[0]), "US dollars"], unit: dollars,
    bars: bars.map((/** @type {Row} */ row) => ({ label: isTime ? shortTime(row[by[0]]) : String(nameOf(row, by[0])), value: Number(row.usd), text: usd(row.usd) })),
  }));
}

/** @param {Context} context @param {Row} report */
function rows(context, { by, data, total, next_cursor: next }) {
  const sort = context.query.get("sort");
  const isWhole = !next && !context.query.get("cursor");
  const sorted = sort && isWhole ? [...data].sort((left, right) => (Number(left[sort]) - Number(right[sort])) * (context.query.get("order") === "desc" ? -1 : 1)) : data;
  const number = (/** @type {string} */ label, /** @type {string} */ name, write = int) => ({ label, num: true, sort: isWhole ? name : undefined, cell: (/** @type {Row} */ row) => write(row[name]) });
  return table(`Usage by ${by.map(words).join(" and ")}`, [
    ...by.map((/** @type {string} */ group, /** @type {number} */ index) => ({ label: GROUPS[group] ?? words(group), cell: (/** @type {Row} */ row) => (row === total ? (index ? "" : "Total of all pages") : cell(context, row, group)) })),
    number("Requests", "requests"), number("Requested", "asked"), number("Images", "images"), number("Withheld", "withheld"), number("Cost", "usd", usd),
  ], sorted, { context, total, none: empty("No request in this range.", "imagegate usage --last 30d") });
}

/** @param {Context} context @param {Row} row @param {string} group */
function cell(context, row, group) {
  const name = nameOf(row, group);
  if (group === "tenant" && may(context.session, "tenants.read")) return link(`/console/tenants/${encodeURIComponent(row.tenant)}`, name);
  if (group === "day" && listsRequests(context.session)) return link(href("/console/requests", { day: row.day, tenant: row.tenant, model: row.model, key: row.key }), name);
  return group === "key" && row.label ? [name, h("span", { class: "note mono" }, row.key)] : name;
}

/** @param {Context} context @param {Row} filter @param {(string | null)[]} by */
function tools(context, filter, by) {
  const place = h("div", { role: "status" });
  const range = flags(Object.fromEntries(["tenant", "from", "to", "month", "last", "model", "key", "tag"].map((name) => [name, filter[name] ?? ""])));
  const verifying = flags(Object.fromEntries(["tenant", "from", "to", "month", "last"].map((name) => [name, filter[name] ?? ""])));
  const isExact = !filter.tag || filter.tag.includes("="); // a tag without a value only groups
  const narrows = serves(context.session, "/usage/export?model");
  const file = (/** @type {string} */ format, /** @type {string} */ label, /** @type {string | undefined} */ groups) =>
    h("a", { class: "button", download: true, href: href("/admin/v1/usage/export", { ...filter, format, by: groups }) }, label);
  const check = h("button", { type: "button", async onclick() {
    check.disabled = true;
    const line = h("p", { class: "note" }, "Comparing the totals with every record…");
    replace(place, h("progress", { "aria-label": "The range is verified" }), line);
    try {
      replace(place, await verified(filter, context.signal, (records) => (line.textContent = `Comparing the totals with every record: ${plural(records, "record")} compared…`)));
    } catch (error) {
      if (!context.signal.aborted) replace(place, problem(error));
    }
    check.disabled = false;
  } }, "Verify this range");
  return h("div", { class: "columns" },
    section("Export exactly this filter", !narrows && (filter.model || filter.key) ? h("p", { class: "note" }, "Exports have no filter by model or key. Clear both to export this range.") : [h("div", { class: "actions" }, file("csv", "CSV", by.join(",")), isExact && [file("jsonl", "Every request, JSONL", undefined), file("focus", "FOCUS 1.2", undefined)]),
      cli(`imagegate usage export --format csv --by ${by.join(",")}${range} --output usage.csv`)]),
    section("Verify and close", [h("p", { class: "note" }, "Verification recomputes all totals of the range, of this tenant or of all, from the records and shows every difference. Closing a month stores the proof."),
      h("div", { class: "actions" }, check, may(context.session, "months.close") && h("button", { type: "button", onclick: () => close(context) }, "Close last month")), place, cli(`imagegate usage verify${verifying}`)]));
}

/** Verifies all parts of a range; the API checks a bounded part at a time.
 * @param {Row} filter @param {AbortSignal} signal @param {(records: number) => void} progress */
async function verified(filter, signal, progress) {
  const { tag: _tag, model: _model, key: _key, ...range } = filter;
  const differences = [];
  let [cursor, parts, records, expired, busy] = [null, 0, 0, 0, 0];
  do {
    const part = await get("/admin/v1/usage/verify", { ...range, cursor }, signal);
    differences.push(...part.differences);
    [cursor, parts, records, expired, busy] = [part.next_cursor, parts + 1, records + part.records, expired + part.expired_days, busy + part.busy_days];
    progress(records);
  } while (cursor && parts < PARTS_MAX);
  const checked = `${plural(records, "record")}, compared at ${utc(Date.now() / 1000)}.${expired ? ` Not compared: ${plural(expired, "day")} of tenants whose records have expired.` : ""}${busy ? ` Not compared: ${plural(busy, "day")} of tenants whose records changed meanwhile; verify again.` : ""}${cursor ? " The range is too long: this is its first part only." : ""}`;
  if (!differences.length) return h("p", { class: "told done" }, h("strong", null, "The totals and the records agree."), ` ${checked}`);
  return [h("p", { class: "told wrong" }, h("strong", null, `${plural(differences.length, "difference")}.`), ` ${checked}`), table("Differences", [
    { label: "Tenant", cell: (row) => row.tenant }, { label: "Day", cell: (row) => row.day }, { label: "Key", cell: (row) => row.key }, { label: "Model", cell: (row) => row.model },
    { label: "Measure", cell: (row) => words(row.measure) }, { label: "Totals", num: true, cell: (row) => int(row.sums) }, { label: "Records", num: true, cell: (row) => int(row.records) }], differences)];
}

/** @param {Context} context */
async function close(context) {
  const { month } = rangeOf(new URLSearchParams({ range: "last_month" }));
  confirmation({
    title: `Close ${month}`, name: month, action: "Close the month", command: `imagegate usage close ${month}`,
    text: "The gateway verifies the month and stores its totals with their checksums. Later differences become corrections of the next month.",
    submit: () => call("POST", "/admin/v1/usage/closings", { body: { month } }), done: context.reload,
  });
}
