// @ts-check
/** One tenant: what it may use and has used, its keys, alerts, batches and changes. */
import { call, empty, get, h, heading, href, int, link, may, section, serves, usd, utc, when } from "./core.js";
import { act, confirmation, editor, facts, flags, rowButton, table, tabs } from "./ui.js";
import { metersOfTenant } from "./limits.js";
import { createKey, keyTable } from "./key_forms.js";
import { auditTable } from "./audit.js";
import { stateOf, tenantBody, tenantFields, tenantFlags } from "./tenants.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const ENTRIES = 50;

/** @param {Context} context */
export default async function tenantPage(context) {
  const { params: [name], session, signal, query } = context;
  const path = `/admin/v1/tenants/${encodeURIComponent(name)}`;
  const tenant = await get(path, undefined, signal);
  const tab = query.get("tab") ?? "";
  const canWrite = may(session, "tenants.write");
  /** @type {Record<string, string>} */
  const shown = { "": "Summary", ...(may(session, "keys.read") && { keys: "Keys" }), ...(may(session, "usage.read") && { usage: "Usage" }),
    ...(serves(session, "/tenants/{name}/members") && { members: "Members" }), ...(may(session, "records.read") && { batches: "Batches" }), ...(may(session, "audit.read") && { audit: "Changes" }) };
  return [
    heading(tenant.name, canWrite && [
      h("button", { type: "button", onclick: () => edit(context, path, tenant) }, "Change"),
      h("button", { type: "button", onclick: () => credit(context, path, tenant) }, "Give back quota"),
      tenant.disabled ? h("button", { type: "button", onclick: () => act(context, () => call("PATCH", path, { body: { disabled: false } }), "The tenant is enabled.", `imagegate tenant update ${tenant.name} --enable`) }, "Enable")
        : h("button", { type: "button", onclick: () => disable(context, path, tenant) }, "Disable")], stateOf(tenant)),
    tabs(context, "tab", shown, "Parts of the tenant"),
    await part(tab in shown ? tab : "", context, path, tenant),
  ];
}

/** @param {string} tab @param {Context} context @param {string} path @param {Row} tenant */
async function part(tab, context, path, tenant) {
  const { session, signal, query } = context;
  if (tab === "keys") {
    const keys = await get(`${path}/keys`, undefined, signal);
    return section("Keys", keyTable(context, keys.data.map((/** @type {Row} */ key) => ({ tenant: tenant.name, ...key }))),
      may(session, "keys.write") && h("button", { type: "button", class: "primary", onclick: () => createKey(context, tenant.name) }, "Create key"));
  }
  if (tab === "usage") {
    const usage = await get("/admin/v1/usage", { tenant: tenant.name, by: "day", last: "30d", limit: 100 }, signal);
    return section("Usage of 30 days", table("Usage by day", [
      { label: "Day", cell: (row) => row.day ?? "Total" }, { label: "Requests", num: true, cell: (row) => int(row.requests) },
      { label: "Images", num: true, cell: (row) => int(row.images) }, { label: "Cost", num: true, cell: (row) => usd(row.usd) }],
    usage.data, { total: usage.total, none: empty("No request in 30 days.") }), link(href("/console/usage", { tenant: tenant.name }), "Usage & cost"));
  }
  if (tab === "batches") {
    const batches = await get(`${path}/batches`, { limit: ENTRIES }, signal);
    return section("Batches", table("Batches, newest first", [
      { label: "Batch", cell: (row) => h("code", null, row.id) }, { label: "State", cell: (row) => row.status },
      { label: "Lines", num: true, cell: (row) => int(row.request_counts?.total) }, { label: "Completed", num: true, cell: (row) => int(row.request_counts?.completed) },
      { label: "Failed", num: true, cell: (row) => int(row.request_counts?.failed) }, { label: "Created", cell: (row) => when(row.created_at) },
      { label: "Actions", num: true, hidden: !may(session, "tenants.write"), cell: (row) => ["validating", "in_progress", "finalizing"].includes(row.status) && rowButton("Cancel", row.id, () => cancel(context, `${path}/batches/${encodeURIComponent(row.id)}`, tenant, row)) }],
    batches.data, { none: empty("The tenant has no batch.", `imagegate batch list ${tenant.name}`) }));
  }
  if (tab === "members") return (await import("./members.js")).members(context, tenant.name);
  if (tab === "audit") return auditTable(context, await get("/admin/v1/audit", { tenant: tenant.name, limit: ENTRIES, before: query.get("before") }, signal));
  return summary(tenant);
}

