// @ts-check
/** Limits and quotas of tenants and keys: names, form fields, the body of a change, options of the command line. */
import { empty, h, int, usd, when } from "./core.js";
import { meter } from "./ui.js";

/** @typedef {import("./core.js").Row} Row */

/** @type {Record<string, string>} */
export const LIMITS = {
  requests_per_minute: "Requests in 60 seconds", images_per_minute: "Images in 60 seconds", concurrency: "Concurrent requests",
  images_per_day: "Images a day", images_per_month: "Images a month", usd_per_month: "US dollars a month", soft_usd_per_month: "Warning at US dollars a month",
};
const RATES = new Set(["requests_per_minute", "images_per_minute", "concurrency"]);
export const MONEY = new Set(["usd_per_month", "soft_usd_per_month"]);

/** @param {Row} [owner] with `limits` and `quotas` */
export const limitFields = (owner = {}) => Object.entries(LIMITS).map(([name, label]) => ({
  name, label, group: "Limits; empty is unlimited", inputmode: MONEY.has(name) ? "decimal" : "numeric", pattern: MONEY.has(name) ? "\\d+(\\.\\d{1,6})?" : "\\d+",
  value: (RATES.has(name) ? owner.limits : owner.quotas)?.[name] ?? "",
}));

/** Returns `limits` and `quotas` of a body: what differs from what was; null removes a limit. @param {Row} values @param {Row} [owner] */
export function limitsOf(values, owner = {}) {
  /** @type {Row} */
  const body = {};
  for (const name of Object.keys(LIMITS)) {
    const part = RATES.has(name) ? "limits" : "quotas";
    const before = owner[part]?.[name];
    if (values[name] === String(before ?? "")) continue;
    (body[part] ??= {})[name] = values[name] === "" ? null : MONEY.has(name) ? values[name] : Number(values[name]);
  }
  return body;
}

/** @param {Row} body */
export const limitFlags = (body) => Object.fromEntries(Object.entries({ ...body.limits, ...body.quotas }).map(([name, value]) => [name.replaceAll("_", "-"), value]));

/** Writes the limits that are set in one line. @param {Row} owner */
export function limitWords(owner) {
  const set = Object.entries({ ...owner.limits, ...owner.quotas }).filter(([, value]) => value !== null && value !== undefined);
  if (!set.length) return h("span", { class: "off" }, "no limit");
  return set.map(([name, value]) => limitText(name, value)).join(", ");
}

const SHORT = /** @type {Record<string, string>} */ ({ requests_per_minute: "requests/min", images_per_minute: "images/min", concurrency: "concurrent",
  images_per_day: "images/day", images_per_month: "images/month", usd_per_month: "/month", soft_usd_per_month: "warns" });

/** @param {string} name @param {any} value */
const limitText = (name, value) => `${MONEY.has(name) ? usd(value) : int(value)}${name === "usd_per_month" ? "" : " "}${SHORT[name]}`;

/** Returns how much of each quota a tenant has used, the largest part first. @param {Row} tenant */
export const shares = (tenant) => Object.entries(tenant.quotas ?? {})
  .filter(([name, limit]) => COUNTERS[name] && name !== "soft_usd_per_month" && limit !== null && limit !== undefined)
  .map(([name, limit]) => ({ text: limitText(name, limit), used: Number(limit) > 0 ? Number(tenant.used?.[COUNTERS[name]] ?? 0) / Number(limit) : 1 }))
  .sort((left, right) => right.used - left.used);

/** Draws a meter for each limit, quota and budget that is set. @param {Row} part */
export function metersOf(part) {
  const set = Object.entries({ ...part.limits, ...part.quotas, ...part.budgets });
  if (!set.length) return empty("The tenant has no limit and no quota.");
  return h("div", { class: "meters" }, set.map(([name, status]) => meter(LIMITS[name] ?? name, status.used, status.limit,
    { money: MONEY.has(name), note: status.resets_at && ["resets ", when(status.resets_at)] })));
}

const COUNTERS = /** @type {Record<string, string>} */ ({ requests_per_minute: "requests_last_minute", images_per_minute: "images_last_minute", concurrency: "concurrency",
  images_per_day: "images_today", images_per_month: "images_this_month", usd_per_month: "usd_this_month", soft_usd_per_month: "usd_this_month" });

/** Draws a meter for each limit of a tenant as the admin API describes it. @param {Row} tenant */
export function metersOfTenant(tenant) {
  const set = Object.entries({ ...tenant.limits, ...tenant.quotas }).filter(([, limit]) => limit !== null && limit !== undefined);
  return set.length ? h("div", { class: "meters" }, set.map(([name, limit]) => meter(LIMITS[name] ?? name, tenant.used?.[COUNTERS[name]] ?? 0, limit, { money: MONEY.has(name) })))
    : empty("The tenant has no limit and no quota.", `imagegate tenant update ${tenant.name} --usd-per-month 50`);
}
