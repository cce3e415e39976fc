// @ts-check
/** The sign-in page: identity provider, one-time link, admin key or a tenant's key. */
import { call, h, href, svg } from "./core.js";
import { form } from "./ui.js";

/** What the callback of the identity provider says in the address, as `?problem=NAME`. */
const PROBLEMS = /** @type {Record<string, string>} */ ({
  cookie: "A browser keeps no session for this address. Use https, or http://localhost on the machine itself.",
  state: "This sign-in took longer than 10 minutes, was used already, or began in another browser. Sign in again.",
  denied: "Your organisation's sign-in refused the request. Ask its administrator to assign you to this application.",
  code: "The answer of your organisation's sign-in was used already, or has expired. Sign in again.",
  token: "The answer of your organisation's sign-in is not valid. The gateway's log says why.",
  claim: "Your organisation's sign-in did not send your groups. Its administrator adds the claim to the ID token.",
  groups: "You are in too many groups for your organisation's sign-in to send them. Its administrator limits them to this application.",
  role: "None of your groups has a role here. Ask an administrator of the gateway for one.",
  tenant: "Your team does not exist here, or is disabled. Ask an administrator of the gateway.",
  provider: "Your organisation's sign-in does not respond as it should. Try again later, or sign in another way.",
  throttled: "Too many failed sign-ins from this address. Try again in a minute.",
  unavailable: "The gateway cannot open a session at the moment. Try again in a minute.",
});

/** @param {import("./core.js").Session} session @param {string | undefined} notice @param {() => void} done */
export default function signIn(session, notice, done) {
  const token = location.pathname === "/console/link" ? location.hash.slice(1) : "";
  const ways = session.sign_in ?? {};
  const query = new URLSearchParams(location.search);
  const refusal = query.get("problem");
  if (refusal) {
    query.delete("problem");
    history.replaceState(null, "", location.pathname + (query.size ? `?${query}` : "")); // a reload shows it no more
  }
  if (token) history.replaceState(null, "", location.pathname); // the link stays in no history
  return h("main", { class: "alone" },
    svg("svg", { viewBox: "0 0 32 32", "aria-hidden": "true", class: "logo" }, svg("rect", { width: 32, height: 32, rx: 8 }), svg("path", { d: "M9 24V13a7 7 0 0 1 14 0v11M16 24v-9" })),
    h("h1", { tabindex: "-1" }, `Sign in to ${session.organisation || "imagegate"}`),
    refusal && h("div", { class: "problem", role: "alert" }, h("strong", null, PROBLEMS[refusal] ?? "You are not signed in. Sign in again.")),
    notice && h("p", { class: "told", role: "status" }, notice),
    session.secure === false ? insecure() : token ? byLink(token, done) : byOthers(ways, done),
    session.version && h("p", { class: "note" }, `imagegate ${session.version}`));
}

const insecure = () => h("div", { class: "problem", role: "alert" }, h("strong", null, "A browser keeps no session for this address."),
  h("p", null, "Use https, or http://localhost on the machine itself: browsers refuse secure cookies on other http addresses."));

/** @param {string} token @param {() => void} done */
const byLink = (token, done) => form({
  intro: h("p", null, "This link signs you in once. It is then used up."), fields: [], action: "Sign in",
  submit: () => call("POST", "/console/session/link", { body: { token } }), done,
});

/** @param {any} ways @param {() => void} done */
function byOthers(ways, done) {
  const label = [ways.admin_key && "Admin key", ways.tenant_key && "API key"].filter(Boolean).join(" or ");
  const keys = label && form({
    fields: [{ name: "key", label, type: "password", required: true, autocomplete: "current-password",
      help: ways.tenant_key ? "An API key shows its tenant's usage and requests, and opens the playground. It is exchanged for a session and stored nowhere in the browser." : "The key is exchanged for a session and stored nowhere in the browser." }],
    action: "Sign in", submit: (/** @type {any} */ { key }) => call("POST", "/console/session", { body: { key } }), done,
  });
  keys && keys.querySelector("input")?.setAttribute("data-first", "");
  return [
    location.pathname === "/console/link" && h("p", { class: "told" }, "The address has no token. Open the whole link as it was printed, or sign in another way."),
    ways.oidc && h("p", { class: "buttons" }, h("a", { class: "button primary", href: href(ways.oidc.url, { to: location.pathname === "/console/link" ? "" : location.pathname + location.search }) }, ways.oidc.label || "Sign in with your organisation")),
    ways.oidc && keys && h("p", { class: "or" }, "or"),
    keys,
    h("p", { class: "note" }, "No account? An administrator creates a one-time link: ", h("code", null, "imagegate console invite NAME"), "."),
  ];
}