/** @param {Context} context @param {string} path @param {Row} tenant @param {Row} batch */
const cancel = (context, path, tenant, batch) => confirmation({
  title: `Cancel ${batch.id}`, action: "Cancel the batch", command: `imagegate batch cancel ${tenant.name} ${batch.id}`, text: "Lines that were sent are finished and charged. The others are not made.",
  submit: () => call("POST", `${path}/cancel`), done: context.reload,
});

/** @param {Row} tenant */
const summary = (tenant) => [
  section("Limits and quotas", metersOfTenant(tenant)),
  section("Record", facts([
    ["Owner", tenant.owner || "–"], ["Contact", tenant.contact || "–"], ["Cost centre", tenant.cost_centre || "–"],
    ["Models", tenant.models?.join(", ") || "every model"], ["Weight", int(tenant.weight)],
    ["Tags", Object.entries(tenant.tags ?? {}).map(([key, value]) => `${key}=${value}`).join(", ") || "–"],
    ["Alerts", `${tenant.alerts?.percent?.map((/** @type {number} */ each) => `${each}%`).join(", ") || "as configured"}${tenant.alerts?.to?.length ? ` to ${tenant.alerts.to.join(", ")}` : ""}`],
    ["Requests running", int(tenant.used?.open_requests)], ["Stored", `${int(tenant.used?.stored_bytes)} bytes`],
    ["Created", h("span", { title: utc(tenant.created_at) }, when(tenant.created_at))], ["Declared in the configuration", tenant.declared ? "yes" : "no"]])),
];

/** @param {Context} context @param {string} path @param {Row} tenant */
const edit = (context, path, tenant) => editor(context, `Change ${tenant.name}`, {
  fields: tenantFields(tenant), action: "Save", command: (/** @type {Row} */ values) => `imagegate tenant update ${tenant.name}${tenantFlags(tenantBody(values, tenant))}`,
  submit: (/** @type {Row} */ values) => call("PATCH", path, { body: tenantBody(values, tenant) }),
}, "The tenant is changed.");

/** @param {Context} context @param {string} path @param {Row} tenant */
const credit = (context, path, tenant) => editor(context, `Give back quota to ${tenant.name}`, {
  intro: h("p", null, "A credit is subtracted from what counts as used. The bill stays as it is."),
  fields: [{ name: "images", label: "Images", inputmode: "numeric", pattern: "\\d+" }, { name: "usd", label: "US dollars", inputmode: "decimal", pattern: "\\d+(\\.\\d{1,6})?" },
    { name: "reason", label: "Reason", required: true, help: "The audit shows it." }],
  action: "Give back", command: (/** @type {Row} */ values) => `imagegate tenant credit ${tenant.name}${values.images && ` --images ${values.images}`}${values.usd && ` --usd ${values.usd}`}${flags({ reason: values.reason || "REASON" })}`,
  submit: (/** @type {Row} */ values) => call("POST", `${path}/credit`, { body: { ...(values.images && { images: Number(values.images) }), ...(values.usd && { usd: values.usd }), reason: values.reason, id: crypto.randomUUID() } }),
}, "The quota is credited.");

/** @param {Context} context @param {string} path @param {Row} tenant */
const disable = (context, path, tenant) => confirmation({
  title: `Disable ${tenant.name}`, name: tenant.name, action: "Disable", command: `imagegate tenant update ${tenant.name} --disable`,
  text: "Every request of the tenant's keys is refused within a second. Running requests complete. You can enable it again.",
  submit: () => call("PATCH", path, { body: { disabled: true } }), done: context.reload,
});
