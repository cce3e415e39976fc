// @ts-check
/** The shell: session, navigation, routes with their state in the URL, focus and title. */
import { ApiError, call, h, may, problem, replace, serves, svg } from "./core.js";

/** @typedef {import("./core.js").Session} Session */
/** @typedef {import("./core.js").Context} Context */

const BASE = "/console";
const THEMES = { "": "System", light: "Light", dark: "Dark" };
const MIN_REFRESH_S = 5;
const BUSY_AFTER_MS = 150;

const ICONS = {
  overview: "M2.5 2.5h4.5v4.5H2.5zM9 2.5h4.5v4.5H9zM2.5 9h4.5v4.5H2.5zM9 9h4.5v4.5H9z",
  tenants: "M6 7.5a2.5 2.5 0 1 0 0-5 2.5 2.5 0 0 0 0 5zM1.5 13.5c0-2.5 2-4 4.5-4s4.5 1.5 4.5 4M10.5 2.8a2.5 2.5 0 0 1 0 4.4M12 9.9c1.6.5 2.5 1.800 2.5 3.600",
  keys: "M5.500 13.500a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM7.700 8.300l5.800-5.800M10.500 5.500l2 2",
  usage: "M2.500 13.500h11M4.500 11V8M8 11V3M11.500 11V6",
  requests: "M2.500 4h11M2.500 8h11M2.500 12h7",
  pool: "M8 2.500l6 3-6 3-6-3zM2 8.200l6 3 6-3M2 10.800l6 3 6-3",
  playground: "M2.500 3.500h11v9h-11zM2.500 10.500l3-3 3 3 2-2 3 3M10.500 6.500h.01",
  settings: "M2 4.500h7M12.500 4.500h1.500M2 11.500h1.500M7 11.500h7M9 4.500a1.700 1.700 0 1 0 3.400 0 1.700 1.700 0 0 0-3.400 0zM3.500 11.500a1.700 1.700 0 1 0 3.400 0 1.700 1.700 0 0 0-3.400 0z",
};

/** Pages: path, module, title, navigation entry and the permissions of which one shows it. */
const ROUTES = /** @type {[RegExp, string, string, keyof typeof ICONS, string[]][]} */ ([
  [/^\/?$/, "overview", "Overview", "overview", ["overview.read"]],
  [/^\/?$/, "tenant_overview", "Overview", "overview", ["usage.read"]],
  [/^\/tenants\/?$/, "tenants", "Tenants", "tenants", ["tenants.read"]],
  [/^\/tenants\/([^/]+)$/, "tenant", "Tenant", "tenants", ["tenants.read"]],
  [/^\/keys\/?$/, "keys", "Keys", "keys", ["keys.read"]],
  [/^\/usage\/?$/, "usage", "Usage & cost", "usage", ["usage.read"]],
  [/^\/requests\/?$/, "requests", "Requests", "requests", ["records.read"]],
  [/^\/requests\/([^/]+)$/, "request", "Request", "requests", ["records.read"]],
  [/^\/pool\/?$/, "pool", "Pool", "pool", ["pool.read"]],
  [/^\/pool\/([^/]+)\/([^/]+)\/([^/]+)$/, "pool_key", "Provider key", "pool", ["pool.read"]],
  [/^\/playground\/?$/, "playground", "Playground", "playground", ["playground"]],
  [/^\/settings\/?$/, "settings", "Settings", "settings", ["settings.read", "audit.read", "tenant.write"]],
]);
/** Routes without which a page has nothing to show, for operators and for a team. */
const NEEDS = /** @type {Record<string, [string, string]>} */ ({
  overview: ["/overview", ""], keys: ["/keys", "/keys"], requests: ["/usage/records?order", "/requests"], request: ["/usage/records/{id}", "/requests/{id}"],
});
const LINKS = { overview: "/", tenants: "/tenants", keys: "/keys", usage: "/usage", requests: "/requests", pool: "/pool", playground: "/playground", settings: "/settings" };

const main = h("main", { id: "main", tabindex: "-1" });
const live = h("div", { class: "toast", role: "status" });
/** @type {Session} */
let session = { signed_in: false };
let leaving = new AbortController();
let shownPath = "";

/** Shows a short notice that screen readers announce. @param {string} text */
function announce(text) {
  live.textContent = text;
  setTimeout(() => live.textContent === text && live.replaceChildren(), 6000);
}

