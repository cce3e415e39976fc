// @ts-check
/** Settings: access, webhooks and alerts, changes, configuration, this gateway. */
import { badge, call, empty, get, h, heading, may, moment, scoped, section, serves, words } from "./core.js";
import { choice, cli, editor, facts, flags, search, table, tabs } from "./ui.js";
import { auditTable } from "./audit.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const ENTRIES = 50;

/** @param {Context} context */
export default async function settings(context) {
  const { session, query } = context;
  /** @type {Record<string, string>} */
  const parts = { "": "This gateway" };
  if (!session.tenant && may(session, "settings.read")) Object.assign(parts, { access: "Access", webhooks: "Webhooks & alerts" });
  if (!session.tenant && may(session, "configuration.read") && serves(session, "/configuration")) parts.configuration = "Configuration";
  if (session.tenant && may(session, "members.read") && serves(session, "/members")) parts.members = "Members";
  if (session.tenant && may(session, "tenant.write")) parts.alerts = "Alerts";
  if (may(session, "audit.read")) parts.audit = "Changes";
  const tab = query.get("tab") ?? "";
  /** @type {Record<string, () => any>} */
  const pages = {
    "": () => gateway(context), audit: () => audit(context), configuration: () => configuration(context), alerts: () => alerts(context),
    access: async () => (await import("./access.js")).default(context), webhooks: async () => (await import("./webhooks.js")).default(context),
    members: async () => (await import("./members.js")).members(context, session.tenant ?? ""),
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
    section("Your session", facts([["Signed in as", session.label], ["Identity", session.subject], ["Role", session.tenant ? `${session.role} of ${session.tenant}` : session.role],
      ["Ends at the latest", session.expires_at ? moment(session.expires_at) : "–"], ["Ends when idle", session.idle_expires_at ? moment(session.idle_expires_at) : "–"]])),
    h("details", null, h("summary", null, "What the role may do"), h("ul", { class: "list" }, session.may?.map((each) => h("li", null, words(each), h("code", null, each))))),
  ];
}

/** @param {Context} context */
async function audit(context) {
  const { query, session, signal } = context;
  const own = Boolean(session.tenant);
  const filter = own ? {} : { actor: query.get("actor"), action: query.get("action"), tenant: query.get("tenant"), from: query.get("from"), to: query.get("to") };
  const page = await get(scoped(session, "/audit"), { ...filter, limit: ENTRIES, before: query.get("before") }, signal);
  return [!own && h("div", { class: "filters" }, search(context, "actor", "Who"), choice(context, "action", "What", { "": "Everything", "tenant.": "Tenants", "key.": "Keys", "pool.": "Pool", "usage.": "Closed months", "webhook.": "Webhooks", "invitation.": "Links", "session.": "Sessions" }),
    search(context, "tenant", "Tenant"), search(context, "from", "From", { type: "date" }), search(context, "to", "To", { type: "date" })), auditTable(context, page)];
}

/** @param {any} value */
const write = (value) => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value));

/** @param {Context} context */
async function configuration(context) {
  const { version, data } = await get("/admin/v1/configuration", undefined, context.signal);
  const [word, source] = [(context.query.get("q") ?? "").toLowerCase(), context.query.get("source")];
  const isSet = (/** @type {Row} */ row) => Number(row.source !== "default");
  const shown = [...data].sort((left, right) => isSet(right) - isSet(left)).filter((/** @type {Row} */ row) => row.setting.toLowerCase().includes(word) && (!source || row.source === source));
  return [h("p", { class: "lead" }, `The settings in force in version ${version}, read-only. Secrets are shown as fingerprints. Those that the file or the environment sets come first.`),
    h("div", { class: "filters" }, search(context, "q", "Search a setting"), choice(context, "source", "Set in", { "": "All", file: "File", environment: "Environment", default: "Default" })),
    table("Settings in force", [
      { label: "Setting", cell: (row) => h("code", null, row.setting) },
      { label: "Value", wide: true, cell: (row) => [h("code", null, write(row.value)), row.fingerprint && h("span", { class: "note mono" }, row.fingerprint), row.source !== "default" && row.default !== null && row.default !== undefined && write(row.value) !== write(row.default) && h("span", { class: "note" }, `default ${write(row.default)}`)] },
      { label: "Set in", cell: (row) => [row.source, row.source === "environment" && row.variable && h("span", { class: "note mono" }, row.variable)] },
      { label: "A change takes effect", cell: (row) => (row.needs_restart ? "after a restart" : "at a reload") }], shown, { none: empty("No setting matches.", "imagegate config show") }),
    cli(`imagegate config show${flags({ setting: context.query.get("q") ?? "" })}`)];
}

/** @param {Context} context */
async function alerts(context) {
  const tenant = await get("/console/tenant", undefined, context.signal);
  const percent = tenant.alerts?.percent;
  return section("Alerts of the team", facts([["At percent of a quota", percent?.join(", ") || "as the operator configured"], ["Sent to", tenant.alerts?.to?.join(", ") || "no address: only the operator's endpoints get alerts"], ["Contact", tenant.contact || "–"]]),
    h("button", { type: "button", onclick: () => editor(context, "Change alerts", {
      fields: [{ name: "percent", label: "Percent of a quota", value: percent?.join(", "), pattern: "[\\d, ]*", help: "As 80, 100. Empty: as the operator configured." },
        { name: "to", label: "Send to", value: tenant.alerts?.to?.join(", "), help: `${/@/.test(tenant.contact ?? "") ? `mailto:${tenant.contact}` : "mailto: and the contact, once an administrator sets an e-mail address as the contact"}, or an https URL of a host that the operator permits. Commas between several.` }],
      action: "Save", command: (/** @type {Row} */ values) => `imagegate me update${list(values.percent).map((each) => ` --alert-percent ${each}`).join("")}${list(values.to).map((each) => ` --alert-to ${each}`).join("")}`,
      submit: (/** @type {Row} */ values) => call("PATCH", "/console/tenant", { body: { alerts: { percent: list(values.percent).length ? list(values.percent).map(Number) : null, to: list(values.to) } } }),
    }, "The alerts are changed.") }, "Change alerts"));
}

/** @param {string} text */
const list = (text) => text.split(/[\s,]+/).filter(Boolean);
