// @ts-check
/** Webhooks and alerts: endpoints, test, delivery log. */
import { badge, call, empty, get, h, link, may, section, when, words } from "./core.js";
import { act, announce, confirmation, copyable, dialog, flags, form, table } from "./ui.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const TESTED = "quota.threshold_crossed";

/** @param {Context} context */
export default async function webhooks(context) {
  const { session, signal, query } = context;
  const [canWrite, chosen] = [may(session, "settings.write"), query.get("webhook")];
  const [page, log] = await Promise.all([get("/admin/v1/webhooks", undefined, signal), chosen ? get(`/admin/v1/webhooks/${encodeURIComponent(chosen)}/deliveries`, undefined, signal) : null]);
  return [
    section("Endpoints", table("Endpoints that get events", [
      { label: "Name", cell: (row) => [row.name, h("span", { class: "note" }, row.channel)] }, { label: "Address", wide: true, cell: (row) => h("code", null, row.url) }, { label: "Events", cell: (row) => row.event_types.map(words).join(", ") },
      { label: "Tenant", cell: (row) => row.tenant ?? "all" }, { label: "State", cell: (row) => [row.enabled ? badge("good", "enabled") : badge("off", "disabled"), (row.problem ?? row.disabled_reason) && h("span", { class: "note" }, row.problem ?? row.disabled_reason)] },
      { label: "Actions", num: true, cell: (row) => actions(context, row, canWrite) }],
    page.data, { none: empty("No endpoint gets events yet.", "imagegate webhook create NAME https://example.com/hook") }),
    canWrite && h("button", { type: "button", class: "primary", onclick: () => create(context) }, "Create endpoint")),
    log && section("Last deliveries", table("Last deliveries", [
      { label: "When", cell: (row) => when(row.created_at) }, { label: "Event", cell: (row) => [words(row.event_type), h("span", { class: "note mono" }, row.event_id)] },
      { label: "Result", cell: (row) => badge(row.result === "delivered" ? "good" : row.result === "pending" ? "warn" : "bad", row.result) }, { label: "Attempts", num: true, cell: (row) => String(row.attempts) },
      { label: "Response", cell: (row) => row.error ?? (row.status_code ? `HTTP ${row.status_code}` : "–") },
      { label: "Actions", num: true, hidden: !canWrite, cell: (row) => h("button", { type: "button", class: "plain", "aria-label": `Send ${row.event_id} again`, onclick: () => act(context, () => call("POST", `/admin/v1/webhooks/${encodeURIComponent(chosen ?? "")}/deliveries/${encodeURIComponent(row.id)}/replay`), "The delivery is sent again.") }, "Send again") }],
    log.data, { none: empty("Nothing was delivered yet.", `imagegate webhook test ${chosen}`) })),
  ];
}

/** @param {Context} context @param {Row} row @param {boolean} canWrite */
function actions(context, row, canWrite) {
  const path = `/admin/v1/webhooks/${encodeURIComponent(row.id)}`;
  const button = (/** @type {string} */ label, /** @type {() => void} */ onclick) => h("button", { type: "button", class: "plain", "aria-label": `${label} ${row.name}`, onclick }, label);
  return h("span", { class: "rowactions" }, link(`${context.path}?tab=webhooks&webhook=${encodeURIComponent(row.id)}`, "Deliveries", "button plain"),
    canWrite && [button("Test", () => test(path, row)), !row.declared && [
      button(row.enabled ? "Disable" : "Enable", () => act(context, () => call("PATCH", path, { body: { enabled: !row.enabled } }), row.enabled ? "The endpoint is disabled." : "The endpoint is enabled.")),
      button("Delete", () => confirmation({ title: `Delete ${row.name}`, name: row.name, action: "Delete", command: `imagegate webhook delete ${row.id}`, text: "The endpoint, its secret and its pending deliveries are deleted.", submit: () => call("DELETE", path), done: context.reload }))]]);
}

/** @param {string} path @param {Row} row */
async function test(path, row) {
  const subscribed = row.event_types.find((/** @type {string} */ each) => !each.includes("*")) ?? TESTED;
  const result = await call("POST", `${path}/test`, { body: { event_type: subscribed }, timeout_s: 60 }).catch((error) => ({ success: false, error: error.message }));
  dialog(`Test of ${row.name}`, () => h("p", { class: `told ${result.success ? "done" : "wrong"}` },
    result.success ? `The endpoint accepted the event with HTTP ${result.status_code}.` : `The endpoint did not accept the event: ${result.error ?? `HTTP ${result.status_code}`}.`));
}

/** @param {Context} context */
function create(context) {
  dialog("Create endpoint", (close) => {
    const body = h("div", null, form({
      fields: [{ name: "name", label: "Name", required: true }, { name: "url", label: "Address", required: true, placeholder: "https://example.com/hook", help: "An https URL, or mailto: and an address." },
        { name: "channel", label: "Channel", choices: { webhook: "Webhook", slack: "Slack", email: "E-mail" } }, { name: "events", label: "Events", value: "*", help: "Names with commas between them; * is every event." }],
      action: "Create endpoint", cancel: close, command: ({ name, url, channel }) => `imagegate webhook create ${name || "NAME"} ${url || "URL"}${flags({ channel: channel !== "webhook" && channel })}`,
      submit: ({ name, url, channel, events }) => call("POST", "/admin/v1/webhooks", { body: { name, url, channel, event_types: events.split(/[\s,]+/).filter(Boolean) } }),
      done(made) {
        announce("The endpoint is created.");
        if (!made.signing_secret) return close();
        body.replaceChildren(h("p", { class: "told done" }, "This is the only time that the signing secret is shown."), copyable(made.signing_secret, "The signing secret"), h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", onclick: close }, "I have stored it")));
      },
    }));
    return body;
  }, context.reload);
}
