"""The official Node SDK against the whole program, where Node is installed."""

import shutil
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest

from tests.support.forms import PNG
from tests.support.harness import Gateway

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / ".cache" / "node"

SCRIPT = """
import OpenAI, { toFile } from "openai";
const [baseURL, apiKey, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const check = (what, ok) => { if (!ok) throw new Error(what); };

const plain = await client.images.generate({ model: "image-01", prompt: "a cat", n: 2, seed: 7 });
check("two images", plain.data.length === 2 && plain.data[0].b64_json.startsWith("/9j/"));
check("usage", plain.usage.input_tokens_details.text_tokens === 0);
check("request id", plain._request_id.startsWith("req_"));

const link = await client.images.generate({ model: "dall-e-3", prompt: "a cat" });
check("link", (await fetch(link.data[0].url)).headers.get("content-type") === "image/jpeg");

const types = [];
for await (const event of await client.images.generate({ model: "gpt-image-1", prompt: "a cat", n: 2, stream: true }))
  types.push(event.type);
check("events", types.join() === "image_generation.completed,image_generation.completed");

const file = () => toFile(Buffer.from(picture, "base64"), "face.png", { type: "image/png" });
const edit = { model: "gpt-image-1", image: await file(), prompt: "a cat", n: 2, stream: false };
check("two edits", (await client.images.edit(edit)).data.length === 2);
const edits = [];
for await (const event of await client.images.edit({ ...edit, image: [await file()], n: 1, stream: true }))
  edits.push(event.type);
check("events of an edit", edits.join() === "image_edit.completed");

try {
  await client.images.generate({ model: "gpt-image-1", prompt: "[code=1026]" });
  check("an error", false);
} catch (error) {
  check("its class", error instanceof OpenAI.BadRequestError);
  check("its code", error.code === "moderation_blocked" && error.error.moderation_details !== undefined);
}
check("models", (await client.models.list()).data.some((model) => model.id === "dall-e-3"));
console.log("node sdk ok");
"""


@pytest.fixture(scope="session")
def node_sdk() -> Path:
    """The SDK from npm, installed once."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("Node is not installed")
    if not (FOLDER / "node_modules" / "openai").is_dir():
        FOLDER.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund", "openai@^7"]
        subprocess.run(command, cwd=FOLDER, check=True, timeout=300)
    (FOLDER / "check.mjs").write_text(SCRIPT)
    return FOLDER


def test_node_generates_edits_streams_and_fails_as_its_users_expect(node_sdk: Path, gateway: Gateway) -> None:
    done = subprocess.run(
        ["node", "check.mjs", gateway.base_url, gateway.api_key, b64encode(PNG).decode()],
        cwd=node_sdk,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert "node sdk ok\n" == done.stdout, done.stderr
