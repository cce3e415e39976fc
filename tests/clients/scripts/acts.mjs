// Performs the acts of a client program, and writes what came of each.
import { appendFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export const url = process.env.OPENAI_BASE_URL;
export const key = process.env.OPENAI_API_KEY;
const folder = process.env.FOLDER;
export const portrait = join(folder, "portrait.png");

// Each act returns pictures (bytes, base64, or links), a text, or nothing; an exception is an outcome, too.
export async function perform(acts) {
  for (const [name, act] of Object.entries(acts)) {
    const outcome = await outcomeOf(name, act);
    appendFileSync(join(folder, "outcomes"), JSON.stringify([name, outcome]) + "\n");
  }
}

async function outcomeOf(name, act) {
  let found;
  try {
    found = await act();
  } catch (error) {
    const kind = error.constructor.name === "Error" ? error.name : error.constructor.name;
    return typeof error.code === "string" ? `${kind} ${error.code}` : kind;
  }
  const pictures = Array.isArray(found) ? found : [found];
  if (pictures.length === 0) return "nothing";
  const paths = [];
  for (const [at, picture] of pictures.entries()) {
    if (!picture) return "nothing";
    if (typeof picture === "string" && picture.length < 200 && !picture.startsWith("http")) return picture;
    writeFileSync(join(folder, `${name}-${at}`), await contentOf(picture));
    paths.push(`${name}-${at}`);
  }
  return paths;
}

async function contentOf(picture) {
  if (typeof picture !== "string") return picture;
  if (picture.startsWith("http")) return new Uint8Array(await (await fetch(picture)).arrayBuffer());
  return Buffer.from(picture.slice(picture.indexOf(",") + 1), "base64");
}
