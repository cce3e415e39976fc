// @ts-check
/** What an operator looks at first: spend, trend, what needs attention, refusals, capacity. Finance sees the spend. */
import { badge, empty, get, h, heading, href, int, link, may, plural, section, serves, usd, when, words } from "./core.js";
import { barChart, dollars, ranking } from "./chart.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Child} Child */
const REFRESH_S = 15;
const SOON_S = 3 * 86400;
const STATES = /** @type {Record<string, string>} */ ({ cooling: "cooldown", half_open: "one trial call" });

/** @param {import("./core.js").Context} context */
export default async function overview(context) {
  const seen = await get("/admin/v1/overview", undefined, context.signal);
  const { session } = context;
  context.every(REFRESH_S);
  return [
    heading("Overview", null, ["As of ", when(seen.at), `. Days end at midnight ${session.time_zone ?? "UTC"}. Amounts are exact.`]),
    h("dl", { class: "figures" },
      figure("Spend today", usd(seen.today.usd), `${plural(seen.today.images, "image")}, ${plural(seen.today.requests, "request")}`),
      figure("Spend this month", usd(seen.month.usd), `${usd(seen.month.previous_usd_same_days)} in the same days of last month`),
      figure("Images this month", int(seen.month.images), plural(seen.month.requests, "request")),
      seen.queue && figure("Waiting", seen.queue.map((/** @type {Row} */ row) => int(row.waiting)).join(" · ") || "0", waiting(seen.queue))),
    section("Spend of 30 days", barChart({
      title: "Spend by day in US dollars", sentence: sentenceOf(seen.days), columns: ["Day", "US dollars"], unit: dollars,
      bars: seen.days.map((/** @type {Row} */ row) => ({ label: row.day.slice(5), value: Number(row.usd), text: usd(row.usd) })),
    }), link("/console/usage", "Usage & cost")),
    seen.resting && h("div", { class: "columns" }, section("Needs attention", attention(seen), may(session, "pool.read") && link("/console/pool?state=unready", "Pool")),
      seen.refusals_24h && section("Refusals in 24 hours", refusals(seen.refusals_24h), serves(session, "/refusals") && link("/console/requests?view=refusals", "All refusals"))),
    seen.pool && section("Provider capacity", capacity(seen), link("/console/pool", "Pool")),
  ];
}

/** @param {string} label @param {string} value @param {Child} note */
const figure = (label, value, note) => h("div", null, h("dt", null, label), h("dd", null, value, h("small", { class: "note" }, note)));

/** @param {Row[]} queue */
function waiting(queue) {
  if (!queue.some((row) => row.waiting || row.waiting_batch)) return "No request waits for an account";
  return queue.filter((row) => row.waiting || row.waiting_batch).map((row) => `${row.upstream}: ${row.oldest_wait_s === null ? "" : `the oldest for ${Math.ceil(row.oldest_wait_s)} s, `}${int(row.waiting_batch)} of batches`).join("; ");
}

/** @param {Row[]} days */
function sentenceOf(days) {
  const highest = days.reduce((best, row) => (Number(row.usd) > Number(best?.usd ?? -1) ? row : best), days[0]);
  return highest ? `The highest day is ${highest.day} with ${usd(highest.usd)}; today is at ${usd(days.at(-1)?.usd)}.` : "";
}

/** @param {Row} seen */
function attention(seen) {
  const now = Date.now() / 1000;
  const ends = (/** @type {number} */ at) => h("div", null, badge(at < now + SOON_S ? "warn" : "off", "expires"), h("span", { class: "note" }, when(at)));
  const items = [
    ...seen.resting.map((/** @type {Row} */ row) => [
      h("div", null, row.key ? link(`/console/pool/${[row.upstream, row.account, row.key].map(encodeURIComponent).join("/")}`, `${row.account}/${row.key}`) : link(href("/console/pool", { q: row.account }), row.account ?? row.upstream),
        h("span", { class: "note" }, `${row.fault?.replace(/\.$/, "") ?? (row.error_code ? words(row.error_code) : `held by ${row.held_by ?? "an operator"}`)}, `, when(row.since))),
      h("div", null, badge(row.state === "quarantined" ? "bad" : row.state === "cooling" || row.state === "half_open" ? "warn" : "off", STATES[row.state] ?? words(row.state)),
        h("span", { class: "note" }, !row.retry_at ? "until it is enabled" : row.retry_at > now ? ["retry ", when(row.retry_at)] : "the next call tries it"))]),
    ...(seen.certificates ?? []).filter((/** @type {Row} */ row) => row.expires_at < now + 10 * SOON_S).map((/** @type {Row} */ row) => [
      h("div", null, `Certificate of ${row.host}`, h("span", { class: "note" }, "replace the files of [server.tls]")), ends(row.expires_at)]),
    ...seen.expiring_keys.map((/** @type {Row} */ row) => [
      h("div", null, link(href("/console/keys", { q: row.id }), row.label || row.id), h("span", { class: "note" }, `key of ${row.tenant}`)), ends(row.expires_at)]),
  ];
  if (!items.length) return empty("Every provider key is ready, and no API key expires within 14 days.");
  const more = (seen.resting_total ?? seen.resting.length) - seen.resting.length;
  return [h("ul", { class: "list" }, items.slice(0, 12).map((parts) => h("li", null, parts))), (items.length > 12 || more > 0) && h("p", { class: "note" }, `${int(Math.max(0, items.length - 12) + Math.max(0, more))} more. The pool and the keys show all.`)];
}

/** @param {Row[]} rows */
const refusals = (rows) => (rows.length
  ? ranking(rows.slice(0, 12).map((row) => ({ label: link(href("/console/requests", { view: "refusals", code: row.code }), words(row.code)), value: row.count, text: int(row.count) })))
  : empty("No request was refused.", "imagegate refusals"));

/** @param {Row} seen */
function capacity(seen) {
  if (!seen.pool.length) return empty("No provider account is configured.", "imagegate pool add UPSTREAM/ACCOUNT/KEY");
  return h("ul", { class: "list" }, seen.pool.map((/** @type {Row} */ row) => h("li", null,
    h("div", null, h("strong", null, row.upstream), h("span", { class: "note" }, `Free in this minute: ${plural(row.requests_free, "request")}, ${plural(row.images_free, "image")}`)),
    badge(row.with_room === 0 ? "bad" : row.with_room < row.accounts / 2 ? "warn" : "good", `${int(row.with_room)} of ${plural(row.accounts, "account")} with room`))));
}
