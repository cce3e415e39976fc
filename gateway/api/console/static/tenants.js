// @ts-check
/** Tenants: search, sort, spend against quota, create. */
import { badge, call, empty, get, h, heading, int, link, may, plural, serves, usd } from "./core.js";
import { choice, editor, flags, pager, search, table } from "./ui.js";
import { limitFields, limitFlags, limitsOf, limitWords, shares } from "./limits.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const PAGE = 100;

/** @param {Context} context */
export default async function tenants(context) {
  const { query, session, signal } = context;
  const page = await get("/admin/v1/tenants", { q: query.get("q"), sort: query.get("sort"), order: query.get("order"), after: query.get("after"), used: true, limit: PAGE }, signal);
  const canWrite = may(session, "tenants.write");
  const canSort = serves(session, "/tenants?sort");
  return [
    heading("Tenants", canWrite && h("button", { type: "button", class: "primary", onclick: () => create(context) }, "Create tenant"),
      "A tenant is a team or an application with its own limits, keys and bill."),
    serves(session, "/tenants?q") && h("div", { class: "filters" }, search(context, "q", "Search name, owner or cost centre"),
      canSort && choice(context, "sort", "Sort by", { "": "Name", usd: "Spend this month", images: "Images this month" })),
    table("Tenants", [
      { label: "Tenant", sort: canSort ? "name" : undefined, cell: (row) => [link(`/console/tenants/${encodeURIComponent(row.name)}`, row.name), h("span", { class: "note" }, row.owner)] },
      { label: "Cost centre", cell: (row) => row.cost_centre || "–" },
      { label: "Spend this month", sort: canSort ? "usd" : undefined, num: true, cell: (row) => usd(row.used?.usd_this_month) },
      { label: "Most used quota", cell: share },
      { label: "Images this month", sort: canSort ? "images" : undefined, num: true, cell: (row) => int(row.used?.images_this_month) },
      { label: "Limits", wide: true, cell: limitWords },
      { label: "State", cell: (row) => stateOf(row) },
    ], page.data, { context, none: empty(query.get("q") ? "No tenant matches." : "There is no tenant yet.", query.get("q") ? undefined : "imagegate tenant create NAME --usd-per-month 50") }),
    pager(context, "after", page.next, (page.total ?? null) === null ? null : plural(page.total, "tenant")),
  ];
}

/** @param {Row} tenant */
export const stateOf = (tenant) => (tenant.erasing_since ? badge("bad", "being deleted") : tenant.disabled ? badge("off", "disabled") : badge("good", "active"));

/** Shows the quota of which the tenant has used the largest part. @param {Row} row */
function share(row) {
  const [most] = shares(row);
  if (!most) return h("span", { class: "off" }, "no quota");
  return badge(most.used >= 1 ? "bad" : most.used >= 0.8 ? "warn" : "good", `${Math.floor(most.used * 100)}% of ${most.text}`);
}

/** @param {string} text */
const listOf = (text) => text.split(/[\s,]+/).filter(Boolean);

/** Fields of a tenant other than its name. @param {Row} [tenant] @returns {any[]} */
export const tenantFields = (tenant = {}) => [
  { name: "owner", label: "Owner", value: tenant.owner }, { name: "contact", label: "Contact", value: tenant.contact, help: "An e-mail address or a channel." },
  { name: "cost_centre", label: "Cost centre", value: tenant.cost_centre },
  { name: "models", label: "Models", value: (tenant.models ?? []).join(", "), help: "IDs with commas between them. Empty permits every model." },
  { name: "weight", label: "Weight", value: tenant.weight ?? 1, inputmode: "numeric", pattern: "[1-9]\\d{0,2}|1000", help: "Share of scarce capacity, 1 to 1000." },
  ...limitFields(tenant),
];

/** Returns what differs from the tenant as it is. @param {Row} values @param {Row} [tenant] */
export function tenantBody(values, tenant = {}) {
  /** @type {Row} */
  const body = limitsOf(values, tenant);
  for (const name of ["owner", "contact", "cost_centre"]) if (values[name] !== (tenant[name] ?? "")) body[name] = values[name] || null;
  if (listOf(values.models).join() !== (tenant.models ?? []).join()) body.models = listOf(values.models).length ? listOf(values.models) : null;
  if (Number(values.weight || 1) !== (tenant.weight ?? 1)) body.weight = Number(values.weight || 1);
  return body;
}

/** @param {Row} body */
export const tenantFlags = (body) => flags({ owner: body.owner, contact: body.contact, "cost-centre": body.cost_centre, model: body.models ?? undefined, weight: body.weight, ...limitFlags(body) });

/** @param {Context} context */
const create = (context) => editor(context, "Create tenant", {
  fields: [{ name: "name", label: "Name", required: true, pattern: "[A-Za-z0-9][A-Za-z0-9_.\\-]*", help: "Letters, digits, dots, dashes and underscores." }, ...tenantFields()],
  action: "Create tenant", command: (/** @type {Row} */ values) => `imagegate tenant create ${values.name || "NAME"}${tenantFlags(tenantBody(values))}`,
  submit: (/** @type {Row} */ values) => call("POST", "/admin/v1/tenants", { body: { name: values.name, ...tenantBody(values) } }),
  done: (/** @type {Row} */ made) => context.go(`/console/tenants/${encodeURIComponent(made.name)}`),
}, "The tenant is created.");

