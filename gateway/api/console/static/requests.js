// @ts-check
/** Requests: the records of admitted ones, and refusals, newest first. */
import { badge, duration, empty, get, h, heading, href, int, link, plural, scoped, serves, usd, when, words } from "./core.js";
import { choice, cli, flags, pager, search, table, tabs } from "./ui.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const PAGE = 100;
const QUEUED_MS = 100;
const OUTCOMES = { "": "All", delivered: "Delivered", unconfirmed: "Unconfirmed", lost: "Lost", withheld: "Withheld", refused: "Refused by the provider", not_sent: "Not sent" };
const TONES = /** @type {Record<string, "good" | "warn" | "bad" | "off">} */ ({ delivered: "good", unconfirmed: "warn", lost: "bad", withheld: "warn", refused: "bad", not_sent: "off" });

/** @param {string} outcome */
export const outcomeBadge = (outcome) => badge(TONES[outcome] ?? "off", words(outcome));

/** @param {Context} context */
export default async function requests(context) {
  const kept = serves(context.session, "/refusals");
  const isRefusals = kept && context.query.get("view") === "refusals";
  return [
    heading("Requests", null, isRefusals ? "Requests that the gateway refused before they cost anything, kept for 7 days and at most the latest 10,000. Prompts are not recorded." : `One record for each admitted request, newest first. Prompts are not recorded.`),
    kept && tabs(context, "view", { "": "Admitted", refusals: "Refusals" }, "Kinds of requests"),
    await (isRefusals ? refusals(context) : records(context)),
  ];
}

/** @param {Context} context */
async function records(context) {
  const { query, session, signal } = context;
  const [own, day] = [Boolean(session.tenant), query.get("day")];
  const named = Object.fromEntries(["request_id", "outcome", "model", "key", ...(own ? [] : ["tenant"])].map((name) => [name, query.get(name)]));
  const range = day ? { from: day, to: day } : { last: "30d" };
  const page = await get(scoped(session, own ? "/requests" : "/usage/records"), { order: "desc", limit: PAGE, cursor: query.get("cursor"), ...named, ...range }, signal);
  return [
    filters(context, [search(context, "model", "Model"), search(context, "day", "Day", { type: "date" }), choice(context, "outcome", "Outcome", OUTCOMES)]),
    table("Requests", [
      { label: "Time", cell: (row) => when(row.time) },
      { label: "Request", cell: (row) => link(pathOf(row), h("code", null, row.request_id)) },
      { label: "Tenant", hidden: own, cell: (row) => row.tenant }, { label: "Key", cell: (row) => row.key_label ?? row.label ?? h("code", null, row.key_id) },
      { label: "Model", cell: (row) => row.model }, { label: "Outcome", cell: (row) => (row.correction_of ? badge("off", `correction of ${row.correction_of}`) : outcomeBadge(row.outcome)) },
      { label: "Images", num: true, cell: (row) => `${int(row.delivered)} of ${int(row.asked)}` }, { label: "Cost", num: true, cell: (row) => usd(row.usd) },
      { label: "Total", num: true, cell: (row) => [duration(row.total_ms), row.queue_ms >= QUEUED_MS && h("span", { class: "note" }, `${duration(row.queue_ms)} queued`)] },
    ], page.data, { none: named.request_id ? h("div", { class: "empty" }, h("p", null, "No admitted request of this range has this ID."), link(pathOf(named), "Search the refusals and all days")) : empty("No request matches in this range.", query.size ? undefined : "imagegate demo") }),
    pager(context, "cursor", page.next_cursor, (page.total ?? null) === null ? null : `${plural(page.total, "request")} ${day ? `on ${day}` : "in 30 days"}`),
    !own && cli(`imagegate usage records${flags({ ...withDashes(named), ...range, limit: PAGE })}`),
  ];
}

/** @param {Context} context */
async function refusals(context) {
  const { query, session, signal } = context;
  const own = Boolean(session.tenant);
  const named = Object.fromEntries(["request_id", "key", "model", "code", "from", "to", ...(own ? [] : ["tenant"])].map((name) => [name, query.get(name)]));
  const page = await get(scoped(session, "/refusals"), { ...named, limit: PAGE, before: query.get("before") }, signal);
  return [
    filters(context, [search(context, "model", "Model"), search(context, "code", "Code"), search(context, "from", "From", { type: "date" }), search(context, "to", "To", { type: "date" })]),
    table("Refusals, newest first", [
      { label: "Time", cell: (row) => when(row.at) }, { label: "Request", cell: (row) => link(pathOf(row), h("code", null, row.request_id)) },
      { label: "Tenant", hidden: own, cell: (row) => row.tenant ?? "unknown" }, { label: "Key", cell: (row) => row.label || (row.key ? h("code", null, row.key) : "–") }, { label: "Model", cell: (row) => row.model || "–" },
      { label: "Code", cell: (row) => [h("code", null, row.code), h("span", { class: "note" }, `HTTP ${row.status}${row.param ? `, ${row.param}` : ""}`)] }, { label: "Message", wide: true, cell: (row) => row.message },
    ], page.data, { none: empty(page.next ? "This page of the list has no refusal that matches; the next one may." : "No refusal matches.") }),
    pager(context, "before", page.next),
    cli(`imagegate ${own ? "me refusals" : "refusals"}${flags(withDashes({ ...named, key: "", key_id: named.key }))}`),
  ];
}

/** Links to a request; its day and tenant make the search short. @param {Row} row */
const pathOf = (row) => href(`/console/requests/${encodeURIComponent(row.request_id)}`, row.time ? { day: row.time.slice(0, 10), tenant: row.tenant } : undefined);

/** Names of options from those of parameters; empty ones are left out. @param {Row} named */
const withDashes = (named) => Object.fromEntries(Object.entries(named).map(([name, value]) => [name.replaceAll("_", "-"), value ?? ""]));

/** @param {Context} context @param {import("./core.js").Child} more */
const filters = (context, more) => h("div", { class: "filters" },
  search(context, "request_id", "Request ID"), !context.session.tenant && search(context, "tenant", "Tenant"), search(context, "key", "Key ID"), more);
