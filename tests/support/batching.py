"""Batches of a gateway, as a client makes and reads them."""

import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import openai
from openai.types import Batch

from tests.support.harness import wait_until

ENDPOINT: Final = "/v1/images/generations"
FINAL: Final = frozenset({"completed", "failed", "expired", "cancelled"})


def line(custom_id: str, prompt: str = "a cat", url: str = ENDPOINT, **body: object) -> dict[str, object]:
    body = {"model": "image-01", "prompt": prompt, "response_format": "url"} | body
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}


def upload(client: openai.OpenAI, lines: Sequence[object]) -> str:
    """Uploads lines, each an object or a text; returns the file's ID."""
    texts = [text if isinstance(text, str) else json.dumps(text) for text in lines]
    return client.files.create(file=("b.jsonl", io.BytesIO("\n".join(texts).encode())), purpose="batch").id


def begin(client: openai.OpenAI, lines: Sequence[object], endpoint: Any = ENDPOINT, **fields: Any) -> Batch:
    file_id = upload(client, lines)
    return client.batches.create(input_file_id=file_id, endpoint=endpoint, completion_window="24h", **fields)


def wait(client: openai.OpenAI, batch: Batch, *statuses: str, timeout_s: float = 60.0) -> Batch:
    """Returns the batch once it has one of the statuses, by default a final one."""
    found = batch

    def is_there() -> bool:
        nonlocal found
        time.sleep(0.05)
        found = client.batches.retrieve(batch.id)
        return found.status in (statuses or FINAL)

    wait_until(is_there, f"batch {batch.id} is {statuses or 'final'}", timeout_s)
    return found


def read(client: openai.OpenAI, file_id: str | None) -> Mapping[str, dict[str, Any]]:
    """Returns the lines of an output or error file by their custom ID; each is there once."""
    if file_id is None:
        return {}
    lines = [json.loads(text) for text in client.files.content(file_id).content.splitlines()]
    found = {entry["custom_id"]: entry for entry in lines}
    assert len(lines) == len(found)
    return found
