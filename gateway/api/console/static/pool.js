// @ts-check
/** The pool: upstreams, accounts and provider keys with their states in words, room, and what an operator may do. */
import { badge, call, duration, empty, get, h, heading, int, link, may, section, shell, usd, when, words } from "./core.js";
import { act, choice, cli, dialog, editor, facts, flags, rowButton, search, table } from "./ui.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const REFRESH_S = 10;
const STATES = /** @type {Record<string, ["good" | "warn" | "bad" | "off", string]>} */ ({
  ready: ["good", "ready"], cooling: ["warn", "cooldown"], half_open: ["warn", "one trial call"], quarantined: ["bad", "quarantined"], disabled: ["off", "disabled"], draining: ["off", "draining"],
});

/** @param {string} state */
export const stateBadge = (state) => badge(...(STATES[state] ?? ["off", words(state)]));

/** Says in words why a key, account or upstream is in its state. @param {Row} row */
export function reason(row) {
  const cause = row.error_code ? words(row.error_code) : "";
  if (row.state === "ready") return "–";
  if (row.state === "disabled" || row.state === "draining") return ["by ", row.held_by || "an operator", ", ", when(row.since)];
  const model = row.model ? ` for ${row.model} only` : "";
  return [`${cause || "an error"}${model}, `, when(row.since), !row.until ? null : row.until > Date.now() / 1000 ? [", retry ", when(row.until)] : "; the next call tries it"];
}

/** Says why a key is not used: its own state, else that of its account. @param {Row} key @param {Row | undefined} account */
export const keyReason = (key, account) => (key.state === "ready" && account && account.state !== "ready" ? [`its account: ${STATES[account.state]?.[1] ?? words(account.state)}, `, reason(account)] : reason(key));

/** @param {Row} row */
const fullName = (row) => [row.upstream, row.account, row.key].filter(Boolean).join("/");

/** @param {Row} key */
export const pathOf = (key) => [key.upstream, key.account, key.key].filter(Boolean).map(encodeURIComponent).join("/");

/** @param {Context} context */
export default async function pool(context) {
  const { session, signal, query } = context;
  const { data } = await get("/admin/v1/pool", undefined, signal);
  context.every(REFRESH_S);
  const canWrite = may(session, "pool.write");
  const [wanted, word] = [query.get("state"), (query.get("q") ?? "").toLowerCase()];
  const keep = (/** @type {Row} */ row) => (!wanted || (wanted === "unready" ? row.state !== "ready" : row.state === wanted)) && `${row.account}/${row.key ?? ""}`.toLowerCase().includes(word);
  return [
    heading("Pool", canWrite && h("button", { type: "button", class: "primary", onclick: () => addKey(context, data) }, "Add key"), "Upstreams, their accounts and keys. Providers count limits by account."),
    h("div", { class: "filters" }, search(context, "q", "Search account or key"), choice(context, "state", "State", { "": "All", unready: "Not ready", cooling: "Cooldown", quarantined: "Quarantined", disabled: "Disabled", draining: "Draining" })),
    data.length ? data.map((/** @type {Row} */ upstream) => ofUpstream(context, upstream, canWrite, keep)) : empty("No upstream is configured.", "imagegate check"),
  ];
}

/** @param {Context} context @param {Row} upstream @param {boolean} canWrite @param {(row: Row) => boolean} keep */
function ofUpstream(context, upstream, canWrite, keep) {
  const keys = upstream.accounts.flatMap((/** @type {Row} */ account) => account.keys).filter(keep);
  const accounts = upstream.accounts.filter((/** @type {Row} */ account) => keep(account) || account.keys.some(keep));
  const [enable, ready] = [`imagegate pool enable ${shell(upstream.name)}`, upstream.accounts.filter((/** @type {Row} */ account) => account.state === "ready").length];
  const lift = upstream.state === "cooling" && canWrite && h("button", { type: "button", title: enable, onclick: () => act(context, () => call("PATCH", `/admin/v1/pool/${encodeURIComponent(upstream.name)}`, { body: { state: "ready" } }), "The cooldown is ended.", enable) }, "End cooldown");
  return section(upstream.name, [
    facts([["State", [stateBadge(upstream.state), upstream.state !== "ready" && h("span", { class: "note" }, " ", reason(upstream))]], ["Accounts ready", `${int(ready)} of ${int(upstream.accounts.length)}`], ["Waiting", `${int(upstream.waiting)} interactive, ${int(upstream.waiting_batch)} batch`],
      ["Calls in the last minute", int(upstream.calls_last_minute)], ["Retries in the last minute", int(upstream.retries_last_minute)]]),
    h("h3", null, "Accounts"),
    table(`Accounts of ${upstream.name}`, [
      { label: "Account", cell: (row) => row.account }, { label: "State", cell: (row) => [stateBadge(row.state), row.state !== "ready" && h("span", { class: "note" }, reason(row))] },
      { label: "Requests free", num: true, cell: (row) => room(row.requests_per_minute) }, { label: "Images free", num: true, cell: (row) => room(row.images_per_minute) },
      { label: "Concurrency free", num: true, cell: (row) => room(row.concurrency) }, { label: "Images today", num: true, cell: (row) => int(row.images_today) }, { label: "Spend today", num: true, cell: (row) => usd(row.spend_today_usd) },
      { label: "Actions", num: true, hidden: !canWrite, cell: (row) => holds(context, row) }], accounts, { none: empty("No account matches.") }),
    h("h3", null, "Keys"),
    table(`Keys of ${upstream.name}`, [
      { label: "Key", cell: (row) => [link(`/console/pool/${pathOf(row)}`, `${row.account}/${row.key}`), h("span", { class: "note mono" }, row.fingerprint)] },
      { label: "State", cell: (row) => stateBadge(row.state) }, { label: "Why", wide: true, cell: (row) => keyReason(row, upstream.accounts.find((/** @type {Row} */ account) => account.account === row.account)) },
      { label: "Actions", num: true, hidden: !canWrite, cell: (row) => [rowButton("Probe", `${row.account}/${row.key}`, () => probe(context, row), `imagegate pool probe ${shell(fullName(row))}`), holds(context, row)] }], keys, { none: empty("No key matches.") }),
    canWrite && cli(...["list", "probe", "drain", "disable", "enable"].map((verb) => `imagegate pool ${verb}${verb === "list" ? "" : ` ${shell(upstream.name)}/ACCOUNT/KEY`}`)),
  ], lift);
}

