"""midjourney-proxy's API, as 302.AI serves it (reference/providers.md section 5)."""

import re
from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, RefusedError
from gateway.testing.simulator.own_formats import Order
from gateway.testing.simulator.responses import answer_json, answer_refusal
from gateway.testing.simulator.tasks import FAILED, LOST, SimulatedTask

_CODES: Final = {
    1026: (24, "the prompt may hold a banned word"),
    1041: (23, "the queue is full, try again later"),
    1002: (23, "the queue is full, try again later"),
}
"""The relay's code and text by that of a fault; others are 302.AI's errors."""
_AI302_CODES: Final = {1004: -10001, 1008: -10004, 2049: -10002, 2056: -10007}
_FLAG: Final = re.compile(r" --(ar|seed|v|niji) (\S+)", re.ASCII)
_GRIDS: Final = {
    "1:1": (2048, 2048),
    "16:9": (2912, 1632),
    "9:16": (1632, 2912),
    "3:2": (2688, 1792),
    "2:3": (1792, 2688),
    **dict(zip(("5:4", "4:5"), ((2464, 1856), (1856, 2464)), strict=True)),
}


class MidjourneyFormat:
    """Imagine tasks, each a grid of four images."""

    paths: tuple[str, ...] = ("/mj/submit/imagine",)
    poll_path = "/mj/task/{id}/fetch"
    ends: frozenset[int] = frozenset({1027, FAILED, LOST})

    def key(self, request: Request) -> str | None:
        return request.headers.get("mj-api-secret")

    def parse(self, request: Request, body: dict[str, object]) -> Order:  # noqa: ARG002 - the format's protocol
        prompt, bot = body.get("prompt"), body.get("botType", "MID_JOURNEY")
        if not isinstance(prompt, str) or bot not in {"MID_JOURNEY", "NIJI_JOURNEY"}:
            raise RefusedError(INVALID_PARAMS, "prompt and botType are invalid")
        flags = dict(_FLAG.findall(prompt))
        text = _FLAG.sub("", prompt)
        if "--" in text or flags.get("ar", "1:1") not in _GRIDS:
            raise RefusedError(INVALID_PARAMS, "an unknown flag or ratio")
        width, height = _GRIDS[flags.get("ar", "1:1")]
        seed = int(flags["seed"]) if "seed" in flags else None
        return Order(str(bot), text, width, height, n=4, form="png", seed=seed, is_grid=True)

    def refuse(self, refusal: RefusedError) -> Response:
        if refusal.code in _AI302_CODES:
            return answer_refusal(RefusedError(_AI302_CODES[refusal.code]), "")
        code, text = _CODES.get(refusal.code, (9, "failure"))
        if refusal.code == INVALID_PARAMS:
            code, text = 4, refusal.text
        properties = {"promptEn": "", "bannedWord": ""} if code == 24 else {}
        return answer_json({"code": code, "description": text, "result": None, "properties": properties})

    def accept(self, task: SimulatedTask) -> Response:
        return answer_json({"code": 1, "description": "Submit success", "result": task.id, "properties": {}})

    def show(self, task: SimulatedTask | None) -> Response:
        if task is None:
            return answer_json(None)
        prompt = task.order.prompt
        state = {
            "id": task.id,
            "action": "IMAGINE",
            "prompt": prompt,
            "promptEn": prompt,
            "buttons": [],
            "properties": {},
        }
        if not task.is_over:
            return answer_json(state | {"status": "IN_PROGRESS", "progress": "37%", "imageUrl": None})
        if task.code:
            reason = (
                "[Banned prompt] The prompt is not allowed." if task.code == 1027 else "[Failed] An error occurred."
            )
            return answer_json(state | {"status": "FAILURE", "progress": "0%", "failReason": reason})
        link = task.links[0] if task.links else None
        return answer_json(state | {"status": "SUCCESS", "progress": "100%", "imageUrl": link})

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {}
