"""Bodies as clients send them, and what becomes of them on the way: the seeds of both wires' parsers."""

from collections.abc import Mapping, Sequence
from typing import Final

from hypothesis import strategies as st

from tests.fuzz.values import JsonValue, anything, mangled, render, spoiled

Body = Mapping[str, JsonValue]

OPENAI: Final[tuple[Body, ...]] = (
    {"prompt": "a lighthouse at dawn"},
    {"model": "dall-e-3", "prompt": "a white siamese cat", "n": 1, "size": "1024x1024"},
    {"model": "dall-e-3", "prompt": "a fox", "quality": "hd", "style": "natural", "response_format": "b64_json"},
    {"model": "gpt-image-1", "prompt": "a fox", "stream": True, "partial_images": 2, "background": "opaque"},
    {"model": "gpt-image-1", "prompt": "a fox", "output_format": "jpeg", "output_compression": 80, "moderation": "low"},
    {"model": "image-01", "prompt": "a fox", "aspect_ratio": "21:9", "seed": 7, "prompt_optimizer": True},
    {"model": "image-01", "prompt": "a fox", "width": 512, "height": 768, "aigc_watermark": False, "user": "u-1"},
    {
        "prompt": "a fox",
        "subject_reference": [{"type": "character", "image_file": "https://example.org/a.jpg"}],
        "style": {"style_type": "水彩", "style_weight": 0.5},
        "safety_identifier": "s",
        "complexity": "low",
    },
)
EDITS: Final[tuple[Body, ...]] = (
    {"prompt": "a fox", "images": [{"image_url": "https://example.org/a.jpg"}], "input_fidelity": "high"},
    {"prompt": "a fox", "image": "data:image/jpeg;base64,/9j/4AAQ", "n": 2, "size": "1024x1536"},
    {"prompt": "a fox", "images": [{"file_id": "file-1"}], "mask": {"image_url": "data:image/png;base64,iVBORw0KGgoA"}},
    {"prompt": "a fox", "image": ["data:image/png;base64,iVBORw0KGgoA"], "stream": True, "quality": "high"},
)
NATIVE: Final[tuple[Body, ...]] = (
    {"model": "image-01", "prompt": "a fox"},
    {"model": "image-01", "prompt": "a fox", "aspect_ratio": "16:9", "response_format": "url", "n": 3},
    {"model": "minimaxi-image-01", "prompt": "a fox", "response_format": "base64", "prompt_optimizer": False},
    {"model": "image-01", "prompt": "a fox", "width": 1024, "height": 1024, "seed": 1, "aigc_watermark": True},
    {
        "model": "image-01-live",
        "prompt": "a fox",
        "style": {"style_type": "漫画", "style_weight": 1},
        "subject_reference": [{"type": "character", "image_file": "data:image/jpeg;base64,/9j/4AAQ"}],
    },
)


def names_of(seeds: Sequence[Body]) -> list[str]:
    return sorted({name for seed in seeds for name in seed})


@st.composite
def bodies(draw: st.DrawFn, seeds: Sequence[Body]) -> bytes:
    """A real body, changed in its fields or in its bytes or in both; or something else altogether."""
    kind = draw(st.sampled_from(("real", "fields", "fields", "fields", "bytes", "both", "anything")))
    if kind == "anything":
        return render(draw(anything))
    seed = draw(st.sampled_from(seeds))
    body = render(draw(spoiled(seed, names_of(seeds))) if kind in {"fields", "both"} else seed)
    return draw(mangled(body)) if kind in {"bytes", "both"} else body
