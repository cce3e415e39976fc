// @ts-check
/** Members of a tenant: open sessions, links that were not used, keys of role lead. */
import { badge, call, empty, get, h, link, may, scoped, section, shell, when } from "./core.js";
import { act, cli, flags, maker, rowButton, table } from "./ui.js";
import { linkOf } from "./access.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const KINDS = /** @type {Record<string, ["good" | "warn" | "bad" | "off", string]>} */ ({ session: ["good", "signed in"], invitation: ["warn", "link not used"], key: ["off", "API key"] });

/** @param {Context} context @param {string} tenant */
export async function members(context, tenant) {
  const { session, signal } = context;
  const own = Boolean(session.tenant);
  const path = scoped(session, own ? "/members" : `/tenants/${encodeURIComponent(tenant)}/members`);
  const canWrite = may(session, own ? "members.write" : "settings.write");
  const { data } = await get(path, undefined, signal);
  return section("Members", [table("Who has access", [
    { label: "Name", cell: (row) => [row.name, row.subject && h("span", { class: "note mono" }, row.subject)] }, { label: "Access", cell: (row) => badge(...(KINDS[row.kind] ?? ["off", row.kind])) }, { label: "Role", cell: (row) => row.role },
    { label: "Since", cell: (row) => [when(row.created_at), row.created_by && h("span", { class: "note" }, `by ${row.created_by}`)] }, { label: "Last seen", cell: (row) => when(row.seen_at) }, { label: "Ends", cell: (row) => when(row.expires_at, "never") },
    { label: "Actions", num: true, hidden: !canWrite, cell: (row) => end(context, path, row) }],
  data, { none: empty("No person is signed in and no link is open.", own ? "imagegate me invite NAME" : `imagegate console invite NAME --role lead --tenant ${shell(tenant)}`) }), cli(own ? "imagegate me members" : `imagegate console members ${shell(tenant)}`)],
  canWrite && h("button", { type: "button", class: "primary", onclick: () => invite(context, path, tenant) }, "Invite"));
}

/** @param {Context} context @param {string} path @param {Row} row */
function end(context, path, row) {
  if (row.kind === "key") return link(context.session.tenant ? "/console/keys" : `${context.path}?tab=keys`, "Keys");
  const command = context.session.tenant ? `imagegate me end ${row.id}` : `imagegate console ${row.kind === "session" ? "end" : "delete-link"} ${row.id}`;
  return rowButton(row.kind === "session" ? "End" : "Withdraw", `the ${row.kind} of ${row.name}`, () =>
    act(context, () => call("DELETE", `${path}/${encodeURIComponent(row.id)}`), row.kind === "session" ? "The session is ended." : "The link is withdrawn.", command), command);
}

/** @param {Context} context @param {string} path @param {string} tenant */
const invite = (context, path, tenant) => maker(context, `Invite to ${tenant}`, {
  fields: [{ name: "name", label: "Name of the person", required: true },
    ...(context.session.tenant ? [] : [{ name: "role", label: "Role", choices: { member: "Member: usage and playground", lead: "Lead: also keys and alerts" } }])],
  action: "Create link", command: (/** @type {Row} */ { name, role }) => context.session.tenant ? `imagegate me invite ${shell(name || "NAME")}` : `imagegate console invite ${shell(name || "NAME")}${flags({ role, tenant })}`,
  submit: (/** @type {Row} */ { name, role }) => call("POST", path, { body: { name, role: role ?? "member" } }),
}, linkOf);
