// AI SDK 5 to 7 with its two providers of OpenAI's format.
import { readFileSync } from "node:fs";
import { key, perform, portrait, url } from "./acts.mjs";

const major = Number(process.argv[2]);
const ai = await import(`ai-${major}`);
const generateImage = ai.generateImage ?? ai.experimental_generateImage;
const { createOpenAI } = await import(`ai-${major}-openai`);
const { createOpenAICompatible } = await import(`ai-${major}-openai-compatible`);
const openai = createOpenAI({ baseURL: url, apiKey: key });
const compatible = createOpenAICompatible({ name: "imagegate", baseURL: url, apiKey: key });
const picture = async (options) => (await generateImage(options)).images.map((image) => image.uint8Array);
const gpt = openai.image("gpt-image-1");

const acts = {
  generate: () => picture({ model: gpt, prompt: "a lighthouse", size: "1024x1024" }),
  native: () => picture({ model: openai.image("image-01"), prompt: "a harbour", size: "1280x720" }),
  two: () => picture({ model: openai.image("dall-e-3"), prompt: "two boats", n: 2 }),
  png: () => picture({ model: gpt, prompt: "a door", providerOptions: { openai: { outputFormat: "png" } } }),
  compatible: () => picture({ model: compatible.imageModel("image-01"), prompt: "a bridge", size: "1024x1024" }),
  "compatible dall-e": () => picture({ model: compatible.imageModel("dall-e-3"), prompt: "a tower" }),
  "wrong key": () =>
    picture({ model: createOpenAI({ baseURL: url, apiKey: "sk-wrong" }).image("gpt-image-1"), prompt: "a thief" }),
  moderation: () => picture({ model: gpt, prompt: "[code=1026]" }),
  // A broken answer: the SDK asks three times, whatever x-should-retry says.
  cut: () => picture({ model: gpt, prompt: "[cut] a rope" }),
};
if (major > 5) {
  const images = [readFileSync(portrait)];
  acts.edit = () => picture({ model: gpt, prompt: { text: "in a garden", images } });
  acts["compatible edit"] = () =>
    picture({ model: compatible.imageModel("gpt-image-1"), prompt: { text: "by the sea", images } });
}
await perform(acts);
