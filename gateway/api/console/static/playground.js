// @ts-check
/** The playground: a request with its cost before, its wait, its pictures, its cost after, and the code for it. */
import { duration, empty, get, h, heading, href, int, link, plural, problem, replace, request, section, usd } from "./core.js";
import { control, copyable, facts, valuesOf } from "./ui.js";
import { curl, node, pythonCode } from "./snippets.js";

/** @typedef {import("./core.js").Row} Row */
/** @typedef {import("./core.js").Context} Context */
const TIMEOUT_S = 600;
const FIRST_LOOK_MS = 1000;
const LOOK_MS = 5000;
const FORMATS = { "": "The model's own", png: "PNG", jpeg: "JPEG", webp: "WebP" };
const LANGUAGES = /** @type {Record<string, (body: Row, file: string | null) => string>} */ ({ curl, Python: pythonCode, Node: node });

/** @type {HTMLElement[]} What was made in this tab; nothing of it is stored. */
const history = [];

/** @param {Context} context */
export default async function playground(context) {
  const { session, signal, query } = context;
  const tenant = session.tenant ?? query.get("tenant");
  const [models, tenants] = await Promise.all([
    session.tenant || tenant ? get("/console/models", session.tenant ? undefined : { tenant }, signal) : { data: [] },
    session.tenant ? { data: [] } : get("/admin/v1/tenants", { limit: 1000 }, signal),
  ]);
  const head = heading("Playground", null, "Makes real images. They are charged to the tenant through its key console, within its limits. Nothing is kept after you close the tab.");
  const chooser = !session.tenant && h("div", { class: "filters" }, h("label", { class: "filter" }, "Tenant that pays", h("select", { id: "tenant", value: tenant ?? "", onchange: (/** @type {any} */ event) => context.refine({ tenant: event.target.value }) },
    h("option", { value: "" }, "Choose a tenant"), tenants.data.map((/** @type {Row} */ each) => h("option", { value: each.name }, each.name)))));
  if (!tenant) return [head, chooser, empty("Choose the tenant that pays for the images.")];
  if (!models.data.length) return [head, chooser, empty("The tenant may use no model.", "imagegate tenant update NAME --model ID")];
  return [head, chooser, bench(context, models.data, session.tenant ? null : tenant)];
}

/** @param {Context} context @param {Row[]} models @param {string | null} tenant */
function bench(context, models, tenant) {
  const results = h("div", { class: "results" }, h("div", { class: "stage" }, h("p", null, "The images appear here.")));
  const about = h("p", { class: "note" });
  const sizes = h("datalist", { id: "sizes" });
  const code = h("div", null);
  const button = h("button", { type: "submit", class: "primary" }, "Make images");
  /** @type {{name: string, url: string} | null} */
  let picture = null;
  let language = "curl";
  const element = h("form", { novalidate: true, oninput: () => update(), async onsubmit(/** @type {Event} */ event) {
    event.preventDefault();
    if (button.disabled || !element.reportValidity()) return;
    button.disabled = true;
    await run(context, results, bodyOf(valuesOf(element)), picture, tenant);
    button.disabled = false;
  } },
  [{ name: "prompt", label: "Prompt", rows: 5, required: true, value: context.query.get("prompt") ?? "" },
    { name: "model", label: "Model", choices: Object.fromEntries(models.map((model) => [model.id, model.id])), value: context.query.get("model") ?? models[0]?.id }].map(control), about,
  h("div", { class: "grid" }, [
    { name: "n", label: "Images", type: "number", min: 1, max: 10, value: 1 }, { name: "size", label: "Size", placeholder: "1024x1024", pattern: "auto|\\d+x\\d+", list: "sizes" },
    { name: "output_format", label: "Format", choices: FORMATS }, { name: "seed", label: "Seed", inputmode: "numeric", pattern: "-?\\d+", placeholder: "random" }].map(control)), sizes,
  control({ name: "picture", label: "Picture to edit", type: "file", help: "Optional. Choose none to make a new image." }),
  h("div", { class: "buttons" }, button));
  const file = /** @type {any} */ (element.elements.namedItem("picture"));
  file.removeAttribute("required");
  file.accept = "image/png,image/jpeg,image/webp";
  file.addEventListener("change", async () => {
    const chosen = file.files[0];
    picture = chosen ? { name: chosen.name, url: await dataUrl(chosen) } : null;
    update();
  });
  const update = () => {
    const values = valuesOf(element);
    const model = models.find((each) => each.id === values.model) ?? {};
    replace(about, aboutModel(model, Number(values.n) || 1));
    replace(sizes, [...new Set(String(model.capabilities?.sizes ?? "").match(/\d+x\d+/g) ?? [])].map((value) => h("option", { value })));
    replace(code, section("Code for this request", copyable(LANGUAGES[language]?.(bodyOf(values), picture?.name ?? null) ?? "", `Code in ${language}`),
      h("div", { class: "actions" }, Object.keys(LANGUAGES).map((name) => h("button", { type: "button", id: `code-${name}`, "aria-pressed": String(name === language), class: name === language ? "" : "plain", onclick() {
        language = name;
        update();
        document.getElementById(`code-${name}`)?.focus();
      } }, name)))));
  };
  update();
  return h("div", { class: "split" }, element, h("div", { class: "results" }, results, code, history.length > 0 && section("Earlier in this tab", history)));
}

