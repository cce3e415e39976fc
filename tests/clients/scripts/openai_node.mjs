// openai 4 to 7: the snippets of OpenAI's guide.
import { createReadStream } from "node:fs";
import { perform, portrait } from "./acts.mjs";

const { default: OpenAI } = await import(process.argv[2]);
const client = new OpenAI();
const first = (answer) => answer.data[0].b64_json;
const model = "gpt-image-1";
let requestId;

await perform({
  generate: async () => {
    const answer = await client.images.generate({ model, prompt: "a lighthouse" });
    requestId = answer._request_id;
    return first(answer);
  },
  "request id": () => requestId.slice(0, 4),
  link: async () => (await client.images.generate({ model: "dall-e-3", prompt: "a lighthouse at dawn" })).data[0].url,
  png: async () => first(await client.images.generate({ model, prompt: "a door", output_format: "png" })),
  webp: async () => first(await client.images.generate({ model, prompt: "a key", output_format: "webp" })),
  stream: async () => {
    const pictures = [];
    for await (const event of await client.images.generate({ model, prompt: "a stream", stream: true }))
      if (event.type === "image_generation.completed") pictures.push(event.b64_json);
    return pictures;
  },
  edit: async () =>
    first(await client.images.edit({ model, image: createReadStream(portrait), prompt: "in a garden" })),
  "edit of a list": async () =>
    first(await client.images.edit({ model, image: [createReadStream(portrait)], prompt: "by the sea" })),
  models: async () => {
    const names = [];
    for await (const found of client.models.list()) if (found.id.startsWith("dall-e")) names.push(found.id);
    return names.join(", ");
  },
  "wrong key": async () =>
    first(await new OpenAI({ apiKey: "sk-wrong" }).images.generate({ model, prompt: "a thief" })),
  moderation: async () => first(await client.images.generate({ model, prompt: "[code=1026]" })),
  "short timeout": async () =>
    first(await new OpenAI({ timeout: 2000 }).images.generate({ model, prompt: "[delay=4] a snail" })),
});
