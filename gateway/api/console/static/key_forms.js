// @ts-check
/** API keys: the table of them, and the dialogs that create, change, rotate and revoke one. */
import { badge, call, empty, h, link, may, scoped, shell, usd, when } from "./core.js";
import { announce, confirmation, copyable, editor, flags, maker, rowButton, table } from "./ui.js";
import { limitFields, limitFlags, limitsOf, limitWords } from "./limits.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const DAY_S = 86400;
const SOON_S = 14 * DAY_S;

/** @param {Context} context @param {Row[]} keys @param {import("./core.js").Child} [none] */
export function keyTable(context, keys, none) {
  const ofAll = !context.session.tenant && !context.path.includes("/tenants/");
  return table("API keys", [
    { label: "Key", cell: (key) => [key.label || "no label", h("span", { class: "note mono" }, `sk-ig-${key.id}…`)] },
    { label: "Tenant", hidden: !ofAll, cell: (key) => (may(context.session, "tenants.read") ? link(`/console/tenants/${encodeURIComponent(key.tenant)}`, key.tenant) : key.tenant) },
    { label: "State", cell: (key) => [state(key), key.old_secret_until > Date.now() / 1000 && h("span", { class: "note" }, "old secret ends ", when(key.old_secret_until))] }, { label: "Last used", cell: (key) => when(key.last_used_at, "never") },
    { label: "Expires", cell: (key) => when(key.expires_at, "never") },
    { label: "This month", num: true, cell: (key) => usd(key.usd_this_month ?? key.used?.usd_this_month), hidden: !keys.some((key) => (key.usd_this_month ?? key.used) !== undefined) },
    { label: "Own limits", wide: true, cell: limitWords },
    { label: "Created", cell: (key) => [when(key.created_at), key.created_by && h("span", { class: "note" }, `by ${key.created_by}`)] },
    { label: "Actions", num: true, hidden: !may(context.session, "keys.write"), cell: (key) => actions(context, key) },
  ], keys, { none: none ?? empty("There is no key yet.", context.session.tenant ? "imagegate me key create --label web" : `imagegate key create ${ofAll ? "TENANT" : shell(context.params[0])} --label web`) });
}

/** @param {Row} key */
function state(key) {
  if (key.revoked_at) return badge("off", "revoked");
  const left = key.expires_at ? key.expires_at - Date.now() / 1000 : Infinity;
  if (left <= 0) return badge("off", "expired");
  const role = key.role === "lead" ? "valid, lead" : "valid";
  return left < SOON_S ? badge("warn", "expires soon") : badge("good", role);
}

/** @param {Context} context @param {Row} key */
function actions(context, key) {
  if (key.revoked_at || key.declared) return h("span", { class: "note" }, key.declared ? "in the configuration" : "");
  const name = key.label || key.id;
  return h("span", { class: "rowactions" }, rowButton("Change", name, () => changeKey(context, key)), rowButton("Rotate", name, () => rotateKey(context, key)), rowButton("Revoke", name, () => revokeKey(context, key)));
}

/** @param {Context} context @param {Row} key */
const pathOf = (context, key) => scoped(context.session, `/keys/${encodeURIComponent(key.id)}`);
/** @param {Context} context @param {string} verb @param {string} [tenant] */
const command = (context, verb, tenant) => (context.session.tenant ? `imagegate me key ${verb}` : `imagegate key ${verb} ${tenant || "TENANT"}`);

/** @param {Row} values @param {Row} [key] */
function keyBody(values, key = {}) {
  /** @type {Row} */
  const body = limitsOf(values, key);
  if (values.label !== (key.label ?? "")) body.label = values.label;
  if (values.role) body.role = values.role;
  if (values.days === "0") body.expires_at = null;
  else if (values.days) body.expires_at = Math.floor(Date.now() / 1000) + Number(values.days) * DAY_S;
  return body;
}

/** @param {Row} values @param {Row} [key] */
const keyFlags = (values, key) => flags({ label: values.label !== (key?.label ?? "") && values.label, days: values.days !== "0" && values.days, "never-expires": values.days === "0",
  lead: values.role === "lead", ...limitFlags(limitsOf(values, key)) });

/** Creates a key and shows it once. @param {Context} context @param {string} [tenant] */
export function createKey(context, tenant) {
  const own = context.session.tenant;
  maker(context, "Create key", {
    fields: [
      ...(own || tenant ? [] : [{ name: "tenant", label: "Tenant", required: true }]),
      { name: "label", label: "Label", required: true, help: "What uses the key, as web or ci." },
      { name: "days", label: "Days until it expires", inputmode: "numeric", pattern: "[1-9]\\d{0,4}", help: "Empty: it never expires." },
      ...(own ? [] : [{ name: "role", label: "Use", choices: { "": "Makes images", lead: "Manages the tenant's keys (lead)" } }]),
      ...limitFields()],
    action: "Create key", command: (/** @type {Row} */ values) => `${command(context, "create", tenant ?? values.tenant)}${keyFlags(values)}`,
    submit: (/** @type {Row} */ values) => call("POST", own ? "/console/tenant/keys" : `/admin/v1/tenants/${encodeURIComponent(tenant ?? values.tenant)}/keys`, { body: keyBody(values) }),
  }, secretOf);
}

/** @param {Row} made */
const secretOf = (made) => ({ text: "This is the only time that the key is shown. Store it now.", secret: made.key, label: "The key",
  more: [h("h3", null, "For a program"), copyable(`export OPENAI_API_KEY=${made.key}`, "Environment variable"), h("p", { class: "note" }, "OPENAI_BASE_URL is the address of the gateway, with /v1.")] });

/** @param {Context} context @param {Row} key */
const changeKey = (context, key) => editor(context, `Change ${key.label || key.id}`, {
  fields: [{ name: "label", label: "Label", value: key.label },
    { name: "days", label: "Days until it expires, from now", inputmode: "numeric", pattern: "\\d{1,5}", help: "Empty: unchanged. 0: it never expires." }, ...limitFields(key)],
  action: "Save", command: (/** @type {Row} */ values) => `${command(context, "update", key.tenant)} ${key.id}${keyFlags(values, key)}`,
  submit: (/** @type {Row} */ values) => call("PATCH", pathOf(context, key), { body: keyBody(values, key) }),
}, "The key is changed.");

/** @param {Context} context @param {Row} key */
function rotateKey(context, key) {
  const graces = { 86400: "24 hours", 604800: "7 days", 3600: "1 hour", 0: "not at all: it is refused at once" };
  maker(context, `Rotate ${key.label || key.id}`, {
    intro: h("p", null, "The key gets a new secret. ID, label and limits stay. Programs have until the old secret expires to change."),
    fields: [{ name: "grace", label: "The old secret stays valid for", choices: graces, value: "86400" }],
    action: "Rotate", command: (/** @type {Row} */ { grace }) => `${command(context, "rotate", key.tenant)} ${key.id} --grace ${grace === "0" ? 0 : `${Number(grace) / 3600}h`}`,
    submit: (/** @type {Row} */ { grace }) => call("POST", `${pathOf(context, key)}/rotate`, { body: { grace_s: Number(grace) } }),
  }, secretOf);
}

/** @param {Context} context @param {Row} key */
const revokeKey = (context, key) => confirmation({
  title: `Revoke ${key.label || key.id}`, name: key.id, action: "Revoke", command: `${command(context, "revoke", key.tenant)} ${key.id}`,
  text: "Every process refuses the key within a second. This cannot be undone. Running requests complete.",
  submit: () => call("DELETE", pathOf(context, key)), done: () => (announce("The key is revoked."), context.reload()),
});
