// @ts-check
/** Requests: the records of admitted ones, and refusals, newest first. */
import { badge, duration, empty, get, h, heading, int, link, plural, scoped, serves, usd, utc, when, words } from "./core.js";
import { choice, pager, search, table, tabs } from "./ui.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const PAGE = 100;
const OUTCOMES = { "": "All", delivered: "Delivered", unconfirmed: "Unconfirmed", lost: "Lost", withheld: "Withheld", refused: "Refused by the provider", not_sent: "Not sent" };
const TONES = /** @type {Record<string, "good" | "warn" | "bad" | "off">} */ ({ delivered: "good", unconfirmed: "warn", lost: "bad", withheld: "warn", refused: "bad", not_sent: "off" });

/** @param {string} outcome */
export const outcomeBadge = (outcome) => badge(TONES[outcome] ?? "off", words(outcome));

/** @param {Context} context */
export default async function requests(context) {
  const kept = serves(context.session, "/refusals");
  const isRefusals = kept && context.query.get("view") === "refusals";
  return [
    heading("Requests", null, isRefusals ? "Requests that the gateway refused before they cost anything. The latest are kept; prompts never are." : `One record for each admitted request, newest ${context.session.tenant || context.query.get("tenant") ? "" : "day "}first. Prompts are not recorded.`),
    kept && tabs(context, "view", { "": "Admitted", refusals: "Refusals" }, "Kinds of requests"),
    await (isRefusals ? refusals(context) : records(context)),
  ];
}

/** @param {Context} context */
async function records(context) {
  const { query, session, signal } = context;
  const [own, day] = [Boolean(session.tenant), query.get("day")];
  const page = await get(scoped(session, own ? "/requests" : "/usage/records"), {
    order: "desc", limit: PAGE, cursor: query.get("cursor"), request_id: query.get("request_id"), outcome: query.get("outcome"), model: query.get("model"), key: query.get("key"),
    ...(own ? {} : { tenant: query.get("tenant") }), ...(day ? { from: day, to: day } : { last: "30d" }) }, signal);
  return [
    filters(context, [search(context, "day", "Day", { type: "date" }), choice(context, "outcome", "Outcome", OUTCOMES)]),
    table("Requests", [
      { label: "Time", cell: (row) => when(row.time) },
      { label: "Request", cell: (row) => link(pathOf(row.request_id), h("code", null, row.request_id)) },
      { label: "Tenant", hidden: own, cell: (row) => row.tenant }, { label: "Key", cell: (row) => row.key_label ?? row.label ?? h("code", null, row.key_id) },
      { label: "Model", cell: (row) => row.model }, { label: "Outcome", cell: (row) => (row.correction_of ? badge("off", `correction of ${row.correction_of}`) : outcomeBadge(row.outcome)) },
      { label: "Images", num: true, cell: (row) => `${int(row.delivered)} of ${int(row.asked)}` }, { label: "Cost", num: true, cell: (row) => usd(row.usd) },
      { label: "Total", num: true, cell: (row) => [duration(row.total_ms), row.queue_ms > 0 && h("span", { class: "note" }, `${duration(row.queue_ms)} queued`)] },
    ], page.data, { none: empty("No request matches in this range.", query.size ? undefined : "imagegate demo") }),
    pager(context, "cursor", page.next_cursor, (page.total ?? null) === null ? null : `${plural(page.total, "request")} ${day ? `on ${day}` : "in 30 days"}`),
  ];
}

/** @param {Context} context */
async function refusals(context) {
  const { query, session, signal } = context;
  const own = Boolean(session.tenant);
  const page = await get(scoped(session, "/refusals"), { limit: PAGE, before: query.get("before"), code: query.get("code"), key: query.get("key"), request_id: query.get("request_id"), ...(own ? {} : { tenant: query.get("tenant") }) }, signal);
  return [
    filters(context, [search(context, "code", "Code")]),
    table("Refusals, newest first", [
      { label: "Time", cell: (row) => h("span", { title: utc(row.at) }, when(row.at)) }, { label: "Request", cell: (row) => link(pathOf(row.request_id), h("code", null, row.request_id)) },
      { label: "Tenant", hidden: own, cell: (row) => row.tenant }, { label: "Key", cell: (row) => row.label || h("code", null, row.key ?? row.key_id) }, { label: "Model", cell: (row) => row.model || "–" },
      { label: "Code", cell: (row) => [h("code", null, row.code), h("span", { class: "note" }, `HTTP ${row.status}`)] }, { label: "Message", wide: true, cell: (row) => row.message },
    ], page.data, { none: empty("No refusal matches.") }),
    pager(context, "before", page.next),
  ];
}

/** @param {string} id */
const pathOf = (id) => `/console/requests/${encodeURIComponent(id)}`;

/** @param {Context} context @param {import("./core.js").Child} more */
const filters = (context, more) => h("div", { class: "filters" },
  search(context, "request_id", "Request ID"), !context.session.tenant && search(context, "tenant", "Tenant"), search(context, "key", "Key ID"),
  context.query.get("view") !== "refusals" && search(context, "model", "Model"), more);
