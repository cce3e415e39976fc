// @ts-check
/** Who may sign in: one-time links, open sessions, sign-in methods. */
import { call, empty, get, h, may, section, shell, when } from "./core.js";
import { act, cli, flags, maker, rowButton, table } from "./ui.js";

/** @typedef {import("./core.js").Row} Row */
const ROLES = { admin: "Admin: everything", finance: "Finance: usage, exports, closing", viewer: "Viewer: reads everything", lead: "Lead of a tenant", member: "Member of a tenant" };

/** @param {import("./core.js").Context} context */
export default async function access(context) {
  const { session, signal } = context;
  const canWrite = may(session, "settings.write");
  const [links, sessions] = await Promise.all([get("/admin/v1/console/invitations", undefined, signal), get("/admin/v1/console/sessions", undefined, signal)]);
  const end = (/** @type {string} */ path, /** @type {string} */ label, /** @type {string} */ name, /** @type {string} */ said, /** @type {string} */ command) =>
    rowButton(label, name, () => act(context, () => call("DELETE", path), said, command), command);
  return [
    section("Open sessions", [table("Open sessions", [
      { label: "Person", cell: (row) => [row.label, h("span", { class: "note mono" }, row.subject)] }, { label: "Role", cell: (row) => (row.tenant ? `${row.role} of ${row.tenant}` : row.role) }, { label: "Signed in by", cell: (row) => (row.method ?? "").replaceAll("_", " ") },
      { label: "Signed in", cell: (row) => when(row.created_at) }, { label: "Last used", cell: (row) => when(row.seen_at) }, { label: "Ends", cell: (row) => when(row.expires_at) },
      { label: "Actions", num: true, hidden: !canWrite, cell: (row) => end(`/admin/v1/console/sessions/${encodeURIComponent(row.id)}`, "End", `the session of ${row.label}`, "The session is ended.", `imagegate console end ${row.id}`) }],
    sessions.data, { none: empty("No session is open.") }), cli("imagegate console sessions", "imagegate console end ID")]),
    section("One-time links", table("Links that are not used yet", [
      { label: "Name", cell: (row) => row.name }, { label: "Role", cell: (row) => (row.tenant ? `${row.role} of ${row.tenant}` : row.role) }, { label: "Created", cell: (row) => [when(row.created_at), row.created_by && h("span", { class: "note" }, `by ${row.created_by}`)] },
      { label: "Expires", cell: (row) => when(row.expires_at) }, { label: "Actions", num: true, hidden: !canWrite, cell: (row) => end(`/admin/v1/console/invitations/${encodeURIComponent(row.id)}`, "Withdraw", `the link of ${row.name}`, "The link is withdrawn.", `imagegate console delete-link ${row.id}`) }],
    links.data, { none: empty("No link is open. A link signs one person in, once, within 24 hours.", "imagegate console invite NAME --role lead --tenant TENANT") }),
    canWrite && h("button", { type: "button", class: "primary", onclick: () => invite(context) }, "Create link")),
  ];
}

/** @param {import("./core.js").Context} context */
const invite = (context) => maker(context, "Create a one-time link", {
  fields: [{ name: "name", label: "Name of the person", required: true }, { name: "role", label: "Role", choices: ROLES, value: "viewer" }, { name: "tenant", label: "Tenant", help: "For a lead or a member." }],
  action: "Create link", command: (/** @type {Row} */ { name, role, tenant }) => `imagegate console invite ${shell(name || "NAME")}${flags({ role, tenant })}`,
  submit: (/** @type {Row} */ { name, role, tenant }) => call("POST", "/admin/v1/console/invitations", { body: { name, role, ...(tenant && { tenant }) } }),
}, linkOf);

/** @param {Row} made */
export const linkOf = (made) => ({ text: "Send this link to the person. It works once, for 24 hours, and is shown only now.", secret: made.url, label: "The link" });
