// @ts-check
/** Code for a request: curl, Python and Node. URL and key are the variables that OpenAI's SDKs read: the console may be served on another port. */

/** @typedef {Record<string, any>} Row */

/** @param {string} text */
const inShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Writes a value as Python. @param {any} value */
const python = (value) => (value === true ? "True" : value === false ? "False" : value === null ? "None" : JSON.stringify(value));

const SDK = new Set(["prompt", "model", "n", "size", "response_format", "output_format", "background", "quality", "user"]);

/** Splits the fields into those that OpenAI's SDKs know and others. @param {Row} body */
function split(body) {
  const entries = Object.entries(body);
  return [entries.filter(([name]) => SDK.has(name)), entries.filter(([name]) => !SDK.has(name))];
}

/** @param {Row} body @param {string | null} file name of the picture to edit */
export function curl(body, file) {
  const head = `curl "$OPENAI_BASE_URL/images/${file ? "edits" : "generations"}" \\\n  -H "authorization: Bearer $OPENAI_API_KEY"`;
  if (file) return [head, `  -F ${inShell(`image=@${file}`)}`, ...Object.entries(body).map(([name, value]) => `  --form-string ${inShell(`${name}=${value}`)}`)].join(" \\\n");
  return `${head} \\\n  -H "content-type: application/json" \\\n  -d ${inShell(JSON.stringify(body))}`;
}

/** @param {Row} body @param {string | null} file */
export function pythonCode(body, file) {
  const [known, other] = split(body);
  const lines = known.map(([name, value]) => `    ${name}=${python(value)},`);
  if (file) lines.unshift(`    image=open(${python(file)}, "rb"),`);
  if (other.length) lines.push(`    extra_body={${other.map(([name, value]) => `${python(name)}: ${python(value)}`).join(", ")}},`);
  return `from openai import OpenAI\n\nclient = OpenAI()\nresult = client.images.${file ? "edit" : "generate"}(\n${lines.join("\n")}\n)\nprint(result.data[0])\n`;
}

/** @param {Row} body @param {string | null} file */
export function node(body, file) {
  const lines = Object.entries(body).map(([name, value]) => `  ${name}: ${JSON.stringify(value)},`);
  if (file) lines.unshift(`  image: fs.createReadStream(${JSON.stringify(file)}),`);
  return `${file ? 'import fs from "node:fs";\n' : ""}import OpenAI from "openai";\n\nconst client = new OpenAI();\nconst result = await client.images.${file ? "edit" : "generate"}({\n${lines.join("\n")}\n});\nconsole.log(result.data[0]);\n`;
}
