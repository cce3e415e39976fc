// @ts-check
/** Parts of pages: tables, dialogs, forms, copy buttons, meters, tabs, pages of a list. */
import { h, href, int, link, problem, replace, shell, usd } from "./core.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Child} Child */
/** @typedef {import("./core.js").Context} Context */
/** @typedef {{label: string, cell: (row: Row) => Child, num?: boolean, sort?: string, wide?: boolean, hidden?: boolean}} Column */

let serial = 0;
/** @param {string} prefix */
const unique = (prefix) => `${prefix}-${(serial += 1)}`;

/** @param {string} text */
export const announce = (text) => document.dispatchEvent(new CustomEvent("announce", { detail: text }));

/** A table in its own scroller. `sort` columns change the URL; the API or the caller sorts.
 * @param {string} caption @param {Column[]} columns @param {Row[]} rows
 * @param {{context?: Context, total?: Row | null, none?: Child}} [options] */
export function table(caption, columns, rows, { context, total, none } = {}) {
  if (!rows.length && none) return none;
  const shown = columns.filter((column) => !column.hidden);
  const kind = (/** @type {Column} */ column) => (column.num ? "num" : column.wide ? "wide" : null);
  const [sort, order] = [context?.query.get("sort"), context?.query.get("order") ?? "asc"];
  const head = (/** @type {Column} */ column) => {
    if (!column.sort || !context) return h("th", { scope: "col", class: kind(column) }, column.label);
    const isSorted = sort === column.sort;
    const next = isSorted ? (order === "asc" ? "desc" : "asc") : column.num ? "desc" : "asc";
    return h("th", { scope: "col", class: kind(column), "aria-sort": isSorted ? (order === "asc" ? "ascending" : "descending") : "none" },
      h("button", { type: "button", class: "sort", id: `sort-${column.sort}`, onclick: () => context.refine({ sort: column.sort, order: next, after: "", cursor: "" }) },
        column.label, h("span", { "aria-hidden": "true" }, isSorted ? (order === "asc" ? "↑" : "↓") : "↕")));
  };
  const line = (/** @type {Row} */ row) => h("tr", null, shown.map((column, index) =>
    h(index ? "td" : "th", { class: kind(column), scope: index ? null : "row" }, column.cell(row))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", null, h("caption", null, caption), h("thead", null, h("tr", null, shown.map(head))), h("tbody", null, rows.map(line)),
      total && h("tfoot", null, line(total))));
}

/** Links to the next page of a list. @param {Context} context @param {string} parameter @param {string | null | undefined} next @param {Child} [count] */
export function pager(context, parameter, next, count) {
  const first = new URLSearchParams(context.query);
  first.delete(parameter);
  const further = new URLSearchParams(context.query);
  if (next) further.set(parameter, next);
  return h("div", { class: "pager" }, h("span", null, count),
    context.query.get(parameter) && link(href(context.path, first), "First page", "button"),
    next && link(href(context.path, further), "Next page", "button"));
}

/** Links that change one entry of the query. @param {Context} context @param {string} name @param {Record<string, string>} choices @param {string} label */
export const tabs = (context, name, choices, label) =>
  h("nav", { class: "tabs", "aria-label": label }, Object.entries(choices).map(([value, text]) =>
    h("a", { href: href(context.path, { [name]: value }), "aria-current": (context.query.get(name) ?? "") === value && "page" }, text)));

/** @param {Context} context @param {string} name @param {string} label @param {Record<string, string>} choices */
export const choice = (context, name, label, choices) =>
  h("label", { class: "filter" }, label, h("select", { id: `filter-${name}`, value: context.query.get(name) ?? "", onchange: (/** @type {any} */ event) => context.refine({ [name]: event.target.value, after: "", cursor: "", before: "" }) },
    Object.entries(choices).map(([value, text]) => h("option", { value }, text))));

/** @param {Context} context @param {string} name @param {string} label @param {Row} [props] */
export const search = (context, name, label, props) =>
  h("label", { class: "filter" }, label, h("input", { id: `filter-${name}`, type: "search", size: 14, value: context.query.get(name) ?? "", autocomplete: "off", spellcheck: "false",
    onchange: (/** @type {any} */ event) => context.refine({ [name]: event.target.value.trim(), after: "", cursor: "", before: "" }), ...props }));

/** @param {string} text @param {string} [label] */
export function copyButton(text, label = "Copy") {
  const button = h("button", { type: "button", class: "copy", async onclick() {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
      announce("Copied to the clipboard.");
    } catch {
      announce("The browser refused the clipboard. Select the text and copy it.");
    }
    setTimeout(() => (button.textContent = label), 2000);
  } }, label);
  return button;
}

/** A text to copy. @param {string} text @param {string} label */
export const copyable = (text, label) =>
  h("div", { class: "copyable" }, h("pre", { tabindex: "0", "aria-label": label }, h("code", null, text)), copyButton(text));