/** @param {Row | undefined} part */
const room = (part) => (part ? `${int(part.free)} of ${int(part.now ?? part.limit)}` : "–");

/** Buttons that disable, drain or enable an account or key; to enable also ends a cooldown. @param {Context} context @param {Row} row */
export function holds(context, row) {
  const name = `${row.account}${row.key ? `/${row.key}` : ""}`;
  const held = row.state === "disabled" || row.state === "draining";
  const choices = { ...(row.state !== "ready" && row.state !== "half_open" && { Enable: "ready" }), ...(!held && { Drain: "draining", Disable: "disabled" }) };
  return h("span", { class: "rowactions" }, Object.entries(choices).map(([label, state]) => {
    const command = `imagegate pool ${label.toLowerCase()} ${shell(fullName(row))}`;
    return rowButton(label, name, () => act(context, () => call("PATCH", `/admin/v1/pool/${pathOf(row)}`, { body: { state } }), `${name}: ${words(state)}.`, command), command);
  }));
}

/** Checks a key at the provider, for free. @param {Context} context @param {Row} row */
export async function probe(context, row) {
  const result = await act(context, () => call("POST", `/admin/v1/pool/${pathOf(row)}/probe`, { timeout_s: 60 }), "The provider responded to the probe.");
  if (result) dialog(`Probe of ${row.account}/${row.key}`, () => [probed(result), cli(`imagegate pool probe ${shell(fullName(row))}`)]);
}

/** @param {Row} result */
export const probed = (result) => [h("p", { class: `told ${result.works ? "done" : "wrong"}` }, result.works ? "The key works." : `The key does not work: ${words(result.error_code ?? "unknown")}.`),
  result.detail && h("p", null, result.detail), h("p", { class: "note" }, `The provider responded in ${duration(result.seconds * 1000)}. A probe makes no image and costs nothing.`)];

/** @param {Context} context @param {Row[]} upstreams */
const addKey = (context, upstreams) => editor(context, "Add a provider key", {
  intro: h("p", null, "The secret is stored encrypted and is never shown again. The gateway probes the key, for free."),
  fields: [
    { name: "upstream", label: "Upstream", choices: Object.fromEntries(upstreams.map((each) => [each.name, each.name])) },
    { name: "account", label: "Account", required: true, help: "A new name creates an account." }, { name: "key", label: "Key name", required: true },
    { name: "secret", label: "Secret", type: "password", required: true, autocomplete: "new-password" },
    ...["requests_per_minute", "images_per_minute", "max_concurrency"].map((name) => ({ name, label: words(name), group: "Limits of a new account; empty takes the provider's published ones", inputmode: "numeric", pattern: "[1-9]\\d*" }))],
  action: "Add key", command: (/** @type {Row} */ values) => `imagegate pool add ${values.upstream}/${values.account || "ACCOUNT"}/${values.key || "KEY"} --secret-env VARIABLE${flags({ "requests-per-minute": values.requests_per_minute, "images-per-minute": values.images_per_minute, "max-concurrency": values.max_concurrency })}`,
  submit: (/** @type {Row} */ values) => call("POST", "/admin/v1/pool", { timeout_s: 60, body: Object.fromEntries(Object.entries(values).filter(([, value]) => value !== "").map(([name, value]) => [name, /minute|concurrency/.test(name) ? Number(value) : value])) }),
}, "The key is added.");
