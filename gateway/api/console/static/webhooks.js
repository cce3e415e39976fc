// @ts-check
/** Webhooks and alerts: endpoints, test, delivery log, change, new secret. */
import { badge, call, empty, get, h, link, may, section, shell, when, words } from "./core.js";
import { act, cli, confirmation, dialog, editor, flags, maker, rowButton, table } from "./ui.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const TESTED = "quota.threshold_crossed";
const CHANNELS = { "": "By the address: webhook or e-mail", slack: "Slack, Mattermost or Teams" };
const RESULTS = /** @type {Record<string, "good" | "warn" | "bad" | "off">} */ ({ delivered: "good", pending: "warn", dropped: "off" });

/** @param {Context} context */
export default async function webhooks(context) {
  const { session, signal, query } = context;
  const [canWrite, chosen] = [may(session, "settings.write"), query.get("webhook")];
  const [page, log] = await Promise.all([get("/admin/v1/webhooks", undefined, signal), chosen ? get(`/admin/v1/webhooks/${encodeURIComponent(chosen)}/deliveries`, undefined, signal) : null]);
  const name = page.data.find((/** @type {Row} */ row) => row.id === chosen)?.name ?? chosen;
  return [
    log && section(`Last deliveries to ${name}`, [deliveries(context, chosen ?? "", log.data, canWrite), cli(`imagegate webhook deliveries ${chosen}`, `imagegate webhook replay ${chosen} DELIVERY`)],
      link(`${context.path}?tab=webhooks`, "Close")),
    section("Endpoints", [table("Endpoints that get events", [
      { label: "Name", cell: (row) => [row.name, h("span", { class: "note" }, row.channel)] }, { label: "Address", wide: true, cell: (row) => h("code", null, row.url) }, { label: "Events", cell: (row) => (row.event_types.includes("*") ? "every event" : row.event_types.join(", ")) },
      { label: "Tenant", cell: (row) => row.tenant ?? "all" }, { label: "State", cell: (row) => [row.enabled ? badge("good", "enabled") : badge("off", "disabled"), row.problem && h("span", { class: "note" }, row.problem), row.old_secret_until && h("span", { class: "note" }, "old secret ends ", when(row.old_secret_until))] },
      { label: "Actions", num: true, cell: (row) => actions(context, row, canWrite) }],
    page.data, { none: empty("No endpoint gets events yet.", "imagegate webhook create NAME https://example.com/hook") }), page.data.length > 0 && cli("imagegate webhook list")],
    canWrite && h("button", { type: "button", class: "primary", onclick: () => create(context) }, "Create endpoint")),
  ];
}

/** @param {Context} context @param {string} id @param {Row[]} rows @param {boolean} canWrite */
const deliveries = (context, id, rows, canWrite) => table("Last deliveries", [
  { label: "When", cell: (row) => when(row.created_at) }, { label: "Event", cell: (row) => [words(row.event_type), h("span", { class: "note mono" }, row.event_id)] },
  { label: "Result", cell: (row) => badge(RESULTS[row.result] ?? "bad", row.result) }, { label: "Attempts", num: true, cell: (row) => String(row.attempts) },
  { label: "Response", wide: true, cell: (row) => [row.error ?? (row.status_code ? `HTTP ${row.status_code}` : "–"), row.answer && h("span", { class: "note" }, row.answer)] },
  { label: "Actions", num: true, hidden: !canWrite, cell: (row) => rowButton("Send again", row.event_id, () =>
    act(context, () => call("POST", `/admin/v1/webhooks/${encodeURIComponent(id)}/deliveries/${encodeURIComponent(row.id)}/replay`), "The delivery is sent again.", `imagegate webhook replay ${id} ${row.id}`), `imagegate webhook replay ${id} ${row.id}`) }],
rows, { none: empty("Nothing was delivered yet.", `imagegate webhook test ${id}`) });