/** The commands that do the same. @param {...string} commands */
export const cli = (...commands) => h("details", { class: "cli" }, h("summary", null, "Command line"), commands.map((command) => copyable(command, "Command")));

/** A button in a row of a table. @param {string} label @param {string} name of what it acts on @param {() => void} onclick @param {string} [command] that does the same */
export const rowButton = (label, name, onclick, command) => h("button", { type: "button", class: "plain", "aria-label": `${label} ${name}`, title: command, onclick }, label);

/** Options of a command; empty values are left out, lists are repeated. @param {Row} options */
export const flags = (options) => Object.entries(options)
  .flatMap(([name, value]) => (Array.isArray(value) ? value.map((one) => [name, one]) : [[name, value]]))
  .filter(([, value]) => value !== undefined && value !== "" && value !== false)
  .map(([name, value]) => (value === true ? ` --${name}` : ` --${name} ${shell(value === null ? "none" : value)}`)).join("");

// ---------------------------------------------------------------------------------------------------------- dialogs

/** Opens a modal dialog; the element that had the focus gets it again.
 * @param {string} title @param {(close: () => void) => Child} content @param {() => void} [closed] */
export function dialog(title, content, closed) {
  const before = /** @type {any} */ (document.activeElement);
  const id = unique("dialog");
  const box = h("dialog", { "aria-labelledby": id, onclose() {
    box.remove();
    before?.isConnected ? before.focus() : document.querySelector("h1")?.focus();
    closed?.();
  } });
  replace(box, h("header", null, h("h2", { id }, title), h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => box.close() }, "×")),
    content(() => box.close()));
  document.body.append(box);
  box.showModal();
  box.querySelector("form input, form select, form textarea, .primary")?.focus();
  return box;
}

/** @typedef {{name: string, label: string, help?: Child, type?: string, value?: any, choices?: Record<string, string>, required?: boolean,
 *   pattern?: string, placeholder?: string, min?: number, max?: number, step?: string, autocomplete?: string, rows?: number, group?: string, inputmode?: string, list?: string}} Field */

const HINTS = /** @type {Record<string, string>} */ ({ decimal: "US dollars with a point, as 12.50.", numeric: "A whole number, as 60." });

/** @param {Field} field */
export function control(field) {
  const id = unique(field.name.replaceAll(/\W/g, "-"));
  const notes = field.help ? `${id}-help ${id}-error` : `${id}-error`;
  const props = { id, name: field.name, required: field.required, placeholder: field.placeholder, value: field.value ?? Object.keys(field.choices ?? {})[0] ?? "", "aria-describedby": notes, autocomplete: field.autocomplete ?? "off" };
  let input;
  if (field.choices) input = h("select", props, Object.entries(field.choices).map(([value, text]) => h("option", { value }, text)));
  else if (field.rows) input = h("textarea", { ...props, rows: field.rows });
  else if (field.type === "checkbox") {
    input = h("input", { id, name: field.name, type: "checkbox", "aria-describedby": notes, checked: field.value });
    return h("div", { class: "field check" }, h("label", null, input, field.label), field.help && h("p", { class: "help", id: `${id}-help` }, field.help), h("p", { class: "error", id: `${id}-error` }));
  } else input = h("input", { ...props, type: field.type ?? "text", pattern: field.pattern, title: field.pattern && (HINTS[field.inputmode ?? ""] ?? (typeof field.help === "string" ? field.help : field.label)), min: field.min, max: field.max, step: field.step, inputmode: field.inputmode, list: field.list, spellcheck: "false" });
  return h("div", { class: "field" }, h("label", { for: id }, field.label), input,
    field.help && h("p", { class: "help", id: `${id}-help` }, field.help), h("p", { class: "error", id: `${id}-error` }));
}

/** @param {HTMLFormElement} form @returns {Row} */
export const valuesOf = (form) => Object.fromEntries([...form.elements].filter((each) => /** @type {any} */ (each).name).map((/** @type {any} */ each) =>
  [each.name, each.type === "checkbox" ? each.checked : each.value.trim()]));

/** A form with the command that does the same. A refusal is shown at its field, or above the button.
 * @param {{fields: Field[], action: string, danger?: boolean, intro?: Child, command?: (values: Row) => string,
 *   submit: (values: Row) => Promise<any>, done: (result: any) => void, cancel?: () => void}} options */
export function form({ fields, action, danger, intro, command, submit, done, cancel }) {
  const alert = h("div", { class: "alert" });
  const same = h("div", null);
  const button = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
  const groups = new Map([...new Set(fields.map((field) => field.group ?? ""))].map((name) => [name, fields.filter((field) => (field.group ?? "") === name)]));
  const element = h("form", { novalidate: true, oninput: () => showCommand(), async onsubmit(/** @type {any} */ event) {
    event.preventDefault();
    if (button.disabled || !check(element)) return;
    button.disabled = true;
    replace(alert);
    try {
      done(await submit(valuesOf(element)));
    } catch (error) {
      showRefusal(element, alert, error);
    } finally {
      button.disabled = false;
    }
  } }, intro, [...groups].map(([name, members]) => (name
    ? h("fieldset", null, h("legend", null, name), h("div", { class: "grid" }, members.map(control)))
    : members.map(control))), alert, same,
  h("div", { class: "buttons" }, cancel && h("button", { type: "button", onclick: cancel }, "Cancel"), button));
  const showCommand = () => {
    const open = same.querySelector("details")?.open;
    if (command) replace(same, cli(command(valuesOf(element))));
    const details = same.querySelector("details");
    if (details && open) details.open = true;
  };
  showCommand();
  return element;
}

