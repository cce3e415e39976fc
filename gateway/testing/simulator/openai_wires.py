"""What the providers of OpenAI's format accept and answer, as data (reference/providers.md 16.1 and their sections)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.testing.simulator.openai_errors import (
    AI302_ERRORS,
    ARK_ERRORS,
    AZURE_ERRORS,
    H3_ERRORS,
    OPENAI_ERRORS,
    QIANFAN_ERRORS,
    RECRAFT_ERRORS,
    ZHIPU_ERRORS,
    Errors,
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bounds of a size in pixels, or a list of sizes."""

    step: int = 1
    side_min: int = 1
    side_max: int = 10**6
    area_min: int = 0
    area_max: int = 10**9
    ratio_max: float = 16
    listed: frozenset[str] = frozenset()
    default: str = ""
    """Of a model that differs from others of its provider."""

    def allow(self, width: int, height: int) -> bool:
        if self.listed:
            return f"{width}x{height}" in self.listed
        sides = all(self.side_min <= side <= self.side_max and side % self.step == 0 for side in (width, height))
        shape = max(width, height) <= self.ratio_max * min(width, height)
        return sides and shape and self.area_min <= width * height <= self.area_max


@dataclass(frozen=True, slots=True)
class Wire:
    """One provider's format."""

    prefix: str
    """Under which the simulator serves it; then comes the provider's own path."""
    models: Mapping[str, Sizes]
    """Empty: any model."""
    errors: Errors
    fields: frozenset[str]
    """Of generations, beside model and prompt; others are refused."""
    path: str = "/images/generations"
    edit_path: str = ""
    edit_fields: frozenset[str] = frozenset()
    key_header: str = "authorization"
    default_size: str = "1024x1024"
    n_max: int = 1
    forms: tuple[str, ...] = ("url", "b64_json")
    """The first one is the default."""
    is_form_in_query: bool = False
    format_field: str = "output_format"
    default_format: str = "jpeg"
    formats: tuple[str, ...] = ("png", "jpeg", "webp")
    has_item_errors: bool = False
    extra: Mapping[str, object] = field(default_factory=dict)
    """Of every success; `{n}` texts are numbers of images."""
    page: str = "/models"
    page_content: Mapping[str, object] = field(default_factory=lambda: {"object": "list", "data": []})


_TOKENS: Final = {
    "usage": {
        "total_tokens": 4170,
        "input_tokens": 10,
        "output_tokens": 4160,
        "input_tokens_details": {"text_tokens": 10, "image_tokens": 0},
    }
}
_GPT_IMAGE: Final = Sizes(16, 16, 3840, 655_360, 8_294_400, 3)
_GPT_IMAGE_1: Final = Sizes(listed=frozenset({"1024x1024", "1536x1024", "1024x1536"}))
_OPENAI_FIELDS: Final = frozenset(
    {"n", "size", "quality", "background", "moderation", "output_format", "output_compression", "user"}
)
_FORM_FIELDS: Final = frozenset({*_OPENAI_FIELDS - {"moderation"}, "image", "image[]", "mask"})
_SEEDREAM: Final = {
    "seedream-5-0-pro-260628": Sizes(1, 15, area_min=921_600, area_max=2048 * 2048),
    "seedream-5-0-260128": Sizes(1, 15, area_min=3_686_400, area_max=4096 * 4096),
    "seedream-4-5-251128": Sizes(1, 15, area_min=3_686_400, area_max=4096 * 4096),
    "seedream-4-0-250828": Sizes(1, 15, area_min=921_600, area_max=4096 * 4096),
}
_ARK_FIELDS: Final = frozenset({"size", "response_format", "watermark", "output_format", "image", "seed"})
_RECRAFT: Final = (
    *("1024x1024", "1536x768", "768x1536", "1280x832", "832x1280", "1216x896", "896x1216", "1152x896", "896x1152"),
    *("832x1344", "1280x896", "896x1280", "1344x768", "768x1344"),
)
_ZHIPU: Final = {
    "glm-image": Sizes(32, 512, 2048, area_max=2**21, default="1280x1280"),
    "cogview-4": Sizes(16, 512, 2048, area_max=2**21),
    "cogview-4-250304": Sizes(16, 512, 2048, area_max=2**21),
}
_ZHIPU_FIELDS: Final = frozenset({"size", "quality", "user_id", "watermark_enabled"})


