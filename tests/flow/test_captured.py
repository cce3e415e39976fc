"""What clients send gives the provider the same bytes, and what it replies gives clients the same responses, as ever.

The files beside the cases hold both. `IMAGEGATE_CAPTURE=1` rewrites them: read the difference before it is committed.
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flow.captured.provider import Provider
from tests.flow.captured.replies import replies
from tests.flow.captured.requests import ALIASES, NATIVE, OPENAI, client_requests
from tests.support.harness import Gateway, document, gatewaying, serving, upstream

FOLDER = Path(__file__).parent / "captured"
PASSED_ON = ("exact_sizes", "base64_response", "seed", "aigc_watermark", "style", "subject_reference")
HEADERS = (
    *("content-type", "x-should-retry", "x-imagegate-attempts", "x-imagegate-ignored", "x-imagegate-missing"),
    *("x-imagegate-size", "x-imagegate-prompt"),
)
Entry = dict[str, Any]
COMMON_HEADERS = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "authorization": "Bearer captured",
    "content-type": "application/json",
    "user-agent": "imagegate",
}


def compare(name: str, entries: Iterable[Entry]) -> None:
    """Compares entries with the file of that name, or rewrites it; equal responses are stored once."""
    responses: dict[str, object] = {}
    lines = []
    for entry in entries:
        text = json.dumps(entry.pop("response"), ensure_ascii=False)
        entry["response"] = hashlib.sha256(text.encode()).hexdigest()[:8]
        responses[entry["response"]] = json.loads(text)
        lines.append(json.dumps(entry, ensure_ascii=False))
    lines += (json.dumps({digest: response}, ensure_ascii=False) for digest, response in sorted(responses.items()))
    path = FOLDER / f"{name}.jsonl"
    if os.environ.get("IMAGEGATE_CAPTURE"):
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    expected = path.read_text("utf-8").splitlines()

    assert [] == list(difflib.unified_diff(expected, lines, n=0, lineterm=""))


def response_of(answer: httpx.Response, url: str) -> list[object]:
    """Status, body and headers, without what differs from run to run."""
    body = re.sub(r'"(created|created_at)":\d+', r'"\1":0', answer.text.replace(url, "http://upstream"))
    headers = {name: answer.headers[name] for name in HEADERS if name in answer.headers}
    return [answer.status_code, body, headers | {"retry-after": "retry-after" in answer.headers}]


def described(stack: ExitStack, redis_url: str, upstreams: list[Entry], models: list[Entry]) -> Gateway:
    configured = document(redis_url, *upstreams)
    configured["models"] = [{"price_per_image_usd": "0.0035", **model} for model in models]
    return stack.enter_context(gatewaying(configured))


def place(name: str, provider: str, url: str, **fields: object) -> Entry:
    """An upstream at its own path of the provider; `fields` replace its settings."""
    made = upstream(name, provider, f"{url}/{name}", "main:captured", hosts=(url,))
    return made | fields


def test_requests_give_the_provider_the_captured_bytes(redis_url: str, stack: ExitStack) -> None:
    provider = Provider()
    url = stack.enter_context(serving(provider.app))
    passing = {"capabilities": {"max_images_per_call": 9, **dict.fromkeys(PASSED_ON, True)}}
    upstreams = [
        place("minimax", "minimax", url),
        place("302ai", "302ai", url),
        place("passing", "302ai", url, **passing),
    ]
    targets = {
        "direct": [("minimax", "image-01")],
        "live": [("minimax", "image-01-live")],
        "reseller": [("302ai", "minimaxi-image-01")],
        "passing": [("passing", "minimaxi-image-01")],
        "both": [("minimax", "image-01-live"), ("302ai", "minimaxi-image-01")],
    }
    models: list[Entry] = [
        {
            "id": model,
            "aliases": [ALIASES[model]] if model in ALIASES else [],
            "targets": [{"upstream": name, "model": spelled} for name, spelled in where],
        }
        for model, where in targets.items()
    ]
    gateway = described(stack, redis_url, upstreams, models)

    def captured() -> Iterator[Entry]:
        for route, body in client_requests():
            answer = gateway.post(route, body)
            calls = [[name, *call] for name in ("minimax", "302ai", "passing") for call in provider.take_calls(name)]
            headers = [call.pop() for call in calls]
            assert all(one == COMMON_HEADERS for one in headers)
            yield {"route": route, "request": body, "calls": calls, "response": response_of(answer, url)}

    compare("requests", captured())


@pytest.mark.slow
def test_replies_give_clients_the_captured_responses(redis_url: str, stack: ExitStack) -> None:
    """Each reply comes from an upstream of its own, so that no cooldown of another hinders it."""
    provider, cases = Provider(), [(route, *case) for case in replies() for route in (OPENAI, NATIVE[0])]
    url = stack.enter_context(serving(provider.app))
    upstreams, models = [], []
    for index, (_, spoken, reply) in enumerate(cases):
        name = f"case-{index}"
        provider.scripts[name] = reply
        upstreams.append(place(name, spoken, url, max_wait_s=0, capabilities={"max_images_per_call": 2}))
        models.append({"id": name, "targets": [{"upstream": name, "model": "image-01"}]})
    gateway = described(stack, redis_url, upstreams, models)

    def capture(index: int) -> Entry:
        route, spoken, reply = cases[index]
        form = "b64_json" if route == OPENAI else "base64"
        body = {"model": f"case-{index}", "prompt": "a cat", "n": 2, "response_format": form}
        answer = gateway.post(route, body)
        calls = len(provider.take_calls(f"case-{index}"))
        return {
            "route": route,
            "provider": spoken,
            "reply": reply.name,
            "calls": calls,
            "response": response_of(answer, url),
        }

    with ThreadPoolExecutor(8) as executor:
        compare("replies", executor.map(capture, range(len(cases))))
