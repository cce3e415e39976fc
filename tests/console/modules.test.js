// Tests of the console's pure functions; test_modules.py copies them beside the modules and runs node's test runner.
import assert from "node:assert/strict";
import { test } from "node:test";
import { flat } from "./audit.js";
import { ceiling, dollars, everyDay } from "./chart.js";
import { duration, href, relative, shell, usd, utc } from "./core.js";
import { limitFlags, limitsOf } from "./limits.js";
import { aroundDay, explain } from "./request.js";
import { waitingText } from "./playground.js";
import { curl, node, pythonCode } from "./snippets.js";
import { flags } from "./ui.js";
import { rangeOf } from "./usage.js";

test("money is written exactly, with at least two places", () => {
  assert.deepEqual(["$0.0035", "$1,234.50", "$7.00", "−$2.125", "–", "$90,071,992,547,409.930001"],
    ["0.0035", "1234.5", "7", "-2.125", null, "90071992547409.930001"].map(usd));
});

test("times are relative, and in UTC", () => {
  assert.deepEqual(["2 min ago", "in 1 h", "now", "3 d ago"], [880, 4700, 1001, 1000 - 3 * 86400].map((at) => relative(at, 1000)));
  assert.equal("2026-11-30 06:00:00 UTC", utc(Date.UTC(2026, 10, 30, 6) / 1000));
  assert.deepEqual(["250 ms", "9.5 s", "2 min 5 s", "1 h 1 min"], [250, 9500, 125000, 3660000].map(duration));
});

test("addresses leave out empty values and escape the others", () => {
  assert.equal("/console/keys", href("/console/keys", { q: "", view: null }));
  assert.equal("/console/keys?q=a%26b%3D1", href("/console/keys", { q: "a&b=1" }));
});

test("commands quote for a shell", () => {
  assert.equal("'it'\\''s $HOME'", shell("it's $HOME"));
  assert.equal(" --label 'a b' --usd-per-month none --lead --model a --model b", flags({ label: "a b", "usd-per-month": null, lead: true, days: "", model: ["a", "b"] }));
});

test("only limits that differ are sent, and an empty one is removed", () => {
  const empty = Object.fromEntries(["requests_per_minute", "images_per_minute", "concurrency", "images_per_day", "images_per_month", "usd_per_month", "soft_usd_per_month"].map((name) => [name, ""]));
  const body = limitsOf({ ...empty, concurrency: "4", usd_per_month: "50.25" }, { limits: { concurrency: 4, requests_per_minute: 60 }, quotas: {} });
  assert.deepEqual({ limits: { requests_per_minute: null }, quotas: { usd_per_month: "50.25" } }, body);
  assert.deepEqual({ "requests-per-minute": null, "usd-per-month": "50.25" }, limitFlags(body));
});

test("ranges are those of the API", () => {
  const now = new Date("2026-01-15T00:00:00Z");
  assert.deepEqual([{}, { month: "2025-12" }, { last: "7d" }], ["", "last_month", "7d"].map((range) => rangeOf(new URLSearchParams({ range }), now)));
});

test("code quotes what a person types", () => {
  const body = { prompt: "it's a \"cat\"\n$(id)", model: "image-01", n: 1, seed: 7 };
  assert.match(curl(body, null), /-d '\{"prompt":"it'\\''s a \\"cat\\"\\n\$\(id\)"/);
  assert.match(curl(body, "a b.png"), /-F 'image=@a b\.png' \\\n {2}--form-string 'prompt=it'\\''s/);
  assert.match(curl(body, null), /^curl "\$OPENAI_BASE_URL\/images\/generations"/);
  assert.match(pythonCode(body, null), /prompt="it's a \\"cat\\"\\n\$\(id\)",[\s\S]*extra_body=\{"seed": 7\}/);
  assert.match(node(body, null), /images\.generate\(\{\n {2}prompt: "it's a \\"cat\\"/);
});

test("a record is explained", () => {
  const record = { outcome: "delivered", asked: 3, delivered: 2, withheld: 1, lost: 0, unconfirmed: 0, usd: "0.007", price_per_image_usd: "0.0035", tenant: "acme", queue_ms: 0 };
  assert.deepEqual(["The provider made 2 images, and the client's response had them.", "1 image of the 3 requested did not come: 1 withheld, 0 lost, 0 unconfirmed.", "acme paid $0.007, at $0.0035 an image."], explain(record));
  assert.equal("acme paid $0.0123.", explain({ ...record, usd: "0.0123" }).at(-1));
});

test("scales and audit entries are flat", () => {
  assert.deepEqual([1, 40, 100, 6000], [0, 24.1, 100, 4100].map(ceiling));
  assert.deepEqual(["$0.01", "$0.0025", "$1,500"], [0.04 / 4, 0.01 / 4, 1500].map(dollars));
  assert.deepEqual({ "limits.concurrency": "3", models: "a, b", expires_at: "2026-11-30 06:00:00 UTC" },
    flat({ limits: { concurrency: 3 }, models: ["a", "b"], none: null, expires_at: Date.UTC(2026, 10, 30, 6) / 1000 }));
});

test("the line of a waiting request says its place and when it is sent", () => {
  const seen = { waiting: true, place: 1203, forecast_s: 125 };
  assert.deepEqual(["In the queue at place 1,203. It is sent in about 2 min 5 s.", "In the queue at place 1,203. When it is sent cannot be forecast.", "The provider makes the images.", ""],
    [seen, { ...seen, forecast_s: null }, { waiting: false, place: null, forecast_s: null }, null].map(waitingText));
});

test("a chart has a bar for each day of its range", () => {
  const data = [{ day: "2026-11-29", usd: "0.5" }];
  assert.deepEqual([["2026-11-28", "0"], ["2026-11-29", "0.5"], ["2026-11-30", "0"]], everyDay({ from: "2026-11-28", to: "2026-11-30", data }).map((row) => [row.day, row.usd]));
  assert.equal(data, everyDay({ from: "2025-01-01", to: "2026-11-30", data }));
});

test("a request is searched in the days around its own", () => {
  assert.deepEqual([{ from: "2026-02-27", to: "2026-03-01" }, { last: "30d" }], ["2026-02-28", "yesterday"].map(aroundDay));
});
