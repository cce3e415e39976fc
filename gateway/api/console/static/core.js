// @ts-check
/** DOM, formats and the API: what every page needs. Text becomes text nodes; nothing here parses HTML. */

/** @typedef {Node | string | number | null | undefined | false | Array<any>} Child */
/** @typedef {Record<string, any>} Row */

/** @typedef {{signed_in: boolean, label?: string, subject?: string, role?: string, tenant?: string | null, other_tenants?: {tenant: string, role: string}[], may?: string[], api?: string[],
 *   expires_at?: number, idle_expires_at?: number, version?: string, organisation?: string, time_zone?: string,
 *   sign_in?: any, secure?: boolean}} Session */

/** @typedef {{session: Session, params: string[], path: string, query: URLSearchParams, signal: AbortSignal,
 *   go: (href: string) => void, refine: (change: Row) => void, reload: () => void,
 *   every: (seconds: number) => void}} Context */

const SVG = "http://www.w3.org/2000/svg";

/** Builds an element. Properties: `on…` functions listen, `vars` sets custom properties, all others are attributes.
 * @param {string} tag @param {Row | null} [props] @param {...Child} children @returns {any} */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** Builds an SVG element. @param {string} tag @param {Row | null} [props] @param {...Child} children @returns {any} */
export function svg(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** @param {any} element @param {Row | null | undefined} props @param {Child[]} children */
function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") for (const [key, set] of Object.entries(value)) element.style.setProperty(`--${key}`, set);
    else if (name === "value") continue;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  if (props?.value !== undefined && props.value !== null) element.value = props.value; // a select needs its options first
  return element;
}

/** @param {Node} parent @param {Child} child */
function append(parent, child) {
  if (Array.isArray(child)) child.forEach((one) => append(parent, one));
  else if (child instanceof Node) parent.appendChild(child);
  else if (child !== null && child !== undefined && child !== false)
    parent.appendChild(document.createTextNode(String(child)));
}

/** Puts children in the place of what an element holds. @param {Element} element @param {...Child} children */
export function replace(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

// ---------------------------------------------------------------------------------------------------------- formats

const GROUPED = new Intl.NumberFormat("en-US");
const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;

/** @param {number | string | null | undefined} value */
export const int = (value) => (value === null || value === undefined ? "–" : GROUPED.format(Number(value)));

/** Writes an exact decimal in US dollars, without rounding. @param {string | number | null | undefined} value */
export function usd(value) {
  if (value === null || value === undefined) return "–";
  const [, sign, whole, part = ""] = /^(-?)(\d+)(?:\.(\d*))?$/.exec(String(value)) ?? [];
  if (whole === undefined) return String(value);
  return `${sign ? "−" : ""}$${GROUPED.format(BigInt(whole))}.${part.padEnd(2, "0")}`;
}

/** @param {number | null | undefined} ms */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < MINUTE) return `${s.toFixed(1)} s`;
  if (s < HOUR) return `${Math.floor(s / MINUTE)} min ${Math.round(s % MINUTE)} s`;
  return `${Math.floor(s / HOUR)} h ${Math.round((s % HOUR) / MINUTE)} min`;
}

/** Writes the distance of a moment from now. @param {number} seconds after 1970 @param {number} [now] */
export function relative(seconds, now = Date.now() / 1000) {
  const distance = Math.abs(seconds - now);
  if (distance < 10) return "now";
  const [size, unit] = [[DAY, "d"], [HOUR, "h"], [MINUTE, "min"], [1, "s"]].find(([each]) => distance >= Number(each)) ?? [1, "s"];
  const amount = `${int(Math.floor(distance / Number(size)))} ${unit}`;
  return seconds > now ? `in ${amount}` : `${amount} ago`;
}

/** @param {number | string} moment Unix seconds, or ISO 8601 */
const secondsOf = (moment) => (typeof moment === "number" ? moment : Date.parse(moment) / 1000);