def _ark(prefix: str, name: str) -> Wire:
    return Wire(
        prefix,
        {f"{name}{model}": sizes for model, sizes in _SEEDREAM.items()},
        ARK_ERRORS,
        _ARK_FIELDS,
        default_size="2048x2048",
        has_item_errors=True,
        extra={"usage": {"generated_images": "{n}", "output_tokens": 16_384, "total_tokens": 16_384}},
        page="",
    )


def _zhipu(prefix: str) -> Wire:
    return Wire(prefix, _ZHIPU, ZHIPU_ERRORS, _ZHIPU_FIELDS, forms=("url",), extra={"request_id": "2026113000000000"})


WIRES: Final = (
    Wire(
        "/openai/v1",
        {
            "gpt-image-2": _GPT_IMAGE,
            "gpt-image-2.5-sunburst": _GPT_IMAGE,
            "gpt-image-2.5-flare": _GPT_IMAGE,
            "gpt-image-1.5": _GPT_IMAGE_1,
        },
        OPENAI_ERRORS,
        _OPENAI_FIELDS,
        edit_path="/images/edits",
        edit_fields=_FORM_FIELDS,
        n_max=10,
        forms=("b64_json",),
        default_format="png",
        extra=_TOKENS,
    ),
    Wire(
        "/azure",
        {},
        AZURE_ERRORS,
        _OPENAI_FIELDS,
        path="/openai/deployments/{model}/images/generations",
        edit_path="/openai/deployments/{model}/images/edits",
        edit_fields=_FORM_FIELDS,
        key_header="api-key",
        n_max=10,
        forms=("b64_json",),
        default_format="png",
        extra=_TOKENS,
        page="/openai/models",
    ),
    Wire(
        "/h3/v1",
        {
            name: Sizes(1, area_min=655_360, area_max=20_000_000, ratio_max=3)
            for name in ("MiniMax-H3-Image", "MiniMax-H3-Image-Highspeed")
        },
        H3_ERRORS,
        frozenset({"n", "size", "response_format", "output_format", "output_compression", "images"}),
        n_max=10,
        has_item_errors=True,
        extra=_TOKENS,
        page="/token_plan/remains",
        page_content={"base_resp": {"status_code": 0, "status_msg": "success"}, "model_remains": []},
    ),
    _ark("/ark/api/v3", "doubao-"),
    _ark("/byteplus/api/v3", ""),
    _zhipu("/zhipu/api/paas/v4"),
    _zhipu("/zai/api/paas/v4"),
    Wire(
        "/qianfan/v2",
        {name: Sizes(listed=frozenset({"1024x1024"})) for name in ("qwen-image", "qwen-image-edit")},
        QIANFAN_ERRORS,
        frozenset({"n", "size", "seed", "user"}),
        edit_path="/images/edits",
        edit_fields=frozenset({"size", "seed", "user", "image"}),
        forms=("url",),
        extra={"id": "as-0123456789"},
        page="",
    ),
    Wire(
        "/recraft/v1",
        {"recraftv4_1": Sizes(listed=frozenset(_RECRAFT))},
        RECRAFT_ERRORS,
        frozenset({"n", "size", "response_format", "image_format", "random_seed"}),
        n_max=6,
        format_field="image_format",
        default_format="webp",
        formats=("png", "webp"),
        extra={"credits": "{n}"},
        page="/users/me",
        page_content={"credits": 1000, "email": "a@example.com", "id": "u", "name": "a"},
    ),
    Wire(
        "/302ai/v1",
        {"gpt-image-2": _GPT_IMAGE, "gpt-image-1.5": _GPT_IMAGE_1},
        AI302_ERRORS,
        _OPENAI_FIELDS,
        edit_path="/images/edits",
        edit_fields=_FORM_FIELDS,
        n_max=10,
        is_form_in_query=True,
        default_format="png",
        extra={"usage": {"prompt_tokens": 0, "completion_tokens": 0, **_TOKENS["usage"]}},
    ),
    Wire(
        "/302ai/302",
        {},
        AI302_ERRORS,
        frozenset({"size", "response_format"}),
        edit_path="/images/edits",
        edit_fields=frozenset({"size", "response_format", "image", "image[]", "mask"}),
        page="",
    ),
    Wire(
        "/relay/v1",
        {},
        OPENAI_ERRORS,
        frozenset({"n", "size", "response_format", "seed"}),
        edit_path="/images/edits",
        edit_fields=frozenset({"n", "size", "response_format", "seed", "image", "image[]", "mask"}),
        n_max=4,
    ),
)
