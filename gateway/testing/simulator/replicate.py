"""Replicate's predictions: models with fields of their own, behind one form (reference/providers.md 4.3)."""

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

_FLUX: Final = {"prompt", "aspect_ratio", "seed", "output_format"}
_CUSTOM: Final = {*_FLUX, "width", "height"}
_IDEOGRAM: Final = {"prompt", "aspect_ratio", "resolution", "seed"}
MODELS: Final[Mapping[str, set[str]]] = {
    "black-forest-labs/flux-schnell": {*_FLUX, "num_outputs"},
    "black-forest-labs/flux-dev": {*_FLUX, "num_outputs"},
    "black-forest-labs/flux-1.1-pro": _CUSTOM,
    "black-forest-labs/flux-1.1-pro-ultra": _FLUX,
    "black-forest-labs/flux-2-dev": {*_CUSTOM, "input_images"},
    "ideogram-ai/ideogram-v3-turbo": _IDEOGRAM,
    "ideogram-ai/ideogram-v3-balanced": _IDEOGRAM,
    "ideogram-ai/ideogram-v3-quality": _IDEOGRAM,
    "recraft-ai/recraft-v3": {"prompt", "size"},
}
"""The fields that the gateway may send to each model."""
_TIME: Final = "2026-11-28T12:00:00.000Z"
_THROTTLED: Final = {"detail": "Request was throttled. Your rate limit resets in ~30s."}
_TITLES: Final = {
    401: ("Unauthenticated", "You did not pass a valid authentication token"),
    402: ("Insufficient credit", "You have insufficient credit to run this model."),
    404: ("Not found", "The requested resource could not be found."),
    500: ("Internal server error", "The prediction could not be created."),
}
_SENSITIVE: Final = "The input or output was flagged as sensitive. Please try again with different inputs. (E005)"
_ERRORS: Final = {
    1026: _SENSITIVE,
    1027: "NSFW content detected. Try running it again, or try a different prompt.",
    FAILED: "Prediction failed: the model's process ended (E1000)",
}


class ReplicateFormat:
    """Predictions of official models."""

    paths: tuple[str, ...] = tuple(f"/v1/models/{model}/predictions" for model in MODELS)
    poll_path = "/v1/predictions/{id}"
    ends: frozenset[int] = frozenset({*_ERRORS, LOST})

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def parse(self, request: Request, body: dict[str, object]) -> Order:
        model, given = request.url.path.removeprefix("/v1/models/").removesuffix("/predictions"), body.get("input")
        if not isinstance(given, dict):
            raise RefusedError(INVALID_PARAMS, "- input is required")
        unknown = sorted(given.keys() - MODELS[model])
        prompt, count, seed, images = (given.get(name) for name in ("prompt", "num_outputs", "seed", "input_images"))
        width, height = given.get("width", 1024), given.get("height", 1024)
        if size := given.get("size") or given.get("resolution"):
            width, height = map(int, str(size).split("x"))
        rules = (
            (not unknown, f"- input: Additional property {', '.join(unknown)} is not allowed"),
            (isinstance(prompt, str) and bool(prompt), "- input.prompt is required"),
            (count is None or count in {1, 2, 3, 4}, "- input.num_outputs must be from 1 to 4"),
            (seed is None or isinstance(seed, int), "- input.seed must be an integer"),
            (("width" in given) == (given.get("aspect_ratio") == "custom"), "- input.width needs aspect_ratio custom"),
        )
        for holds, text in rules:
            if not holds:
                raise RefusedError(INVALID_PARAMS, text)
        link = str(images[0]) if isinstance(images, list) and images else ""
        return Order(
            *(model, str(prompt), int(width), int(height)),
            n=count if isinstance(count, int) else 1,
            form=str(given.get("output_format", "webp")),
            seed=seed if isinstance(seed, int) else None,
            reference=base64.b64decode(link.partition(",")[2]),
        )

    def refuse(self, refusal: RefusedError) -> Response:
        if refusal.code in {1002, 1041}:
            return answer_json(_THROTTLED, status=429)
        if refusal.code == INVALID_PARAMS:
            problem = {"title": "Input validation failed", "detail": f"{refusal.text}\n", "status": 422}
            return answer_json(problem, status=422)
        return _render_problem(401 if refusal.code in UNAUTHORISED else 402 if refusal.code == 1008 else 500)

    def accept(self, task: SimulatedTask) -> Response:
        return answer_json(self._state(task), status=201)

    def show(self, task: SimulatedTask | None) -> Response:
        return answer_json(self._state(task)) if task else _render_problem(404)

    def _state(self, task: SimulatedTask) -> dict[str, object]:
        order, url = task.order, f"{task.base}/v1/predictions/{task.id}"
        state: dict[str, object] = {"id": task.id, "model": order.model, "version": "hidden", "created_at": _TIME}
        state |= {"input": {"prompt": order.prompt}, "logs": "", "output": None, "error": None, "metrics": {}}
        state |= {"status": "starting", "urls": {"get": url, "cancel": f"{url}/cancel"}}
        if not task.is_over:
            return state
        state |= {"completed_at": _TIME, "metrics": {"predict_time": 1.0}}
        if task.code:
            return state | {"status": "failed", "error": _ERRORS[task.code]}
        output = task.links if "num_outputs" in MODELS[order.model] else next(iter(task.links), None)
        return state | {"status": "succeeded", "output": output}

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {"/v1/account": _render_account}


def _render_account(code: int) -> Response:
    if code in UNAUTHORISED:
        return _render_problem(401)
    return answer_json({"type": "organization", "username": "acme", "name": "Acme", "github_url": None})


def _render_problem(status: int) -> Response:
    title, detail = _TITLES[status]
    return answer_json({"title": title, "detail": detail, "status": status}, status=status)
