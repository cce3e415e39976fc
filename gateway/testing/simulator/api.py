"""Endpoints other than generation: free pages, invoice, captured requests and image files."""

import asyncio
from collections import deque
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.accounts import Accounts
from gateway.testing.simulator.call_log import CallLog
from gateway.testing.simulator.fault_injection import (
    AI302_NO_KEY,
    AI302_UNAUTHORISED,
    UNAUTHORISED,
    RefusedError,
    require_key,
)
from gateway.testing.simulator.parsing import bearer, trace_id_of
from gateway.testing.simulator.pictures import Gallery, convert
from gateway.testing.simulator.responses import answer, answer_json, answer_refusal, answer_unknown_key
from gateway.testing.simulator.states import KeyStates, KeyStatus

PLAN_IMAGES: Final = 100  # MiniMax's own fixture: images per interval
UNTIL_RELEASED_MS: Final = 3_600_000  # by default, when no time is given
MODELS: Final = {
    "object": "list",
    "data": [{"id": "minimaxi-image-01", "object": "model", "created": 1_735_689_600, "owned_by": "minimax"}],
}


class CapturedRequest(msgspec.Struct, frozen=True):
    """A request as received, without its key."""

    path: str
    headers: dict[str, str]
    body: object


class ApiRoutes:
    """The endpoints. Provider pages show the state of the requesting key and are never billed."""

    def __init__(
        self,
        accounts: Accounts,
        gallery: Gallery,
        captured: deque[CapturedRequest],
        states: KeyStates,
        call_log: CallLog,
    ) -> None:
        self._accounts = accounts
        self._gallery = gallery
        self._captured = captured
        self._states = states
        self._call_log = call_log

    async def remains(self, request: Request) -> Response:
        """MiniMax's quota page: a used-up plan is a success here, any other state its code."""
        trace_id = trace_id_of(request.url.path.encode(), None)
        try:
            standing = self._states.plan(require_key(bearer(request)))
        except RefusedError as refusal:
            return answer_refusal(refusal, trace_id)
        return answer(_render_remains(standing), trace_id)

    async def models(self, request: Request) -> Response:
        """The model list of both providers: needs an existing key, and says nothing about its balance."""
        trace_id = trace_id_of(request.url.path.encode(), None)
        key = bearer(request)
        if key is None:
            return answer_refusal(RefusedError(AI302_NO_KEY), trace_id)
        code = self._states.standing(key).code
        if code in UNAUTHORISED:
            return answer_unknown_key(trace_id)
        if code in AI302_UNAUTHORISED:
            return answer_refusal(RefusedError(code), trace_id)
        return answer(msgspec.json.encode(MODELS), trace_id)

    async def invoice(self, _: Request) -> Response:
        return answer_json(self._accounts.invoice())

    async def reset(self, _: Request) -> Response:
        """Resets invoice, windows, call log and captured requests; links and key states remain."""
        self._accounts.reset()
        self._captured.clear()
        self._call_log.clear()
        return answer_json(self._accounts.invoice())

    async def receipts(self, _: Request) -> Response:
        return answer_json(list(self._accounts.receipts))

    async def calls(self, _: Request) -> Response:
        """Returns the call log; empty if it is disabled."""
        return answer_json(self._call_log.calls())

    async def requests(self, _: Request) -> Response:
        return answer_json(list(self._captured))

    async def image(self, request: Request) -> Response:
        name = request.path_params["name"]
        picture = await self._gallery.find(name)
        if picture is None:
            return answer_json({"detail": "no such image"}, status=404)
        if (form := name.rpartition(".")[2]) in {"png", "webp"}:
            return Response(await asyncio.to_thread(convert, picture, form), media_type=f"image/{form}")
        return Response(picture, media_type="image/jpeg")


def _render_remains(standing: KeyStatus) -> bytes:
    """Renders the plan's images; MiniMax's usage count is the remaining number."""
    model = {
        "model_name": "image-01",
        "current_interval_total_count": PLAN_IMAGES,
        "current_interval_usage_count": 0 if standing.code else PLAN_IMAGES,
        "current_interval_remaining_percent": 0 if standing.code else 100,
        "remains_time": standing.remains_ms or UNTIL_RELEASED_MS,
    }
    base_resp = {"status_code": 0, "status_msg": "success"}
    return msgspec.json.encode({"base_resp": base_resp, "model_remains": [model]})
