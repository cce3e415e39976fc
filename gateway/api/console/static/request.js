// @ts-check
/** One request explained: what happened, who paid, what each call came to. */
import { ApiError, duration, empty, get, h, heading, int, link, moment, plural, problem, replace, scoped, section, serves, shell, usd } from "./core.js";
import { cli, copyButton, facts, table } from "./ui.js";
import { outcomeBadge } from "./requests.js";

/** @typedef {import("./core.js").Row} Row */
const PAGES_MAX = 100;
const DAY_MS = 86_400_000;

/** @param {import("./core.js").Context} context */
export default async function requestPage(context) {
  const { params: [id], query, session, signal } = context;
  const own = Boolean(session.tenant);
  const path = scoped(session, `${own ? "/requests" : "/usage/records"}/${encodeURIComponent(id)}`);
  const near = query.get("day") ? search(path, { ...aroundDay(query.get("day") ?? ""), ...(own ? {} : { tenant: query.get("tenant") }) }, signal) : null;
  const [records, refused] = await Promise.all([near ?? [], serves(session, "/refusals") ? searchRefusals(scoped(session, "/refusals"), id, signal) : []]);
  const place = h("div", { class: "results" });
  if (records.length) replace(place, shown(id, records, refused, own));
  else void searchAll(place, path, refused, { id, own, signal });
  return [heading("Request", copyButton(id, "Copy ID"), [link("/console/requests", "Requests"), " / ", h("code", null, id)]), place];
}

/** @param {string} id @param {Row[]} records @param {Row[]} refused @param {boolean} own */
const shown = (id, records, refused, own) => [records.map((record) => describe(record, own)), refused.map(refusal),
  !own && cli(`imagegate usage records --last 30d --request-id ${shell(id)}`, ...(refused.length ? [`imagegate refusals --request-id ${shell(id)}`] : []))];

/** Searches the records of 30 days, newest first, and shows how far it is.
 * @param {HTMLElement} place @param {string} path @param {Row[]} refused @param {{id: string, own: boolean, signal: AbortSignal}} options */
async function searchAll(place, path, refused, { id, own, signal }) {
  const line = h("p", { role: "status", class: "note" }, "Searching the records of 30 days, newest first…");
  replace(place, refused.map(refusal), h("div", null, h("progress", { "aria-label": "The records are searched" }), line));
  try {
    const records = await search(path, { last: "30d", order: "desc" }, signal, (parts) => {
      if (parts % 5 === 0) line.textContent = `Searching the records of 30 days, newest first: ${plural(parts, "part")} read…`;
    });
    if (records.length || refused.length) replace(place, shown(id, records, refused, own));
    else replace(place, empty("No record of the last 30 days and no kept refusal has this ID.", own ? undefined : `imagegate usage records --from DAY --request-id ${shell(id)}`));
  } catch (error) {
    if (!signal.aborted) replace(place, refused.map(refusal), problem(error));
  }
}

/** Returns the days around one: the gateway's days may be those of another zone. @param {string} day */
export function aroundDay(day) {
  const [middle, today] = [Date.parse(day), Date.now()];
  const write = (/** @type {number} */ at) => new Date(at).toISOString().slice(0, 10);
  return Number.isNaN(middle) ? { last: "30d" } : { from: write(middle - DAY_MS), to: write(Math.min(middle + DAY_MS, Math.max(today, middle))) };
}

/** Reads pages until one has the request; the API reads a bounded part at a time.
 * @param {string} path @param {Row} range @param {AbortSignal} signal @param {(parts: number) => void} [progress] @returns {Promise<Row[]>} */
async function search(path, range, signal, progress) {
  let page = await get(path, range, signal).catch(missing);
  for (let parts = 1; page && !page.data.length && page.next_cursor && parts < PAGES_MAX; parts += 1) {
    progress?.(parts);
    page = await get(path, { ...range, cursor: page.next_cursor }, signal);
  }
  return page?.data ?? [];
}

/** @param {string} path @param {string} id @param {AbortSignal} signal @returns {Promise<Row[]>} */
async function searchRefusals(path, id, signal) {
  let page = await get(path, { request_id: id, limit: 1000 }, signal);
  for (let pages = 1; !page.data.length && page.next && pages < PAGES_MAX; pages += 1) page = await get(path, { request_id: id, limit: 1000, before: page.next }, signal);
  return page.data;
}

/** @param {any} error */
function missing(error) {
  if (error instanceof ApiError && error.status === 404) return null;
  throw error;
}

