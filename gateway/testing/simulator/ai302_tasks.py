"""302.AI's unified images API, version 2 (reference/providers.md 2.2)."""

import base64
from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, RefusedError
from gateway.testing.simulator.own_formats import Order
from gateway.testing.simulator.parsing import bearer
from gateway.testing.simulator.responses import answer_json, answer_refusal
from gateway.testing.simulator.tasks import FAILED, LOST, SimulatedTask

_CODES: Final = {1002: -10012, 1004: -10001, 1008: -10004, 1041: -10008, 2013: -10011, 2049: -10002, 2056: -10007}
"""302.AI's code by that of a fault."""
_TIME: Final = "2026-11-28T12:00:00.000Z"


class Ai302TaskFormat:
    """Models of any name."""

    paths: tuple[str, ...] = ("/302/v2/image/generate",)
    poll_path = "/302/v2/image/fetch/{id}"
    ends: frozenset[int] = frozenset({1026, 1027, FAILED, LOST})

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def parse(self, request: Request, body: dict[str, object]) -> Order:
        prompt, model, image = body.get("prompt"), body.get("model"), body.get("image", "")
        width, height = body.get("width", 1024), body.get("height", 1024)
        if not (isinstance(prompt, str) and prompt and isinstance(model, str) and model):
            raise RefusedError(INVALID_PARAMS, "prompt and model are required")
        if not (isinstance(width, int) and isinstance(height, int) and isinstance(image, str)):
            raise RefusedError(INVALID_PARAMS, "width, height and image are invalid")
        if request.query_params.get("run_async") != "true":
            raise RefusedError(INVALID_PARAMS, "this twin makes no images while the client waits")
        return Order(model, prompt, width, height, reference=base64.b64decode(image.partition(",")[2]))

    def refuse(self, refusal: RefusedError) -> Response:
        code = _CODES.get(refusal.code, -10003)
        return answer_refusal(RefusedError(code, refusal.text if code == _CODES[INVALID_PARAMS] else None), "")

    def accept(self, task: SimulatedTask) -> Response:
        return answer_json({"task_id": task.id, "status": "pending", "created_at": _TIME})

    def show(self, task: SimulatedTask | None) -> Response:
        if task is None:
            return answer_refusal(RefusedError(-10010), "")
        state = {"task_id": task.id, "model": task.order.model, "created_at": _TIME, "webhook": None, "error": None}
        if not task.is_over:
            return answer_json(state | {"status": "processing"})
        if task.code:
            is_refused = task.code in {1026, 1027}
            kind = "content_policy_violation" if is_refused else "upstream_error"
            error = {"error": "task failed", "message": "the vendor refused", "error_type": kind, "attempts": 1}
            return answer_json(state | {"status": "failed", "failed_at": _TIME, "error": error})
        links = {"image_url": task.links[0] if task.links else None, "image_urls": task.links}
        return answer_json(state | links | {"status": "completed", "completed_at": _TIME, "execution_time": "1.0"})

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {}
