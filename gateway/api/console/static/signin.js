// @ts-check
/** The sign-in page: identity provider, one-time link, admin key or a tenant's key. */
import { call, h, svg } from "./core.js";
import { form } from "./ui.js";

/** @param {import("./core.js").Session} session @param {string | undefined} notice @param {() => void} done */
export default function signIn(session, notice, done) {
  const token = location.pathname === "/console/link" ? location.hash.slice(1) : "";
  const ways = session.sign_in ?? {};
  if (token) history.replaceState(null, "", location.pathname); // the link stays in no history
  return h("main", { class: "alone" },
    svg("svg", { viewBox: "0 0 32 32", "aria-hidden": "true", class: "logo" }, svg("rect", { width: 32, height: 32, rx: 8 }), svg("path", { d: "M9 24V13a7 7 0 0 1 14 0v11M16 24v-9" })),
    h("h1", { tabindex: "-1" }, `Sign in to ${session.organisation || "imagegate"}`),
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
    ways.oidc && h("p", { class: "buttons" }, h("a", { class: "button primary", href: ways.oidc.url }, ways.oidc.label || "Sign in with your organisation")),
    ways.oidc && keys && h("p", { class: "or" }, "or"),
    keys,
    h("p", { class: "note" }, "No account? An administrator creates a one-time link: ", h("code", null, "imagegate console invite NAME"), "."),
  ];
}