/** @param {Row} record @param {boolean} own */
const describe = (record, own) => h("div", { class: "results" },
  section("What happened", [h("p", null, outcomeBadge(record.outcome)), explain(record).map((line) => h("p", null, line))]),
  section("Record", facts([
    ["Time", moment(record.time)], ["Tenant", record.tenant], ["Key", record.key_label ?? record.label ?? record.key_id], ["Model", record.model],
    ["Images", `${int(record.delivered)} delivered of ${int(record.asked)} requested`], ["Cost", usd(record.usd)], ["Reserved an image", usd(record.price_per_image_usd)],
    ["Queue", duration(record.queue_ms)], ["Provider", duration(record.upstream_ms)], ["Total", duration(record.total_ms)],
    ["User", record.user || "–"], ["Tags", Object.entries(record.tags ?? {}).map(([key, value]) => `${key}=${value}`).join(", ") || "–"],
    ...(record.batch_id ? [/** @type {[string, any]} */ (["Batch", `${record.batch_id}, line ${record.custom_id}`])] : [])])),
  !own && section("Calls", table("Calls to providers", [
    { label: "Upstream", cell: (row) => row.upstream }, { label: "Account", cell: (row) => row.account }, { label: "Delivered", num: true, cell: (row) => int(row.delivered) },
    { label: "Withheld", num: true, cell: (row) => int(row.withheld) }, { label: "Lost", num: true, cell: (row) => int(row.lost) }, { label: "Unconfirmed", num: true, cell: (row) => int(row.unconfirmed) }],
  record.calls ?? [], { none: empty("No call was sent to a provider.") })));

/** Returns whether the charge is the reserved price of some images, and not one by tokens. @param {Row} record */
const isByImage = ({ usd, price_per_image_usd: price }) => Math.abs(usd / price - Math.round(usd / price)) < 1e-6;

/** Says in words what a record means. @param {Row} record @returns {string[]} */
export function explain(record) {
  const lines = [];
  if (record.correction_of) return [`A correction of ${record.correction_of}, a day of a closed month. The amounts are differences.`];
  lines.push({
    delivered: `The provider made ${plural(record.delivered, "image")}, and the client's response had ${record.delivered === 1 ? "it" : "them"}.`,
    unconfirmed: "The request was sent, and no reliable response came. The provider may have made and billed the images, so the gateway did not send it again.",
    lost: "The provider made images that could not be retrieved. The tenant is not charged for these.",
    withheld: "The provider's safety check withheld the images. Another prompt may pass; the same one is refused again.",
    refused: "The provider refused the request. Nothing was made and nothing is charged.",
    not_sent: "Nothing was sent to a provider: no account had room in time, or the client disconnected. Nothing is charged.",
  }[/** @type {string} */ (record.outcome)] ?? "");
  if (record.outcome === "delivered" && record.delivered < record.asked) lines.push(`${plural(record.asked - record.delivered, "image")} of the ${int(record.asked)} requested did not come: ${int(record.withheld)} withheld, ${int(record.lost)} lost, ${int(record.unconfirmed)} unconfirmed.`);
  lines.push(Number(record.usd) > 0 ? `${record.tenant} paid ${usd(record.usd)}${isByImage(record) ? `, at ${usd(record.price_per_image_usd)} an image` : ""}.` : `${record.tenant} paid nothing.`);
  if (record.queue_ms > 1000) lines.push(`It waited ${duration(record.queue_ms)} for an account with room.`);
  return lines.filter(Boolean);
}

/** @param {Row} row */
const refusal = (row) => section("Refused", [h("p", { class: "told wrong" }, row.message),
  h("p", null, ADVICE[row.code] ?? "The gateway refused the request before it was sent. It cost nothing."),
  facts([["Time", moment(row.at)], ["Code", h("code", null, row.code)], ["Status", `HTTP ${row.status}`], ["Field", row.param ?? "–"],
    ...(row.tenant === undefined ? [] : [/** @type {[string, any]} */ (["Tenant", row.tenant ?? "unknown"])]), ["Key", row.label || row.key || "–"], ["Model", row.model || "–"]])]);

const ADVICE = /** @type {Record<string, string>} */ ({
  rate_limited: "A limit of requests, images or concurrency was reached. Clients that wait for retry-after succeed later. An administrator can raise the limit.",
  quota_exhausted: "A quota of the day or month is used up. It resets at the start of the next one, or an administrator raises it or gives quota back.",
  request_exceeds_limit: "This request alone is larger than a limit. Request fewer images.",
  content_input: "The provider judged the prompt unsafe. Change the prompt: the same one is refused again.",
  content_output: "The provider judged the images unsafe. Change the prompt.",
  model_not_found: "The tenant may not use this model, or it does not exist. The playground lists the models that it may use.",
  model_unknown: "The tenant may not use this model, or it does not exist. The playground lists the models that it may use.",
  no_capacity: "Every account of the pool was in cooldown or full until the deadline. See the pool.",
  prompt_too_long: "Shorten the prompt.",
});