/** @param {Context} context @param {Row} row @param {boolean} canWrite */
function actions(context, row, canWrite) {
  const path = `/admin/v1/webhooks/${encodeURIComponent(row.id)}`;
  const switching = `imagegate webhook update ${row.id} --${row.enabled ? "disable" : "enable"}`;
  return h("span", { class: "rowactions" }, link(`${context.path}?tab=webhooks&webhook=${encodeURIComponent(row.id)}`, "Deliveries", "button plain"),
    canWrite && [rowButton("Test", row.name, () => test(path, row), `imagegate webhook test ${row.id}`), !row.declared && [
      rowButton("Change", row.name, () => change(context, path, row)),
      row.channel === "webhook" && rowButton("Rotate", row.name, () => rotate(context, path, row)),
      rowButton(row.enabled ? "Disable" : "Enable", row.name, () => act(context, () => call("PATCH", path, { body: { enabled: !row.enabled } }), row.enabled ? "The endpoint is disabled." : "The endpoint is enabled.", switching), switching),
      rowButton("Delete", row.name, () => confirmation({ title: `Delete ${row.name}`, name: row.name, action: "Delete", command: `imagegate webhook delete ${row.id}`, text: "The endpoint, its secret and its pending deliveries are deleted.", submit: () => call("DELETE", path), done: context.reload }))]]);
}

/** @param {string} path @param {Row} row */
async function test(path, row) {
  const subscribed = row.event_types.find((/** @type {string} */ each) => !each.includes("*")) ?? TESTED;
  const result = await call("POST", `${path}/test`, { body: { event_type: subscribed }, timeout_s: 60 }).catch((error) => ({ success: false, error: error.message }));
  dialog(`Test of ${row.name}`, () => [h("p", { class: `told ${result.success ? "done" : "wrong"}` },
    result.success ? `The endpoint accepted the event with HTTP ${result.status_code}.` : `The endpoint did not accept the event: ${result.error ?? `HTTP ${result.status_code}`}.`), cli(`imagegate webhook test ${row.id} ${subscribed}`)]);
}

/** @param {string} text */
const listOf = (text) => text.split(/[\s,]+/).filter(Boolean);
const EVENTS_HELP = "Types or patterns with commas between them, as quota.*, key.*; * is every event.";
/** @param {Row} made */
const secretOf = (made) => made.signing_secret && { text: "This is the only time that the signing secret is shown.", secret: made.signing_secret, label: "The signing secret" };

/** @param {Context} context */
const create = (context) => maker(context, "Create endpoint", {
  fields: [{ name: "name", label: "Name", required: true }, { name: "url", label: "Address", required: true, placeholder: "https://example.com/hook", help: "An https URL, or mailto: and an address." },
    { name: "channel", label: "Channel", choices: CHANNELS }, { name: "event_types", label: "Events", value: "*", required: true, help: EVENTS_HELP }, { name: "tenant", label: "Tenant", help: "Empty: the events of every tenant." }],
  action: "Create endpoint", command: (/** @type {Row} */ { name, url, channel, event_types: types, tenant }) => `imagegate webhook create ${shell(name || "NAME")} ${shell(url || "URL")}${flags({ slack: channel === "slack", event: types === "*" ? [] : listOf(types), tenant })}`,
  submit: (/** @type {Row} */ { name, url, channel, event_types: types, tenant }) => call("POST", "/admin/v1/webhooks", { body: { name, url, event_types: listOf(types), ...(channel && { channel }), ...(tenant && { tenant }) } }),
}, secretOf);

/** @param {Context} context @param {string} path @param {Row} row */
const change = (context, path, row) => editor(context, `Change ${row.name}`, {
  fields: [{ name: "name", label: "Name", value: row.name, required: true }, { name: "url", label: "Address", help: `Empty: unchanged, ${row.url}` }, { name: "event_types", label: "Events", value: row.event_types.join(", "), required: true, help: EVENTS_HELP }],
  action: "Save", command: (/** @type {Row} */ values) => `imagegate webhook update ${row.id}${flags({ name: values.name !== row.name && values.name, to: values.url, event: values.event_types === row.event_types.join(", ") ? [] : listOf(values.event_types) })}`,
  submit: (/** @type {Row} */ values) => call("PATCH", path, { body: { name: values.name, event_types: listOf(values.event_types), ...(values.url && { url: values.url }) } }),
}, "The endpoint is changed.");

/** @param {Context} context @param {string} path @param {Row} row */
const rotate = (context, path, row) => maker(context, `Rotate the secret of ${row.name}`, {
  fields: [{ name: "keep", label: "Events are signed with the old secret too", choices: { yes: "for 24 hours", no: "not any more" } }],
  action: "Rotate", command: (/** @type {Row} */ { keep }) => `imagegate webhook rotate ${row.id}${keep === "no" ? " --now" : ""}`,
  submit: (/** @type {Row} */ { keep }) => call("POST", `${path}/rotate_secret`, { body: { keep_old_secret_active_for_24_hours: keep === "yes" } }),
}, secretOf);