/** Says what a model can make and what the request costs at most. @param {Row} model @param {number} n */
function aboutModel(model, n) {
  const { capabilities = {}, price_per_image_usd: price } = model;
  const micros = price === undefined || price === null ? null : Math.round(Number(price) * 1e6) * n; // a forecast, not a bill
  const sizes = Array.isArray(capabilities.sizes) ? capabilities.sizes.join("; ") : capabilities.sizes;
  return [micros !== null && h("strong", null, `At most ${usd((micros / 1e6).toFixed(6).replace(/0{1,4}$/, ""))} for ${plural(n, "image")}. `),
    [sizes && `Sizes: ${sizes}.`, capabilities.prompt_max_chars > 0 && `Prompts of up to ${plural(capabilities.prompt_max_chars, "character")}.`,
      capabilities.edits === undefined ? null : capabilities.edits ? "It edits pictures." : "It does not edit pictures."].filter(Boolean).join(" ")];
}

/** Returns the body of a request; empty fields are left out. @param {Row} values @returns {Row} */
function bodyOf({ prompt, model, n, size, output_format: format, seed }) {
  return { prompt, model, n: Number(n) || 1, ...(size && { size }), ...(format && { output_format: format }), ...(seed !== "" && { seed: Number(seed) }) };
}

/** @param {Blob} blob @returns {Promise<string>} */
const dataUrl = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(String(reader.result));
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});

/** @param {Context} context @param {HTMLElement} place @param {Row} body @param {{url: string} | null} picture @param {string | null} tenant */
async function run(context, place, body, picture, tenant) {
  const id = crypto.randomUUID();
  const line = h("p", { role: "status" }, "Sent.");
  replace(place, h("div", { class: "stage" }, h("progress", { "aria-label": "The request runs" }), line));
  const began = performance.now();
  const stop = followQueue(context, line, id, tenant);
  try {
    const response = await request("POST", `/console/images/${picture ? "edits" : "generations"}`, {
      query: { tenant }, headers: { "x-request-id": id }, timeout_s: TIMEOUT_S, signal: context.signal,
      body: { ...body, response_format: "b64_json", ...(picture && { images: [{ image_url: picture.url }] }) },
    });
    const shown = outcome(response.headers, await response.json(), body, performance.now() - began);
    replace(place, shown);
    history.unshift(h("details", null, h("summary", null, `${body.model}: ${body.prompt.slice(0, 80)}`), shown.cloneNode(true)));
    history.length = Math.min(history.length, 20);
  } catch (error) {
    if (!context.signal.aborted) replace(place, problem(error), h("p", null, link(`/console/requests/${id}`, "What happened to this request")));
  } finally {
    stop();
  }
}

/** Says in `line` at which place of the queue the request waits. Returns: what ends that.
 * @param {Context} context @param {HTMLElement} line @param {string} id @param {string | null} tenant */
function followQueue(context, line, id, tenant) {
  const over = new AbortController();
  const signal = AbortSignal.any([context.signal, over.signal]);
  const ask = async () => {
    if (document.hidden || signal.aborted) return;
    const seen = await get(`/console/images/waiting/${id}`, { tenant }, signal).catch(() => null); // only the line depends on it
    const text = waitingText(seen);
    if (text && line.textContent !== text) line.textContent = text;
  };
  const timers = [setTimeout(ask, FIRST_LOOK_MS), setInterval(ask, LOOK_MS)];
  signal.addEventListener("abort", () => timers.forEach(clearTimeout));
  return () => over.abort();
}

/** @param {Row | null} seen */
export function waitingText(seen) {
  if (!seen) return "";
  if (!seen.waiting) return "The provider makes the images.";
  const forecast = seen.forecast_s === null ? "When it is sent cannot be forecast." : seen.forecast_s < 1 ? "It is sent within a second." : `It is sent in about ${duration(seen.forecast_s * 1000)}.`;
  return `In the queue at place ${int(seen.place)}. ${forecast}`;
}

const TYPES = /** @type {Record<string, string>} */ ({ png: "image/png", jpeg: "image/jpeg", webp: "image/webp", gif: "image/gif" });

/** @param {Headers} headers @param {Row} answer @param {Row} body @param {number} took */
function outcome(headers, answer, body, took) {
  const name = answer.output_format ?? body.output_format ?? "jpeg";
  const images = answer.data.map((/** @type {Row} */ image, /** @type {number} */ index) => {
    const url = image.b64_json ? URL.createObjectURL(new Blob([Uint8Array.from(atob(image.b64_json), (letter) => letter.charCodeAt(0))], { type: TYPES[name] ?? "image/png" })) : image.url;
    return h("figure", null, h("img", { src: url, alt: body.prompt }), h("figcaption", null, h("a", { href: url, download: `image-${index + 1}.${name}` }, "Download"), image.revised_prompt && ` Prompt used: ${image.revised_prompt}`));
  });
  const id = headers.get("x-request-id") ?? "";
  return h("div", { class: "results" }, h("div", { class: "pictures" }, images), facts([
    ["Charged", usd(headers.get("x-imagegate-cost-usd"))], ["Time", `${duration(took)}, of which ${duration(Number(headers.get("x-imagegate-queue-ms") ?? 0))} in the queue`],
    ["Size", headers.get("x-imagegate-size") ?? answer.size ?? "as requested"], ["Ignored", headers.get("x-imagegate-ignored") ?? "nothing"],
    ...(headers.get("x-imagegate-missing") ? [/** @type {[string, any]} */ (["Missing", plural(Number(headers.get("x-imagegate-missing")), "image")])] : []),
    ...(headers.get("x-imagegate-warning") ? [/** @type {[string, any]} */ (["Warning", headers.get("x-imagegate-warning")])] : []),
    ["Request", link(href(`/console/requests/${id}`), h("code", null, id))]]));
}
