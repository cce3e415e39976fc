"""Google's format: contents of parts, and images in base64 (reference/providers.md section 10)."""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, RefusedError
from gateway.testing.simulator.own_formats import Made, Order
from gateway.testing.simulator.parsing import describe
from gateway.testing.simulator.responses import answer_json

MODELS: Final = (
    *("gemini-nano-banana-2.1", "gemini-3-pro-image", "gemini-3.1-flash-lite-image"),
    "gemini-2.5-flash-image",
)
PIXELS: Final = {
    "1:1": (1024, 1024),
    "2:3": (848, 1264),
    "3:2": (1264, 848),
    "3:4": (896, 1200),
    "4:3": (1200, 896),
    "4:5": (928, 1152),
    "5:4": (1152, 928),
    "9:16": (768, 1376),
    "16:9": (1376, 768),
    "21:9": (1584, 672),
}
ERRORS: Final = {
    1001: (504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
    1004: (403, "PERMISSION_DENIED", "Method doesn't allow unregistered callers."),
    1008: (403, "PERMISSION_DENIED", "This API method requires billing to be enabled."),
    1033: (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    2049: (400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
    2061: (404, "NOT_FOUND", "models/x is not found for API version v1beta."),
}
_BUSY: Final = (429, "RESOURCE_EXHAUSTED", "You exceeded your current quota.")
_FAILED: Final = (500, "INTERNAL", "An internal error has occurred.")
_DETAILS: Final = {
    1002: {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"},
    1008: {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "BILLING_DISABLED", "domain": "x"},
    2049: {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID", "domain": "x"},
}
_HELP: Final = {
    "@type": "type.googleapis.com/google.rpc.Help",
    "links": [{"description": "Learn more", "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}],
}


class Blob(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """An image in base64."""

    mime_type: Annotated[str, Meta(pattern="^image/(png|jpeg|webp|heic|heif)$")]
    data: Annotated[str, Meta(min_length=1)]


class Part(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """A text or an image of the prompt."""

    text: str | None = None
    inline_data: Blob | None = None


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The prompt."""

    parts: Annotated[list[Part], Meta(min_length=1)]
    role: Literal["user"] = "user"


class ImageConfig(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """The shape. Of the sizes the simulator makes 1K."""

    aspect_ratio: str = "1:1"
    image_size: Literal["1K"] = "1K"


class GenerationConfig(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """The settings that image models take."""

    response_modalities: tuple[Literal["TEXT", "IMAGE"], ...] = ("TEXT", "IMAGE")
    image_config: ImageConfig = ImageConfig()
    candidate_count: Annotated[int, Meta(ge=1, le=1)] = 1
    seed: int | None = None


class Body(msgspec.Struct, rename="camel", frozen=True, forbid_unknown_fields=True):
    """The documented fields that the simulator reads."""

    contents: Annotated[list[Content], Meta(min_length=1, max_length=1)]
    generation_config: GenerationConfig = GenerationConfig()


class GoogleFormat:
    """`generateContent`, and the list of models."""

    paths: tuple[str, ...] = tuple(
        f"/{version}/models/{model}:generateContent" for version in ("v1", "v1beta") for model in MODELS
    )
    has_links = False

    def key(self, request: Request) -> str | None:
        return request.headers.get("x-goog-api-key") or request.query_params.get("key")

    def parse(self, request: Request, body: dict[str, object]) -> Order:
        try:
            found = msgspec.convert(_camel(body), Body)
        except msgspec.ValidationError as error:
            raise RefusedError(INVALID_PARAMS, f"Invalid JSON payload received. {describe(error)}") from error
        parts, settings = found.contents[0].parts, found.generation_config
        prompt = " ".join(part.text for part in parts if part.text)
        ratio = settings.image_config.aspect_ratio
        if ratio not in PIXELS or not prompt or "IMAGE" not in settings.response_modalities:
            raise RefusedError(INVALID_PARAMS, "Request contains an invalid argument.")
        images = [part.inline_data.data for part in parts if part.inline_data]
        width, height = PIXELS[ratio]
        reference = base64.b64decode(images[0], altchars=_altchars(images[0])) if images else b""
        return Order(_model(request), prompt, width, height, seed=settings.seed, reference=reference)

    def refuse(self, refusal: RefusedError) -> Response:
        code = 1002 if refusal.code in {1041, 2056} else refusal.code
        if code in {1026, 1027}:
            return answer_json(_blocked(code))
        status, name, text = _BUSY if code == 1002 else ERRORS.get(code, _FAILED)
        if code == INVALID_PARAMS:
            status, name, text = 400, "INVALID_ARGUMENT", refusal.text
        status = refusal.status or status
        details = [_HELP, _DETAILS[code]] if code in _DETAILS else []
        return answer_json(
            {"error": {"code": status, "message": text, "status": name, "details": details}}, status=status
        )

    def render(self, order: Order, made: Made) -> bytes:
        usage = {
            "promptTokenCount": 8,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 8}],
            "totalTokenCount": 8,
        }
        parts: list[object] = []
        if made.files and not made.withheld:
            data = base64.b64encode(made.files[0]).decode("ascii")
            parts = [{"inlineData": {"mimeType": f"image/{order.form}", "data": data}, "thoughtSignature": "c2lnbmVk"}]
            usage |= {
                "candidatesTokenCount": 1120,
                "totalTokenCount": 1128,
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1120}],
            }
        reason = "STOP" if parts else "IMAGE_SAFETY" if made.withheld else "NO_IMAGE"
        candidate = {"content": {"role": "model", "parts": parts}, "finishReason": reason, "index": 0}
        reply = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": order.model, "responseId": made.id}
        return msgspec.json.encode(reply)

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {"/v1beta/models": self._models}

    def _models(self, code: int) -> Response:
        """The list needs a valid key, and says nothing about its billing."""
        if code in {1004, 2049}:
            return self.refuse(RefusedError(code))
        return answer_json({"models": [{"name": f"models/{model}"} for model in MODELS]})


def _camel(value: object) -> object:
    """Renames fields to camel case: the API takes them in snake case too, as Google's SDK writes some."""
    if isinstance(value, dict):
        return {re.sub("_([a-z])", lambda found: found[1].upper(), name): _camel(one) for name, one in value.items()}
    return [_camel(one) for one in value] if isinstance(value, list) else value


def _altchars(encoded: str) -> bytes:
    """Returns the last two characters of the alphabet: Google's SDK writes the one for URLs."""
    return b"-_" if "-" in encoded or "_" in encoded else b"+/"


def _model(request: Request) -> str:
    return request.url.path.rpartition("/")[2].partition(":")[0]


def _blocked(code: int) -> dict[str, object]:
    """A refusal is a success: of the prompt without candidates, of the image without parts."""
    usage = {"promptTokenCount": 8, "totalTokenCount": 8}
    if code == 1026:
        return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage}
    return {"candidates": [{"content": {}, "finishReason": "IMAGE_SAFETY", "index": 0}], "usageMetadata": usage}
