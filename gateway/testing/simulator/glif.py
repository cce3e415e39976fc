"""Glif's format: runs of workflows, whose failures are successes with an error (reference/providers.md section 14)."""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, MINIMAX_TEXTS, RefusedError
from gateway.testing.simulator.own_formats import Made, Order
from gateway.testing.simulator.parsing import bearer
from gateway.testing.simulator.responses import answer_json

STATUSES: Final = {1002: 429, 1004: 401, 1008: 402, 1041: 429, 2049: 401, 2056: 429, INVALID_PARAMS: 400}
"""HTTP statuses of refusals before a run. They are not documented; failures of a run have 200."""
SIZE: Final = (1024, 1024)


class GlifFormat:
    """The API of runs."""

    paths: tuple[str, ...] = ("/",)
    has_links = True

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def parse(self, request: Request, body: dict[str, object]) -> Order:  # noqa: ARG002 - the format's protocol
        workflow, inputs = body.get("id"), body.get("inputs")
        values = list(inputs.values()) if isinstance(inputs, dict) else inputs
        if not isinstance(workflow, str) or not isinstance(values, list) or not values:
            raise RefusedError(INVALID_PARAMS, "Missing required fields: id, inputs")
        return Order(workflow, str(values[0]), *SIZE, form="png")

    def refuse(self, refusal: RefusedError) -> Response:
        text = refusal.text if refusal.code == INVALID_PARAMS else MINIMAX_TEXTS.get(refusal.code, "error")
        failed: dict[str, object] = {
            "id": "workflow",
            "inputs": {},
            "output": None,
            "outputFull": None,
            "error": text,
            "price": 0,
        }
        status = STATUSES.get(refusal.code)
        return answer_json({"error": text}, status=status) if status else answer_json(failed)

    def render(self, order: Order, made: Made) -> bytes:
        link = made.links[0] if made.links and not made.withheld else None
        full = {"type": "IMAGE", "value": link, "width": order.width, "height": order.height} if link else None
        run = {"id": order.model, "inputs": {"prompt": order.prompt}, "output": link, "outputFull": full, "price": 1}
        return msgspec.json.encode(run)

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {}
