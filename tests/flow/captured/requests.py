"""Client requests, on every route and for models at every kind of target."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

Body = dict[str, Any]

OPENAI = "/v1/images/generations"
NATIVE = ("/v1/image_generation", "/minimaxi/v1/image_generation")
MODELS = ("direct", "live", "reseller", "passing")
"""MiniMax, its second model, 302.AI as documented, and 302.AI that passes every field on."""
ALIASES = {"direct": "dall-e-3", "reseller": "dall-e-2", "live": "gpt-image-1", "passing": "chatgpt-image-latest"}

_SIZES = (
    *("auto", "256x256", "512x512", "1024x1024", "1536x1024", "1024x1536", "1792x1024", "1024x1792"),
    *("1280x720", "1152x864", "1248x832", "832x1248", "864x1152", "720x1280", "1344x576"),
    *("2048x512", "512x2048", "2048x2048", "2560x1440", "640x360", "1000x1000", "4096x1024", "100x100", "1016x1024"),
    *("4096x1000", "5000x5000", "1024", "0x0", ""),
)
_RATIOS = ("1:1", "16:9", "4:3", "3:2", "2:3", "3:4", "9:16", "21:9", "5:4")
_PIXELS = ((1024, 1024), (512, 2048), (1000, 512), (520, 520), (500, 512), (2056, 512), (1001, 512))
_FACE = {"type": "character", "image_file": "https://faces.test/a.png"}
_PAIR = {"width": 1024, "height": 512}
_STYLE = {"style_type": "水彩", "style_weight": 0.8}
_SHARED: tuple[Body, ...] = (
    {},
    {"prompt": 'Ein Bär / "zitiert" \\ \u0001 🐻'},
    {"prompt": " "},
    {"prompt": "x" * 1499},
    {"prompt": "x" * 1500},
    {"prompt": 5},
    {"prompt": None},
    *({"n": n} for n in (0, 1, 2, 3, 9, 10, 11, "2", None)),
    *({"aspect_ratio": ratio} for ratio in _RATIOS),
    *({"width": width, "height": height} for width, height in _PIXELS),
    {"width": 512},
    {"width": 512, "height": 512, "aspect_ratio": "16:9"},
    {"seed": 7},
    {"seed": 7, "n": 3},
    {"seed": 2**31 - 1, "n": 2},
    {"seed": -(2**63)},
    {"seed": 2**63},
    {"seed": 1.5},
    {"prompt_optimizer": True},
    {"prompt_optimizer": False},
    {"prompt_optimizer": "yes"},
    {"aigc_watermark": True},
    {"aigc_watermark": False, "seed": 1, "prompt_optimizer": True},
    {"style": _STYLE},
    {"style": {"style_type": "元气"}},
    {"style": {"style_type": "other"}},
    {"style": _STYLE, "n": 2, "seed": 5, "aspect_ratio": "16:9"},
    {"subject_reference": [_FACE]},
    {"subject_reference": [_FACE, _FACE | {"image_file": "data:image/png;base64,AAAA"}], "n": 2},
    {"subject_reference": []},
    {"subject_reference": [{"type": "object", "image_file": "https://faces.test/a.png"}]},
    {"subject_reference": [_FACE | {"image_file": "ftp://faces.test/a.png"}]},
    {"unknown": 1},
)
_OPENAI: tuple[Body, ...] = (
    *({"size": size} for size in _SIZES),
    {"size": "1024x1024", "aspect_ratio": "1:1"},
    {"size": "1024x1024", "n": 4, "response_format": "url"},
    *({"response_format": form} for form in ("url", "b64_json", "png")),
    *({"quality": quality} for quality in ("hd", "high", "best")),
    *({"style": style} for style in ("vivid", "natural", "bold")),
    *({"output_format": form} for form in ("jpeg", "png", "webp", "bmp")),
    *({"background": kind} for kind in ("transparent", "opaque", "auto")),
    {"user": "u-1", "moderation": "low", "safety_identifier": "s-1", "output_compression": 80, "partial_images": 0},
    {"partial_images": 2, "complexity": "low"},
    {"stream": True, "n": 2},
    {"stream": True, "response_format": "url"},
)
_NATIVE: tuple[Body, ...] = (
    *({"response_format": form} for form in ("url", "base64", "b64_json")),
    {"response_format": "base64", "n": 9},
    {"size": "1024x1024"},
    {"model": None},
    {"model": "nothing"},
)


def client_requests() -> Iterator[tuple[str, Body]]:
    """Route and body of each request."""
    for model in MODELS:
        for body in chain(_SHARED, _OPENAI):
            yield OPENAI, {"model": model, "prompt": "a cat"} | body
        for body in chain(_SHARED, _NATIVE):
            yield NATIVE[0], {"model": model, "prompt": "a cat"} | body
    several: tuple[Body, ...] = (
        {"style": _STYLE},
        {"seed": 7, "n": 2},
        {"size": "2048x512"},
        {"aspect_ratio": "21:9"},
        _PAIR,
    )
    for body in several:
        yield OPENAI, {"model": "both", "prompt": "a cat", **body}
    yield OPENAI, {"prompt": "the first model is the default"}
    for alias in ALIASES.values():
        for form in ({}, {"response_format": "url"}, {"response_format": "b64_json"}):
            yield OPENAI, {"model": alias, "prompt": "a cat", **form}
    for name in ("image-01", "minimaxi-image-01", "image-01-live"):
        yield NATIVE[1], {"model": name, "prompt": "a cat"}