function storedTheme() {
  try {
    return localStorage.getItem("theme") ?? "";
  } catch {
    return ""; // storage is switched off: the system's theme
  }
}

/** @param {string} theme */
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    if (theme) localStorage.setItem("theme", theme);
    else localStorage.removeItem("theme");
  } catch {
    // storage is switched off: the choice lasts as long as the page
  }
}

/** @param {keyof typeof ICONS} name */
const icon = (name) => svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true", class: "icon" }, svg("path", { d: ICONS[name] }));

const logo = () =>
  svg("svg", { viewBox: "0 0 32 32", "aria-hidden": "true", class: "logo" }, svg("rect", { width: 32, height: 32, rx: 8 }), svg("path", { d: "M9 24V13a7 7 0 0 1 14 0v11M16 24v-9" }));

/** Finds the page of a path that this role may see. The overview does not exist for finance. @param {string} inside */
function routeOf(inside) {
  const found = ROUTES.filter(([pattern]) => pattern.test(inside));
  return found.find(([, module, , , permissions]) => permissions.some((one) => may(session, one)) && (module !== "tenant_overview" || session.tenant)
    && (!NEEDS[module] || serves(session, NEEDS[module][session.tenant ? 1 : 0])));
}

function shell() {
  const items = Object.entries(LINKS).filter(([, path]) => routeOf(path));
  const menu = h("button", { type: "button", class: "menu", "aria-expanded": "false", "aria-controls": "nav", onclick: () => setOpen(menu.getAttribute("aria-expanded") !== "true") }, "Menu");
  const nav = h("nav", { id: "nav", "aria-label": "Console" },
    h("ul", null, items.map(([name, path]) => h("li", null,
      h("a", { href: BASE + path, onclick: () => setOpen(false) }, icon(/** @type {any} */ (name)), routeOf(path)?.[2])))),
    h("div", { class: "who" },
      h("p", null, h("strong", null, session.label), h("span", null, session.tenant ? `${session.role} of ${session.tenant}` : session.role)),
      session.other_tenants?.length ? h("label", null, "Tenant", h("select", { value: session.tenant, onchange: (/** @type {any} */ event) => void switchTo(event.target.value) },
        [session.tenant, ...session.other_tenants.map(({ tenant }) => tenant)].map((name) => h("option", { value: name }, name)))) : null,
      h("label", null, "Theme", h("select", { value: storedTheme(), onchange: (/** @type {any} */ event) => setTheme(event.target.value) },
        Object.entries(THEMES).map(([value, label]) => h("option", { value }, label)))),
      h("button", { type: "button", onclick: signOut }, "Sign out")));
  const setOpen = (/** @type {boolean} */ open) => {
    menu.setAttribute("aria-expanded", String(open));
    nav.classList.toggle("open", open);
  };
  return [h("a", { href: "#main", class: "skip" }, "Skip to content"),
    h("header", { class: "side" }, h("a", { href: `${BASE}/`, class: "brand" }, logo(), h("span", null, session.organisation || "imagegate")), menu, nav),
    main, live];
}

/** Opens the session in another tenant of the person. @param {string} tenant */
async function switchTo(tenant) {
  try {
    await call("POST", "/console/session/tenant", { body: { tenant } });
  } catch (error) {
    announce(`Not switched. ${/** @type {any} */ (error).message}`);
    return start(); // the choice shows the tenant in force
  }
  location.assign(`${BASE}/`);
}

async function signOut() {
  try {
    await call("DELETE", "/console/session", {});
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 401)) return announce(`Not signed out. ${/** @type {any} */ (error).message}`);
  }
  location.assign(`${BASE}/`);
}

/** @param {string} to */
function go(to) {
  if (to !== location.pathname + location.search) history.pushState(null, "", to);
  void show();
}

/** Changes the query of this page; an empty value removes its entry. @param {import("./core.js").Row} change */
function refine(change) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(change))
    if (value === "" || value === null || value === undefined) query.delete(name);
    else query.set(name, String(value));
  go(location.pathname + (query.size ? `?${query}` : ""));
}

