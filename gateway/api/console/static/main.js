// @ts-check
/** The page of a console without its pages: it says who is signed in. */
const response = await fetch("/console/session");
const session = await response.json();
const app = document.getElementById("app");
if (app) app.textContent = session.signed_in ? `${session.label} (${session.role})` : "Not signed in";
