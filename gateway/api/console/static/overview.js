// @ts-check
/** What an operator looks at first: spend, trend, what needs attention, refusals, capacity. */
import { badge, empty, get, h, heading, href, int, link, plural, section, serves, usd, when, words } from "./core.js";
import { barChart, ranking } from "./chart.js";

/** @typedef {import("./core.js").Row} Row */
const REFRESH_S = 15;
const SOON_S = 3 * 86400;

/** @param {import("./core.js").Context} context */
export default async function overview(context) {
  const seen = await get("/admin/v1/overview", undefined, context.signal);
  context.every(REFRESH_S);
  return [
    heading("Overview", null, ["As of ", when(seen.at), `. Days end at midnight ${context.session.time_zone ?? "UTC"}. Amounts are exact.`]),
    h("dl", { class: "figures" },
      figure("Spend today", usd(seen.today.usd), `${int(seen.today.images)} images, ${int(seen.today.requests)} requests`),
      figure("Spend this month", usd(seen.month.usd), `${usd(seen.month.previous_usd_same_days)} in the same days of last month`),
      figure("Images this month", int(seen.month.images), `${int(seen.month.requests)} requests`),
      figure("Waiting", seen.queue.map((/** @type {Row} */ row) => int(row.waiting)).join(" · ") || "0", waiting(seen.queue))),
    section("Spend by day", barChart({
      title: "Spend by day in US dollars", sentence: sentenceOf(seen.days), columns: ["Day", "US dollars"], unit: (value) => `$${value.toLocaleString("en-US")}`,
      bars: seen.days.map((/** @type {Row} */ row) => ({ label: row.day.slice(5), value: Number(row.usd), text: usd(row.usd) })),
    }), link("/console/usage", "Usage & cost")),
    h("div", { class: "columns" }, section("Needs attention", attention(seen)),
      section("Refusals in 24 hours", refusals(seen.refusals_24h), serves(context.session, "/refusals") && link("/console/requests?view=refusals", "All refusals"))),
    h("div", { class: "columns" }, section("Provider capacity", capacity(seen), link("/console/pool", "Pool")),
      section("Latest events", events(seen.alerts), link("/console/settings?tab=webhooks", "Webhooks"))),
  ];
}

/** @param {string} label @param {string} value @param {string} note */
const figure = (label, value, note) => h("div", null, h("dt", null, label), h("dd", null, value, h("small", { class: "note" }, note)));

/** @param {Row[]} queue */
const waiting = (queue) => (queue.length ? queue.map((row) => `${row.upstream}: ${int(row.waiting)}`).join(", ") : "No request waits for an account");

/** @param {Row[]} days */
function sentenceOf(days) {
  const highest = days.reduce((best, row) => (Number(row.usd) > Number(best?.usd ?? -1) ? row : best), days[0]);
  return highest ? `The highest of ${plural(days.length, "day")} is ${highest.day} with ${usd(highest.usd)}; the latest is ${days.at(-1)?.day} with ${usd(days.at(-1)?.usd)}.` : "";
}

/** @param {Row} seen */
function attention(seen) {
  const now = Date.now() / 1000;
  const items = [
    ...seen.resting.map((/** @type {Row} */ row) => [
      h("div", null, row.key ? link(`/console/pool/${[row.upstream, row.account, row.key].map(encodeURIComponent).join("/")}`, `${row.account}/${row.key}`) : link("/console/pool", row.account ?? row.upstream),
        h("span", { class: "note" }, `${words(row.error_code ?? "held by an operator")} at ${row.upstream}, since `, when(row.since))),
      h("div", null, badge(row.state === "quarantined" ? "bad" : row.state === "disabled" ? "off" : "warn", row.state === "cooling" ? "cooldown" : words(row.state)), h("span", { class: "note" }, row.retry_at ? ["retry ", when(row.retry_at)] : "until you enable it"))]),
    ...seen.expiring_keys.map((/** @type {Row} */ row) => [
      h("div", null, link(href("/console/keys", { q: row.id }), row.label || row.id), h("span", { class: "note" }, `key of ${row.tenant}`)),
      h("div", null, badge(row.expires_at < now + SOON_S ? "warn" : "off", "expires"), h("span", { class: "note" }, when(row.expires_at)))]),
  ];
  return items.length ? h("ul", { class: "list" }, items.map((parts) => h("li", null, parts))) : empty("Every provider key is ready, and no API key expires within 14 days.");
}

/** @param {Row[]} rows */
const refusals = (rows) => (rows.length
  ? ranking(rows.map((row) => ({ label: link(href("/console/requests", { view: "refusals", code: row.code }), words(row.code)), value: row.count, text: int(row.count) })))
  : empty("No request was refused."));

/** @param {Row} seen */
function capacity(seen) {
  if (!seen.pool.length) return empty("No provider account is configured.", "imagegate pool add UPSTREAM/ACCOUNT/KEY");
  return h("ul", { class: "list" }, seen.pool.map((/** @type {Row} */ row) => h("li", null,
    h("div", null, h("strong", null, row.upstream), h("span", { class: "note" }, `Free in this minute: ${int(row.requests_free)} requests, ${int(row.images_free)} images`)),
    badge(row.with_room === 0 ? "bad" : row.with_room < row.accounts / 2 ? "warn" : "good", `${int(row.with_room)} of ${plural(row.accounts, "account")} with room`))));
}

/** @param {Row[]} rows */
const events = (rows) => (rows.length
  ? h("ul", { class: "list" }, rows.slice(0, 8).map((row) => h("li", null, h("div", null, words(row.type ?? ""), h("span", { class: "note" }, about(row.data ?? row))), when(row.at ?? row.created_at))))
  : empty("No event yet. Quotas, keys and the pool report here.", "imagegate webhook create NAME URL"));

/** @param {Row} data */
const about = (data) => Object.entries(data).filter(([name, value]) => ["tenant", "key", "key_id", "upstream", "account", "quota", "percent", "subject"].includes(name) && value !== null && value !== "")
  .map(([name, value]) => `${words(name)} ${value}`).join(", ");