/** Refreshes the page while it is seen and nothing in it is open, focused by keyboard or selected. @param {number} seconds @param {AbortSignal} signal */
function refreshEvery(seconds, signal) {
  const timer = setInterval(() => {
    const busy = document.querySelector("dialog[open], main details[open], main :focus-visible:not(h1)") || getSelection()?.isCollapsed === false;
    if (!document.hidden && !busy && !main.hasAttribute("aria-busy")) void show();
  }, Math.max(seconds, MIN_REFRESH_S) * 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
}

async function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving;
  if (location.pathname.replace(/\/$/, "") === BASE && !routeOf("/")) history.replaceState(null, "", `${BASE}/usage`);
  const path = location.pathname;
  const inside = path.slice(BASE.length);
  const route = routeOf(inside);
  const isNew = path !== shownPath;
  /** @type {Context} */
  const context = {
    session, path, signal, go, refine, reload: () => void show(),
    params: route ? (route[0].exec(inside) ?? []).slice(1).map(decodeURIComponent) : [],
    query: new URLSearchParams(location.search),
    every: (seconds) => refreshEvery(seconds, signal),
  };
  const busy = setTimeout(() => main.setAttribute("aria-busy", "true"), isNew ? 0 : BUSY_AFTER_MS);
  let page;
  try {
    if (!route) page = missing();
    else page = await (await import(`./${route[1]}.js`)).default(context);
  } catch (error) {
    if (signal.aborted) return;
    page = [h("h1", { tabindex: "-1" }, route?.[2] ?? "Console"), problem(error, () => void show())];
  } finally {
    clearTimeout(busy);
  }
  if (signal.aborted) return;
  main.removeAttribute("aria-busy");
  const focused = main.contains(document.activeElement) ? /** @type {any} */ (document.activeElement) : null;
  const at = focused?.selectionStart ?? null;
  replace(main, page);
  document.title = `${main.querySelector("h1")?.textContent ?? "Console"} · ${session.organisation || "imagegate"}`;
  for (const each of document.querySelectorAll("#nav a")) {
    const isCurrent = route && each.getAttribute("href") === BASE + LINKS[route[3]];
    if (isCurrent) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  if (isNew) {
    if (shownPath) main.querySelector("h1")?.focus();
    scrollTo(0, 0);
  } else if (focused) {
    const again = /** @type {any} */ (document.getElementById(focused.id) ?? main.querySelector("h1"));
    again?.focus({ preventScroll: true });
    if (at !== null) again?.setSelectionRange?.(at, at);
  }
  shownPath = path;
}

const missing = () => [h("h1", { tabindex: "-1" }, "There is no such page"),
  h("p", null, "The address is wrong, or your role does not include it. ", h("a", { href: `${BASE}/` }, "Open the overview"), ".")];

/** @param {MouseEvent} event */
function follow(event) {
  const anchor = /** @type {any} */ (event.target)?.closest?.("a[href]");
  if (!anchor || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const inside = anchor.origin === location.origin && anchor.pathname.startsWith(`${BASE}/`) && !anchor.hasAttribute("download") && !anchor.target;
  if (!inside || anchor.pathname.startsWith(`${BASE}/oidc/`) || anchor.getAttribute("href").startsWith("#")) return;
  event.preventDefault();
  go(anchor.pathname + anchor.search);
}

/** @param {string} [notice] */
async function start(notice) {
  try {
    session = await call("GET", "/console/session");
    if (notice && session.signed_in) return; // the page shows the refusal; to begin anew would repeat it for ever
    shownPath = "";
  } catch (error) {
    leaving.abort();
    return replace(document.body, h("div", { class: "alone" }, h("h1", null, "The console cannot start"), problem(error, () => void start())));
  }
  if (session.signed_in && location.pathname !== `${BASE}/link`) {
    replace(document.body, shell());
    return show();
  }
  leaving.abort();
  const { default: signIn } = await import("./signin.js");
  replace(document.body, signIn(session, notice, () => {
    if (location.pathname === `${BASE}/link`) history.replaceState(null, "", `${BASE}/`);
    void start();
  }));
  document.title = `Sign in · ${session.organisation || "imagegate"}`;
  /** @type {any} */ (document.querySelector("[data-first]"))?.focus();
}

setTheme(storedTheme());
document.addEventListener("click", follow);
document.addEventListener("announce", (event) => announce(/** @type {CustomEvent} */ (event).detail));
document.addEventListener("session-over", () => session.signed_in && void start("The session has ended. Sign in again to return to this page."));
addEventListener("popstate", () => session.signed_in && void show());
void start();
