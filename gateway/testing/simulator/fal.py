"""fal.ai's queue: it accepts every request, and errors of models are results (reference/providers.md 4.2)."""

import base64
from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, UNAUTHORISED, RefusedError, require_key
from gateway.testing.simulator.own_formats import Order
from gateway.testing.simulator.responses import answer_json
from gateway.testing.simulator.tasks import FAILED, SimulatedTask, TaskEndpoint

MODELS: Final = (
    *("fal-ai/flux/dev", "fal-ai/flux/schnell", "fal-ai/flux-pro/v1.1", "fal-ai/flux-pro/v1.1-ultra"),
    *("fal-ai/recraft/v3/text-to-image", "fal-ai/ideogram/v3", "fal-ai/nano-banana-2", "fal-ai/nano-banana-2/edit"),
)
_BY_RATIO: Final = frozenset({"fal-ai/flux-pro/v1.1-ultra", "fal-ai/nano-banana-2", "fal-ai/nano-banana-2/edit"})
_CHECKED_ID: Final = "00000000-0000-4000-8000-000000000000"
_LOCKED: Final = "User is locked. Reason: Exhausted balance. Top up your balance at fal.ai/dashboard/billing."
_REFUSALS: Final = {1008: (403, _LOCKED), 1002: (429, "Too many requests"), 1041: (429, "Too many requests")}
_FLAGGED: Final = 1027
_ENDS: Final = {
    1026: (422, "content_policy_violation", "The content was flagged by a content checker."),
    INVALID_PARAMS: (422, "value_error", "Input should be valid."),
    FAILED: (500, "internal_server_error", "An internal server error occurred."),
}
"""By code: HTTP status, type and text of a result that is an error."""


class FalFormat:
    """The models that the gateway knows."""

    paths: tuple[str, ...] = tuple(f"/{model}" for model in MODELS)
    poll_path = "/fal-ai/{app}/requests/{id}"
    ends: frozenset[int] = frozenset({*_ENDS, _FLAGGED})

    def key(self, request: Request) -> str | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key.strip() or None if scheme == "Key" else None

    def parse(self, request: Request, body: dict[str, object]) -> Order:
        model, prompt = request.url.path[1:], body.get("prompt")
        images, pixels, ratio = (body.get(name) for name in ("image_urls", "image_size", "aspect_ratio"))
        count, seed = body.get("num_images", 1), body.get("seed")
        rules = (
            (isinstance(prompt, str) and bool(prompt), "prompt: Field required"),
            (model in _BY_RATIO or ratio is None, "aspect_ratio: Extra inputs are not permitted"),
            (model not in _BY_RATIO or pixels is None, "image_size: Extra inputs are not permitted"),
            (isinstance(count, int) and 1 <= count <= 8, "num_images: Input should be from 1 to 8"),
            (seed is None or isinstance(seed, int), "seed: Input should be a valid integer"),
            (model.endswith("/edit") == bool(images), "image_urls: Field required"),
        )
        for holds, text in rules:
            if not holds:
                raise RefusedError(INVALID_PARAMS, text)
        width, height = (pixels.get(name) for name in ("width", "height")) if isinstance(pixels, dict) else (1024, 1024)
        if not (isinstance(width, int) and isinstance(height, int)):
            raise RefusedError(INVALID_PARAMS, "image_size: Input should be a valid integer")
        link = str(images[0]) if isinstance(images, list) else ""
        return Order(
            *(model, str(prompt), width, height),
            n=count if isinstance(count, int) else 1,
            form=str(body.get("output_format", "jpeg")),
            seed=seed if isinstance(seed, int) else None,
            reference=base64.b64decode(link.partition(",")[2]),
        )

    def refuse(self, refusal: RefusedError) -> Response:
        if refusal.code == INVALID_PARAMS:
            return _render_error(422, "value_error", refusal.text)
        if refusal.code in UNAUTHORISED:
            return answer_json({"detail": "No user found for Key ID and Secret"}, status=401)
        status, text = _REFUSALS.get(refusal.code, (500, "Internal Server Error"))
        return answer_json({"detail": text}, status=status)

    def accept(self, task: SimulatedTask) -> Response:
        return answer_json(self.state(task) | {"queue_position": 0})

    def state(self, task: SimulatedTask) -> dict[str, object]:
        """Returns what the submission and the status say."""
        url = f"{task.base}/{'/'.join(task.order.model.split('/')[:2])}/requests/{task.id}"
        urls = {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}
        return {"status": "COMPLETED" if task.is_over else "IN_QUEUE", "request_id": task.id, "logs": None, **urls}

    def show(self, task: SimulatedTask | None) -> Response:
        if task is None:
            return answer_json({"detail": "Request not found"}, status=404)
        if not task.is_over:
            return answer_json({"detail": "Request is still in progress"}, status=400)
        if task.code in _ENDS:
            return _render_error(*_ENDS[task.code])
        order = task.order
        kind = f"image/{order.form}"
        images = [
            {"url": url, "width": order.width, "height": order.height, "content_type": kind} for url in task.links
        ]
        is_flagged = task.code == _FLAGGED
        if is_flagged:
            images = [{"url": f"{task.base}/simulator/images/black.jpeg", "content_type": "image/jpeg"}] * order.n
        flags = [is_flagged] * len(images)
        return answer_json(
            {"images": images, "seed": order.seed or 0, "has_nsfw_concepts": flags, "prompt": order.prompt}
        )

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {f"/fal-ai/flux/requests/{_CHECKED_ID}/status": _render_unknown}


class FalEndpoint(TaskEndpoint):
    """Serves the status of a task, too, which fal's own clients ask for."""

    def routes(self) -> list[Route]:
        status = Route("/fal-ai/{app}/requests/{id}/status", self.status, methods=["GET"])
        return [*super().routes(), status]

    async def status(self, request: Request) -> Response:
        form = FalFormat()
        try:
            self._shop.states.check(require_key(form.key(request)))
        except RefusedError as refusal:
            return form.refuse(refusal)
        task = self._tasks.get(request.path_params["id"])
        if task is None:
            return form.show(None)
        return answer_json(form.state(task) | {"queue_position": 0}, status=200 if task.is_over else 202)


def _render_unknown(code: int) -> Response:
    return FalFormat().refuse(RefusedError(code)) if code in UNAUTHORISED else FalFormat().show(None)


def _render_error(status: int, name: str, text: str) -> Response:
    issue = {"loc": ["body"], "msg": text, "type": name, "url": f"https://docs.fal.ai/errors#{name}", "input": {}}
    return answer_json({"detail": [issue]}, status=status)
