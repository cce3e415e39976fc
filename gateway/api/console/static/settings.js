// @ts-check
/** Settings: access, webhooks and alerts, changes, configuration, this gateway. */
import { badge, call, empty, get, h, heading, may, scoped, section, serves, utc } from "./core.js";
import { choice, editor, facts, search, table, tabs } from "./ui.js";
import { auditTable } from "./audit.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const ENTRIES = 50;

/** @param {Context} context */
export default async function settings(context) {
  const { session, query } = context;
  /** @type {Record<string, string>} */
  const parts = { "": "This gateway" };
  if (!session.tenant && may(session, "settings.read")) Object.assign(parts, { access: "Access", webhooks: "Webhooks & alerts", ...(serves(session, "/configuration") && { configuration: "Configuration" }) });
  if (session.tenant && may(session, "tenant.write")) parts.alerts = "Alerts";
  if (may(session, "audit.read")) parts.audit = "Changes";
  const tab = query.get("tab") ?? "";
  /** @type {Record<string, () => any>} */
  const pages = {
    "": () => gateway(context), audit: () => audit(context), configuration: () => configuration(context), alerts: () => alerts(context),
    access: async () => (await import("./access.js")).default(context), webhooks: async () => (await import("./webhooks.js")).default(context),
  };
  return [heading("Settings"), tabs(context, "tab", parts, "Parts of the settings"), await (tab in parts ? pages[tab] : pages[""])?.()];
}

/** @param {Context} context */
async function gateway({ session, signal }) {
  const ready = await fetch("/readyz", { signal }).then((response) => response.json()).catch((error) => ({ status: "unknown", reasons: [error.message] }));
  const tones = /** @type {Record<string, "good" | "warn" | "bad" | "off">} */ ({ ok: "good", degraded: "warn", unavailable: "bad" });
  return [
    section("Gateway", facts([["Version", session.version], ["Readiness", badge(tones[ready.status] ?? "off", ready.status ?? "unknown")], ["Time zone of days and months", session.time_zone], ["Organisation", session.organisation || "–"]])),
    ready.reasons?.length > 0 && h("ul", { class: "list" }, ready.reasons.map((/** @type {string} */ text) => h("li", null, text, ""))),
    section("Your session", facts([["Signed in as", session.label], ["Identity", session.subject], ["Role", session.role], ["May", session.may?.join(", ")],
      ["Ends at the latest", session.expires_at ? utc(session.expires_at) : "–"], ["Ends when idle", session.idle_expires_at ? utc(session.idle_expires_at) : "–"]])),
  ];
}

/** @param {Context} context */
async function audit(context) {
  const { query, session, signal } = context;
  const own = Boolean(session.tenant);
  const filter = own ? {} : { actor: query.get("actor"), action: query.get("action"), tenant: query.get("tenant"), from: query.get("from"), to: query.get("to") };
  const page = await get(scoped(session, "/audit"), { ...filter, limit: ENTRIES, before: query.get("before") }, signal);
  return [!own && h("div", { class: "filters" }, search(context, "actor", "Who"), choice(context, "action", "What", { "": "Everything", "tenant.": "Tenants", "key.": "Keys", "pool.": "Pool" }),
    search(context, "tenant", "Tenant"), search(context, "from", "From", { type: "date" }), search(context, "to", "To", { type: "date" })), auditTable(context, page)];
}

/** @param {Context} context */
async function configuration({ signal, query, ...context }) {
  const { version, data } = await get("/admin/v1/configuration", undefined, signal);
  const word = (query.get("q") ?? "").toLowerCase();
  const write = (/** @type {any} */ value) => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));
  return [h("p", { class: "lead" }, `The settings in force in version ${version}. Secrets are shown as fingerprints. Change them in the file or the environment.`),
    h("div", { class: "filters" }, search({ ...context, signal, query }, "q", "Search a setting")),
    table("Settings in force", [
      { label: "Setting", cell: (row) => h("code", null, row.setting) }, { label: "Value", wide: true, cell: (row) => [h("code", null, write(row.value)), write(row.value) !== write(row.default) && h("span", { class: "note" }, `default ${write(row.default)}`)] },
      { label: "Takes effect", cell: (row) => (row.needs_restart ? "after a restart" : "at a reload") }], data.filter((/** @type {Row} */ row) => row.setting.includes(word)), { none: empty("No setting matches.", "imagegate check") })];
}

/** @param {Context} context */
async function alerts(context) {
  const tenant = await get("/console/tenant", undefined, context.signal);
  const percent = tenant.alerts?.percent;
  return section("Alerts of the team", facts([["At percent of a quota", percent?.join(", ") || "as configured"], ["Sent to", tenant.alerts?.to?.join(", ") || "–"], ["Contact", tenant.contact || "–"]]),
    h("button", { type: "button", onclick: () => editor(context, "Change alerts", {
      fields: [{ name: "percent", label: "Percent of a quota", value: percent?.join(", "), pattern: "[\\d, ]*", help: "As 80, 100. Empty: as the gateway is configured." },
        { name: "to", label: "Send to", value: tenant.alerts?.to?.join(", "), help: "mailto: and the contact, or an https URL of a permitted host, with commas between them." }],
      action: "Save", command: (/** @type {Row} */ values) => `imagegate me update${list(values.percent).map((each) => ` --alert-percent ${each}`).join("")}${list(values.to).map((each) => ` --alert-to ${each}`).join("")}`,
      submit: (/** @type {Row} */ values) => call("PATCH", "/console/tenant", { body: { alerts: { percent: list(values.percent).length ? list(values.percent).map(Number) : null, to: list(values.to) } } }),
    }, "The alerts are changed.") }, "Change alerts"));
}

/** @param {string} text */
const list = (text) => text.split(/[\s,]+/).filter(Boolean);
