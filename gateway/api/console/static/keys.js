// @ts-check
/** Keys of all tenants, or of one's own: search, views of keys that need a look, create. */
import { empty, get, h, heading, may, plural, scoped, section } from "./core.js";
import { pager, search, tabs } from "./ui.js";
import { createKey, keyTable } from "./key_forms.js";

const PAGE = 100;
const VIEWS = { "": "All valid", unlimited: "No limit", never_expires: "Never expires", idle_90d: "Idle 90 days", expires_14d: "Expires in 14 days", revoked: "Revoked" };
const NOTES = /** @type {Record<string, string>} */ ({
  unlimited: "These keys have no limit of their own. The limits of their tenant apply.", never_expires: "A key that never expires stays valid until it is revoked.",
  idle_90d: "No program used these keys in 90 days. They are candidates to revoke.", expires_14d: "Rotate these keys, or give them more time, before programs are refused.",
  revoked: "Requests with these keys are refused.",
});

/** @param {import("./core.js").Context} context */
export default async function keys(context) {
  const { query, session, signal } = context;
  const view = query.get("view") ?? "";
  const page = await get(scoped(session, "/keys"), session.tenant ? undefined : { q: query.get("q"), tenant: query.get("tenant"), view, after: query.get("after"), limit: PAGE }, signal);
  return [
    heading("Keys", may(session, "keys.write") && h("button", { type: "button", class: "primary", onclick: () => createKey(context) }, "Create key"),
      "Programs authenticate with keys. Secrets are shown once and stored as keyed hashes. Last use is exact to 5 minutes."),
    !session.tenant && tabs(context, "view", VIEWS, "Views of keys"),
    NOTES[view] && h("p", { class: "lead" }, NOTES[view]),
    !session.tenant && h("div", { class: "filters" }, search(context, "q", "Search label or ID"), search(context, "tenant", "Tenant")),
    section(null, keyTable(context, page.data, view || query.get("q") || query.get("tenant") ? empty("No key matches.") : undefined)),
    !session.tenant && pager(context, "after", page.next, (page.total ?? null) === null ? null : plural(page.total, "key")),
  ];
}
