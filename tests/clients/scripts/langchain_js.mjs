// LangChain's DallEAPIWrapper, which reads the link.
import { DallEAPIWrapper } from "@langchain/openai";
import { key, perform, url } from "./acts.mjs";

const draw = (prompt, options = {}) =>
  new DallEAPIWrapper({ model: "dall-e-3", apiKey: key, baseUrl: url, ...options }).invoke(prompt);

await perform({
  generate: () => draw("a lighthouse"),
  native: () => draw("a harbour", { model: "image-01" }),
  "wrong key": () => draw("a thief", { apiKey: "sk-wrong" }),
  moderation: () => draw("[code=1026]"),
});