/** Marks fields that the browser finds invalid, and moves the focus to the first. @param {HTMLFormElement} element */
function check(element) {
  const fields = /** @type {any[]} */ ([...element.elements]).filter((each) => each.name);
  for (const each of fields) mark(each, each.validity.valid ? "" : (each.validity.patternMismatch && each.title) || each.validationMessage);
  const wrong = fields.find((each) => !each.validity.valid);
  wrong?.focus();
  return !wrong;
}

/** @param {any} input @param {string} message */
function mark(input, message) {
  const place = document.getElementById(`${input.id}-error`) ?? input.closest(".field")?.querySelector(".error");
  if (place) place.textContent = message;
  if (message) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

/** @param {HTMLFormElement} element @param {Element} alert @param {any} error */
function showRefusal(element, alert, error) {
  const input = error.param && /** @type {any} */ (element.elements.namedItem(error.param));
  if (input?.focus) {
    mark(input, error.message);
    input.focus();
  } else replace(alert, problem(error));
}

/** Asks before a change that cannot be undone, by typing a name.
 * @param {{title: string, text: Child, name?: string, action: string, command: string, submit: () => Promise<any>, done: (result: any) => void}} options */
export const confirmation = ({ title, text, name, action, command, submit, done }) =>
  dialog(title, (close) => form({
    intro: h("p", null, text), action, danger: true, cancel: close, command: () => command,
    fields: name ? [{ name: "confirm", label: `Type ${name} to confirm`, required: true, pattern: name.replaceAll(/[^\w\s]/g, "\\$&") }] : [],
    submit, done: (result) => (close(), done(result)),
  }));

/** Opens a dialog with a form whose result is a secret or link, shown once.
 * @param {Context} context @param {string} title @param {any} options @param {(made: Row) => {text: string, secret: string, label: string, more?: Child} | null} shown */
export const maker = (context, title, options, shown) => dialog(title, (close) => {
  const body = h("div", null, form({ cancel: close, ...options, done(/** @type {Row} */ made) {
    const found = shown(made);
    if (!found) return close();
    replace(body, h("p", { class: "told done" }, found.text), copyable(found.secret, found.label), found.more,
      h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", onclick: close }, "I have stored it")));
    body.querySelector("button")?.focus();
    announce(`${found.label} is shown once.`);
  } }));
  return body;
}, context.reload);

/** Opens a dialog with a form; closes it and reports when the change is made.
 * @param {Context} context @param {string} title @param {any} options @param {string} said */
export const editor = (context, title, options, said) => dialog(title, (close) => form({
  cancel: close, ...options, done(result) {
    close();
    announce(said);
    if (options.done) options.done(result);
    else context.reload();
  } }));

/** Makes a change and says so, with the command that does the same; a refusal opens a dialog.
 * @param {Context} context @param {() => Promise<any>} change @param {string} said @param {string} [command] */
export async function act(context, change, said, command) {
  try {
    const result = await change();
    announce(command ? `${said} Command: ${command}` : said);
    context.reload();
    return result;
  } catch (error) {
    dialog("The change was not made", () => problem(error));
  }
}

/** How much of a limit is used. @param {string} label @param {number | string} used @param {number | string | null | undefined} limit @param {{money?: boolean, note?: Child}} [options] */
export function meter(label, used, limit, { money = false, note } = {}) {
  const write = money ? usd : int;
  if (limit === null || limit === undefined) return h("div", { class: "meter" }, h("p", null, h("span", null, label), h("span", null, write(used))), h("p", { class: "note" }, "No limit", note && [" · ", note]));
  const share = Number(limit) > 0 ? Math.min(1, Number(used) / Number(limit)) : 1;
  const tone = share >= 1 ? "bad" : share >= 0.8 ? "warn" : "good";
  return h("div", { class: "meter" }, h("p", null, h("span", null, label), h("span", null, `${write(used)} of ${write(limit)}`)),
    h("div", { class: `track ${tone}`, "aria-hidden": "true" }, share > 0 && h("div", { vars: { share: `${share * 100}%` } })),
    h("p", { class: "note" }, `${Math.floor(share * 100)}% used`, note && [" · ", note]));
}

/** Terms and their values. @param {[string, Child][]} pairs */
export const facts = (pairs) => h("dl", { class: "facts" }, pairs.map(([term, value]) => h("div", null, h("dt", null, term), h("dd", null, value))));
