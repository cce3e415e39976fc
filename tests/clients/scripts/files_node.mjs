// openai 7: files of batches, as OpenAI's guide uploads and reads them.
import { createReadStream, writeFileSync } from "node:fs";
import { join } from "node:path";
import { perform } from "./acts.mjs";

const { default: OpenAI, toFile } = await import(process.argv[2]);
const client = new OpenAI();
const lines = '{"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": {"prompt": "a cat"}}\n';
const path = join(process.env.FOLDER, "batchinput.jsonl");
const made = [];

await perform({
  create: async () => {
    writeFileSync(path, lines);
    made.push(await client.files.create({ file: createReadStream(path), purpose: "batch" }));
    const { filename, bytes, purpose, expires_at, created_at } = made[0];
    return `${filename} ${bytes} ${purpose} ${expires_at - created_at}`;
  },
  "create from memory": async () => {
    const file = await toFile(Buffer.from(lines), "memory.jsonl");
    const expires_after = { anchor: "created_at", seconds: 3600 };
    made.push(await client.files.create({ file, purpose: "batch", expires_after }));
    return `${made[1].filename} ${made[1].expires_at - made[1].created_at}`;
  },
  wait: async () => (await client.files.waitForProcessing(made[0].id)).status,
  pages: async () => {
    const found = [];
    for await (const file of client.files.list({ limit: 1 })) found.push(file.id);
    return String(found.join() === made.map((file) => file.id).reverse().join());
  },
  content: async () => String((await (await client.files.content(made[0].id)).text()) === lines),
  "other purpose": () => client.files.create({ file: createReadStream(path), purpose: "fine-tune" }),
  delete: async () => {
    const answers = [];
    for await (const file of client.files.list({ limit: 1 })) answers.push((await client.files.delete(file.id)).deleted);
    return String(answers.length === 2 && answers.every(Boolean));
  },
  deleted: () => client.files.retrieve(made[0].id),
});
