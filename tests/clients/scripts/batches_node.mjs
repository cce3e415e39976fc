// openai 7: a batch of images, as OpenAI's guide creates, polls and reads it.
import { perform } from "./acts.mjs";

const { default: OpenAI, toFile } = await import(process.argv[2]);
const client = new OpenAI();
const url = "/v1/images/generations";
const line = (custom_id, body) => JSON.stringify({ custom_id, method: "POST", url, body });
const made = [];

async function create(...lines) {
  const file = await client.files.create({ file: await toFile(Buffer.from(lines.join("\n")), "b.jsonl"), purpose: "batch" });
  made.push(await client.batches.create({ input_file_id: file.id, endpoint: url, completion_window: "24h" }));
}

async function end() {
  let batch = made.at(-1);
  while (!["completed", "failed", "expired", "cancelled"].includes(batch.status)) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

await perform({
  create: async () => {
    await create(line("a", { prompt: "a cat", response_format: "url" }), line("b", { prompt: "a cat", size: "1x1" }));
    const { object, status, completion_window, expires_at, created_at } = made[0];
    return `${object} ${status} ${completion_window} ${expires_at - created_at}`;
  },
  poll: async () => {
    const { status, request_counts: counts } = await end();
    return `${status} ${counts.total} ${counts.completed} ${counts.failed}`;
  },
  read: async () => {
    const { output_file_id, error_file_id } = await end();
    const [output, errors] = await Promise.all(
      [output_file_id, error_file_id].map(async (id) => JSON.parse(await (await client.files.content(id)).text())),
    );
    const image = await fetch(output.response.body.data[0].url);
    return `${output.custom_id} ${image.headers.get("content-type")} ${errors.custom_id} ${errors.response.status_code}`;
  },
  cancel: async () => {
    await create(line("a", { prompt: "[delay=2] a cat" }));
    await client.batches.cancel(made.at(-1).id);
    return (await end()).status;
  },
  invalid: async () => {
    await create("no JSON");
    return (await end()).errors.data[0].code;
  },
  pages: async () => {
    const found = [];
    for await (const batch of client.batches.list({ limit: 1 })) found.push(batch.id);
    return String(found.join() === made.map((batch) => batch.id).reverse().join());
  },
});
