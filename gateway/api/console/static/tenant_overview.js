// @ts-check
/** What a team looks at first: what is left of each limit and quota, spend by day, keys that expire, its latest refusals. */
import { badge, empty, get, h, heading, link, may, part, plural, section, serves, usd, when } from "./core.js";
import { barChart, dollars, everyDay } from "./chart.js";
import { table } from "./ui.js";
import { metersOf } from "./limits.js";

/** @typedef {import("./core.js").Row} Row */
const REFRESH_S = 15;
const SOON_S = 14 * 86400;

/** @param {import("./core.js").Context} context */
export default async function tenantOverview(context) {
  const { session, signal } = context;
  const [limits, spend, keys, refused] = await Promise.all([
    part(get("/console/tenant/usage_now", undefined, signal), (now) => metersOf(now.tenant), signal),
    part(get("/console/tenant/usage", { by: "day", last: "30d", limit: 31 }, signal), spendOf, signal),
    may(session, "keys.read") && part(get("/console/tenant/keys", undefined, signal), expiring, signal),
    serves(session, "/refusals") && part(get("/console/tenant/refusals", { limit: 5 }, signal), refusals, signal),
  ]);
  context.every(REFRESH_S);
  return [
    heading(session.tenant ?? "Overview", may(session, "playground") && link("/console/playground", "Open the playground", "button primary"),
      `What the team may use and has used. Running requests count. Days end at midnight ${session.time_zone ?? "UTC"}.`),
    section("Limits and quotas", limits),
    section("Spend of 30 days", spend, link("/console/usage", "Usage & cost")),
    keys && section("Keys that expire within 14 days", keys, link("/console/keys", "Keys")),
    refused && section("Latest refusals", refused, link("/console/requests?view=refusals", "All refusals")),
  ];
}

/** @param {Row} usage */
const spendOf = (usage) => (usage.data.length ? barChart({
  title: "Spend by day in US dollars", sentence: `${usd(usage.total.usd)} for ${plural(usage.total.images, "image")} in ${plural(usage.total.requests, "request")}. Amounts are exact.`,
  bars: everyDay(/** @type {any} */ (usage)).map((/** @type {Row} */ row) => ({ label: row.day.slice(5), value: Number(row.usd), text: usd(row.usd) })), unit: dollars, columns: ["Day", "US dollars"],
}) : empty("No request in 30 days. The playground makes one, and shows the code for it."));

/** @param {Row} page */
function expiring(page) {
  const soon = page.data.filter((/** @type {Row} */ key) => key.expires_at && key.expires_at < Date.now() / 1000 + SOON_S);
  return soon.length ? h("ul", { class: "list" }, soon.map((/** @type {Row} */ key) => h("li", null, h("div", null, key.label || "no label", h("span", { class: "note mono" }, `sk-ig-${key.id}…`)), h("div", null, badge("warn", "expires"), h("span", { class: "note" }, when(key.expires_at))))))
    : h("p", { class: "note" }, "None.");
}

/** @param {Row} refused */
const refusals = (refused) => table("Latest refusals", [
  { label: "Time", cell: (row) => when(row.at) }, { label: "Request", cell: (row) => link(`/console/requests/${encodeURIComponent(row.request_id)}`, h("code", null, row.request_id)) },
  { label: "Code", cell: (row) => h("code", null, row.code) }, { label: "Message", wide: true, cell: (row) => row.message }],
refused.data, { none: empty("No request was refused.", "imagegate me refusals") });