/** @param {number | string} moment */
export const utc = (moment) =>
  `${new Date(secondsOf(moment) * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;

/** Shows a moment relative to now, with the UTC moment behind it. @param {number | string | null | undefined} moment @param {string} [none] */
export function when(moment, none = "–") {
  if (moment === null || moment === undefined) return none;
  const at = secondsOf(moment);
  return h("time", { datetime: new Date(at * 1000).toISOString(), title: utc(at) }, relative(at));
}

/** Shows the UTC moment itself. @param {number | string} moment */
export const moment = (moment) => h("time", { datetime: utc(moment).replace(" UTC", "Z").replace(" ", "T") }, utc(moment));

/** @param {string} name */
export const words = (name) => name.replaceAll("_", " ").replaceAll(".", " ");

/** @param {number} count @param {string} one @param {string} [many] */
export const plural = (count, one, many = `${one}s`) => `${int(count)} ${count === 1 ? one : many}`;

/** Quotes a word for a POSIX shell. @param {string | number} word */
export const shell = (word) =>
  /^[\w@%+=:,./-]+$/.test(String(word)) ? String(word) : `'${String(word).replaceAll("'", "'\\''")}'`;

/** Adds a query to a path; empty values are left out. @param {string} path @param {Row | URLSearchParams} [query] */
export function href(path, query) {
  const pairs = query instanceof URLSearchParams ? [...query] : Object.entries(query ?? {});
  const kept = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return kept.length ? `${path}?${new URLSearchParams(kept.map(([key, value]) => [key, String(value)]))}` : path;
}

// -------------------------------------------------------------------------------------------------------------- API

export class ApiError extends Error {
  /** @param {number} status @param {Row} error @param {string | null} requestId */
  constructor(status, error, requestId) {
    super(error.message);
    this.status = status;
    this.code = error.code;
    this.param = error.param;
    this.requestId = requestId;
  }
}

/** Sends a request and returns the response. Raises: ApiError, in the API's own words.
 * @param {string} method @param {string} path
 * @param {{query?: Row | URLSearchParams, body?: any, headers?: Row, signal?: AbortSignal, timeout_s?: number}} [options] */
export async function request(method, path, { query, body, headers, signal, timeout_s = 30 } = {}) {
  const limit = AbortSignal.timeout(timeout_s * 1000);
  let response;
  try {
    response = await fetch(href(path, query), {
      method,
      headers: { "x-imagegate-console": "1", ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
      credentials: "same-origin",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    const message = limit.aborted ? `No response within ${timeout_s} s.` : "The gateway does not respond.";
    const advice = method === "GET" ? "Check that it runs, then try again." : "The change may have been made. Check before you repeat it.";
    throw new ApiError(0, { message: `${message} ${advice}` }, null);
  }
  if (response.ok) return response;
  const error = await response.json().then((answer) => answer.error, () => null);
  const failure = new ApiError(
    response.status,
    error ?? { message: `The gateway responded with HTTP ${response.status}.` },
    response.headers.get("x-request-id"),
  );
  if (response.status === 401 && path !== "/console/session") document.dispatchEvent(new CustomEvent("session-over"));
  throw failure;
}

/** Sends a request and returns its JSON. @param {string} method @param {string} path @param {any} [options] @returns {Promise<any>} */
export const call = async (method, path, options) => (await request(method, path, options)).json();

/** @param {string} path @param {any} [query] @param {AbortSignal} [signal] */
export const get = (path, query, signal) => call("GET", path, { query, signal });

/** Returns the path of a route for this session: the tenant's own if it belongs to one.
 * @param {Session} session @param {string} path */
export const scoped = (session, path) => (session.tenant ? `/console/tenant${path}` : `/admin/v1${path}`);

/** @param {Session} session @param {string} what */
export const may = (session, what) => Boolean(session.may?.includes(what));

/** Returns whether this gateway serves a route, or takes a parameter of it, as in `/usage?model`.
 * @param {Session} session @param {string} path as for `scoped` @param {string} [method] */
export const serves = (session, path, method = "GET") =>
  Boolean(session.api?.includes(`${method} ${session.tenant ? "/v1/tenant" : "/admin/v1"}${path}`));

/** Returns whether this gateway lists requests newest first. @param {Session} session */
export const listsRequests = (session) => may(session, "records.read") && serves(session, session.tenant ? "/requests" : "/usage/records?order");

/** Shows a part of a page. If the API refuses it, the part shows why and the page stays.
 * @param {Promise<any>} answer @param {(answer: any) => Child} show @param {AbortSignal} signal @returns {Promise<Child>} */
export const part = (answer, show, signal) => answer.then(show, (error) => {
  if (signal.aborted || !(error instanceof ApiError) || error.status === 401) throw error;
  return problem(error);
});

// ------------------------------------------------------------------------------------------------------- page parts

/** @param {string} title @param {Child} [aside] @param {Child} [lead] */
export const heading = (title, aside, lead) =>
  h("div", { class: "heading" }, h("div", null, h("h1", { tabindex: "-1" }, title), lead && h("p", { class: "lead" }, lead)), aside && h("div", { class: "actions" }, aside));

/** @param {string | null} title @param {Child} body @param {Child} [aside] @param {string} [className] */
export const section = (title, body, aside, className = "") =>
  h("section", { class: `panel ${className}` }, title && h("header", null, h("h2", null, title), aside), body);

/** @param {string} to @param {Child} label @param {string} [className] */
export const link = (to, label, className) => h("a", { href: to, class: className }, label);

/** Says that there is nothing, and the command that changes it. @param {string} text @param {string} [command] */
export const empty = (text, command) =>
  h("div", { class: "empty" }, h("p", null, text), command && h("code", null, command));

/** Shows an error in the API's own words. @param {any} error @param {() => void} [retry] */
export function problem(error, retry) {
  const details = [error.code && `Code ${error.code}`, error.requestId && `request ${error.requestId}`].filter(Boolean);
  return h("div", { class: "problem", role: "alert" }, h("strong", null, error instanceof ApiError ? error.message : `The page failed: ${error.message}`),
    details.length > 0 && h("p", null, details.join(", ")), retry && h("button", { type: "button", onclick: retry }, "Try again"));
}

const SHAPES = { good: "●", warn: "▲", bad: "■", off: "○" };

/** A state in a word and a shape, never by colour alone. @param {"good" | "warn" | "bad" | "off"} tone @param {string} word */
export const badge = (tone, word) =>
  h("span", { class: `badge ${tone}` }, h("span", { "aria-hidden": "true" }, SHAPES[tone]), word);
