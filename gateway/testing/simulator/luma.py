"""Luma's two APIs: Agents, and Dream Machine's Photon (reference/providers.md section 8)."""

import base64
from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, UNAUTHORISED, RefusedError
from gateway.testing.simulator.own_formats import Order
from gateway.testing.simulator.parsing import bearer
from gateway.testing.simulator.responses import answer_json
from gateway.testing.simulator.tasks import FAILED, LOST, SimulatedTask

_TIME: Final = "2026-11-28T12:00:00Z"
_ERRORS: Final = {
    1002: (429, "Rate limit exceeded"),
    1008: (402, "Insufficient balance"),
    1041: (429, "Too many concurrent jobs"),
}
_UNI_SIDES: Final = {
    "1:1": (2048, 2048),
    "16:9": (2048, 1152),
    "9:16": (1152, 2048),
    "3:2": (2048, 1365),
    "2:3": (1365, 2048),
    "2:1": (2048, 1024),
    "1:2": (1024, 2048),
    "3:1": (2048, 683),
    "1:3": (683, 2048),
}
_PHOTON_SIDES: Final = {
    "1:1": (1536, 1536),
    "16:9": (2048, 1152),
    "9:16": (1152, 2048),
    "4:3": (1792, 1344),
    "3:4": (1344, 1792),
    "21:9": (2432, 1024),
    "9:21": (1024, 2432),
}


class LumaFormat:
    """Images and edits of uni-1 and uni-1-max."""

    paths: tuple[str, ...] = ("/v1/generations",)
    poll_path = "/v1/generations/{id}"
    ends: frozenset[int] = frozenset({1026, 1027, FAILED, LOST})

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def parse(self, request: Request, body: dict[str, object]) -> Order:  # noqa: ARG002 - the format's protocol
        model, kind, source, form = (body.get(name, "") for name in ("model", "type", "source", "output_format"))
        sides, references = _UNI_SIDES.get(str(body.get("aspect_ratio", "1:1"))), body.get("image_ref", [])
        is_edit = kind == "image_edit"
        rules = (
            (model in {"uni-1", "uni-1-max"}, "model: unknown"),
            (kind in {"image", "image_edit"}, "type: unknown"),
            (is_edit == bool(source), "source: required for image_edit only"),
            (sides is not None, "aspect_ratio: unsupported"),
            (form in {"", "png", "jpeg"}, "output_format: unsupported"),
            (isinstance(references, list) and len(references) <= (8 if is_edit else 9), "image_ref: too many"),
        )
        prompt = _checked_prompt(body, rules)
        data = source.get("data", "") if isinstance(source, dict) else ""
        width, height = sides or (0, 0)
        return Order(str(model), prompt, width, height, form=str(form) or "png", reference=base64.b64decode(data))

    def refuse(self, refusal: RefusedError) -> Response:
        return _refuse(refusal)

    def accept(self, task: SimulatedTask) -> Response:
        return answer_json(self._state(task) | {"state": "queued"}, status=201)

    def show(self, task: SimulatedTask | None) -> Response:
        if task is None:
            return answer_json({"detail": "Generation not found"}, status=404)
        if not task.is_over:
            return answer_json(self._state(task) | {"state": "processing"})
        if task.code:
            code = "content_moderated" if task.code in {1026, 1027} else "generation_failed"
            failure = {"state": "failed", "failure_code": code, "failure_reason": "The generation failed."}
            return answer_json(self._state(task) | failure)
        output = [{"type": "image", "url": link} for link in task.links]
        return answer_json(self._state(task) | {"state": "completed", "output": output})

    def _state(self, task: SimulatedTask) -> dict[str, object]:
        kind = "image_edit" if task.order.reference else "image"
        return {"id": task.id, "created_at": _TIME, "model": task.order.model, "type": kind}

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {"/v1/files": _render_files}


class PhotonFormat:
    """Images of photon-1 and photon-flash-1."""

    paths: tuple[str, ...] = ("/dream-machine/v1/generations/image",)
    poll_path = "/dream-machine/v1/generations/{id}"
    ends: frozenset[int] = frozenset({1026, 1027, FAILED, LOST})

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def parse(self, request: Request, body: dict[str, object]) -> Order:  # noqa: ARG002 - the format's protocol
        model, form, changed = (body.get(name, "") for name in ("model", "format", "modify_image_ref"))
        sides = _PHOTON_SIDES.get(str(body.get("aspect_ratio", "16:9")))
        rules = (
            (model in {"photon-1", "photon-flash-1"}, "model: unknown"),
            (sides is not None, "aspect_ratio: unsupported"),
            (form in {"", "jpg", "png"}, "format: unsupported"),
            (not changed or str(isinstance(changed, dict) and changed.get("url")).startswith("http"), "url: invalid"),
        )
        prompt = _checked_prompt(body, rules)
        width, height = sides or (0, 0)
        return Order(str(model), prompt, width, height, form="png" if form == "png" else "jpg")

    def refuse(self, refusal: RefusedError) -> Response:
        return _refuse(refusal)

    def accept(self, task: SimulatedTask) -> Response:
        return answer_json(self._state(task) | {"state": "queued"}, status=201)

    def show(self, task: SimulatedTask | None) -> Response:
        if task is None:
            return answer_json({"detail": "Generation not found"}, status=404)
        if not task.is_over:
            return answer_json(self._state(task) | {"state": "dreaming"})
        if task.code:
            reason = "Failed content moderation" if task.code in {1026, 1027} else "The generation failed."
            return answer_json(self._state(task) | {"state": "failed", "failure_reason": reason})
        assets = {"image": task.links[0] if task.links else None}
        return answer_json(self._state(task) | {"state": "completed", "assets": assets})

    def _state(self, task: SimulatedTask) -> dict[str, object]:
        asked = {"generation_type": "image", "model": task.order.model, "prompt": task.order.prompt}
        state = {"id": task.id, "created_at": _TIME, "generation_type": "image", "model": task.order.model}
        return state | {"failure_reason": None, "assets": None, "request": asked}

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {"/dream-machine/v1/credits": _render_credits}


def _checked_prompt(body: Mapping[str, object], rules: tuple[tuple[bool, str], ...]) -> str:
    """Raises: RefusedError with the text of the first rule that does not hold."""
    prompt = body.get("prompt")
    for holds, text in (*rules, (isinstance(prompt, str) and bool(prompt), "prompt: required")):
        if not holds:
            raise RefusedError(INVALID_PARAMS, text)
    return str(prompt)


def _refuse(refusal: RefusedError) -> Response:
    status, text = _ERRORS.get(refusal.code, (500, "Internal server error"))
    if refusal.code == INVALID_PARAMS:
        issue = {"loc": ["body"], "msg": refusal.text, "type": "value_error"}
        return answer_json({"detail": [issue]}, status=422)
    if refusal.code in UNAUTHORISED:
        status, text = 401, "Invalid API key"
    return answer_json({"detail": text}, status=status)


def _render_files(code: int) -> Response:
    is_refused = code in UNAUTHORISED
    return _refuse(RefusedError(code)) if is_refused else answer_json({"files": [], "next_cursor": None})


def _render_credits(code: int) -> Response:
    if code in UNAUTHORISED:
        return _refuse(RefusedError(code))
    return answer_json({"credit_balance": 0.0 if code == 1008 else 1000.0})
