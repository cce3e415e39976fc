// @ts-check
/** One request explained: what happened, who paid, what each call came to. */
import { ApiError, duration, empty, get, h, heading, int, link, moment, plural, scoped, section, serves, shell, usd } from "./core.js";
import { cli, copyButton, facts, table } from "./ui.js";
import { outcomeBadge } from "./requests.js";

/** @typedef {import("./core.js").Row} Row */
const PAGES_MAX = 100;

/** @param {import("./core.js").Context} context */
export default async function requestPage(context) {
  const { params: [id], session, signal } = context;
  const own = Boolean(session.tenant);
  const [found, refused] = await Promise.all([
    search(scoped(session, `${own ? "/requests" : "/usage/records"}/${encodeURIComponent(id)}`), signal).catch(missing),
    serves(session, "/refusals") ? searchRefusals(scoped(session, "/refusals"), id, signal) : { data: [] },
  ]);
  const records = found ? (found.data ?? [found]) : [];
  const title = heading("Request", copyButton(id, "Copy ID"), [link("/console/requests", "Requests"), " / ", h("code", null, id)]);
  if (!records.length && !refused.data.length) return [title, empty("No record of the last 30 days and no kept refusal has this ID.", `imagegate usage records --from DAY --request-id ${shell(id)}`)];
  return [title, records.map((/** @type {Row} */ record) => describe(record, own)), refused.data.map(refusal), !own && cli(`imagegate usage records --last 30d --request-id ${shell(id)}`, ...(refused.data.length ? [`imagegate refusals --request-id ${shell(id)}`] : []))];
}

/** Reads pages until one has the request; the API reads a bounded part at a time. @param {string} path @param {AbortSignal} signal */
async function search(path, signal) {
  let page = await get(path, { last: "30d" }, signal);
  for (let pages = 1; !page.data.length && page.next_cursor && pages < PAGES_MAX; pages += 1) page = await get(path, { last: "30d", cursor: page.next_cursor }, signal);
  return page;
}

/** @param {string} path @param {string} id @param {AbortSignal} signal */
async function searchRefusals(path, id, signal) {
  let page = await get(path, { request_id: id, limit: 1000 }, signal);
  for (let pages = 1; !page.data.length && page.next && pages < PAGES_MAX; pages += 1) page = await get(path, { request_id: id, limit: 1000, before: page.next }, signal);
  return page;
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
    ["Images", `${int(record.delivered)} delivered of ${int(record.asked)} requested`], ["Cost", usd(record.usd)], ["Price an image", usd(record.price_per_image_usd)],
    ["Queue", duration(record.queue_ms)], ["Provider", duration(record.upstream_ms)], ["Total", duration(record.total_ms)],
    ["User", record.user || "–"], ["Tags", Object.entries(record.tags ?? {}).map(([key, value]) => `${key}=${value}`).join(", ") || "–"],
    ...(record.batch_id ? [/** @type {[string, any]} */ (["Batch", `${record.batch_id}, line ${record.custom_id}`])] : [])])),
  !own && section("Calls", table("Calls to providers", [
    { label: "Upstream", cell: (row) => row.upstream }, { label: "Account", cell: (row) => row.account }, { label: "Delivered", num: true, cell: (row) => int(row.delivered) },
    { label: "Withheld", num: true, cell: (row) => int(row.withheld) }, { label: "Lost", num: true, cell: (row) => int(row.lost) }, { label: "Unconfirmed", num: true, cell: (row) => int(row.unconfirmed) }],
  record.calls ?? [], { none: empty("No call was sent to a provider.") })));

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
  lines.push(Number(record.usd) > 0 ? `${record.tenant} paid ${usd(record.usd)}, at ${usd(record.price_per_image_usd)} an image.` : `${record.tenant} paid nothing.`);
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
