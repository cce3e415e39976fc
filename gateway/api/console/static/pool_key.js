// @ts-check
/** One provider key: state, history of states, probe, hold, new secret, removal. */
import { call, empty, get, h, heading, link, may, part, section, serves, shell, when, words } from "./core.js";
import { cli, confirmation, dialog, editor, facts, table } from "./ui.js";
import { holds, keyReason, pathOf, probe, probed, stateBadge } from "./pool.js";

/** @typedef {import("./core.js").Row} Row */

/** @param {import("./core.js").Context} context */
export default async function poolKey(context) {
  const { params: [upstream, account, name], session, signal } = context;
  const path = `/admin/v1/pool/${pathOf({ upstream, account, key: name })}`;
  const route = "/pool/{upstream}/{account}/{key}";
  const [key, { data }] = await Promise.all([get(path, undefined, signal), get("/admin/v1/pool", undefined, signal)]);
  const ofKey = data.find((/** @type {Row} */ each) => each.name === upstream)?.accounts.find((/** @type {Row} */ each) => each.account === account);
  const full = `${upstream}/${account}/${name}`;
  const actions = may(session, "pool.write") && [
    h("button", { type: "button", onclick: () => probe(context, key) }, "Probe"), holds(context, key),
    !key.declared && serves(session, `${route}/secret`, "POST") && h("button", { type: "button", onclick: () => replaceSecret(context, path, full) }, "Replace secret"),
    !key.declared && h("button", { type: "button", onclick: () => remove(context, path, full) }, "Remove")];
  return [
    heading(`${account}/${name}`, actions, [link("/console/pool", "Pool"), ` / ${upstream}`]),
    section("State", [facts([["State", stateBadge(key.state)], ["Why", keyReason(key, ofKey)], ["Fingerprint of the secret", h("code", null, key.fingerprint)], ["From", key.declared ? "the configuration: change its secret there" : "added at run time"]]), cli(...["probe", "drain", "disable", "enable"].map((verb) => `imagegate pool ${verb} ${shell(full)}`))]),
    serves(session, `${route}/history`) && section("History", await part(get(`${path}/history`, undefined, signal), (history) => table("States, newest first", [
      { label: "When", cell: (row) => when(row.at) }, { label: "Of", cell: (row) => row.scope ?? "key" }, { label: "State", cell: (row) => stateBadge(row.state) },
      { label: "Why", wide: true, cell: (row) => (row.error_code ? `${words(row.error_code)}${row.model ? ` for ${row.model} only` : ""}` : "–") }, { label: "By", cell: (row) => row.actor || "the gateway" }],
    history.data, { none: empty("The state did not change yet.", `imagegate pool history ${shell(full)}`) }), signal)),
  ];
}

/** @param {import("./core.js").Context} context @param {string} path @param {string} full */
const replaceSecret = (context, path, full) => editor(context, `Replace the secret of ${full}`, {
  intro: h("p", null, "New calls use the new secret. It is stored encrypted and is never shown."), fields: [{ name: "secret", label: "New secret", type: "password", required: true, autocomplete: "new-password" }],
  action: "Replace", command: () => `imagegate pool secret ${shell(full)} --secret-env VARIABLE`, submit: (/** @type {Row} */ { secret }) => call("POST", `${path}/secret`, { body: { secret }, timeout_s: 60 }),
  done(/** @type {Row} */ key) {
    context.reload();
    if (key.probe) dialog(`Probe of ${full}`, () => probed(key.probe));
  },
}, "The secret is replaced.");

/** @param {import("./core.js").Context} context @param {string} path @param {string} full */
const remove = (context, path, full) => confirmation({
  title: `Remove ${full}`, name: full, action: "Remove", command: `imagegate pool remove ${shell(full)}`, text: "The gateway forgets the key and its secret. In-flight calls complete.",
  submit: () => call("DELETE", path), done: () => context.go("/console/pool"),
});
