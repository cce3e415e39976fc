"""The models of the providers that speak OpenAI's images format (reference/providers.md, section in each comment).

Rates are left out where they are per token or in yuan, or only resellers state them.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Final

from gateway.domain.catalog import Capability, EditRule
from gateway.domain.images import Format, Size
from gateway.domain.pricing import PerImage
from gateway.domain.sizes import SizeBounds, SizeList
from gateway.providers.protocol import ModelFacts

_MEGABYTE: Final = 1024 * 1024
_UNKNOWN_CHARS: Final = 32_000
"""Limit on prompts of models whose own is not known: the provider refuses a longer one, for free."""
_PIXELS_MAX: Final = 16_700_000
"""Limit on the pixels of a call. As PNG in base64, at most 4 bytes each, they fit into max_response_bytes, 64 MiB."""
_COMMON: Final = frozenset({"background.opaque"})
_FILES: Final = frozenset({Format.JPEG, Format.PNG, Format.WEBP})


def _fields(kind: str, *values: str) -> frozenset[str]:
    return frozenset(f"{kind}.{value}" for value in values)


def _sizes(*texts: str) -> SizeList:
    return SizeList(tuple(_size(text) for text in texts))


def _size(text: str) -> Size:
    width, _, height = text.partition("x")
    return Size(int(width), int(height))


# OpenAI (sections 1 and 18; reference/openai-images.md 1.2)

_OPENAI_FIELDS: Final = (
    _COMMON
    | _fields("output_format", "png", "jpeg", "webp")
    | _fields("quality", "auto", "low", "medium", "high")
    | _fields("moderation", "auto", "low")
)
_TRANSPARENT: Final = frozenset({"background.transparent"})
_OPENAI_EDITS: Final = EditRule(_FILES, 50 * _MEGABYTE - 1, images_max=16, supports_mask=True, supports_links=False)
_GPT_IMAGE_2: Final = Capability(
    (SizeBounds(16, 3840, 16, 655_360, 8_294_400, 3),),
    max_images_per_call=10,
    max_pixels_per_call=_PIXELS_MAX,
    prompt_max_chars=32_000,
    edits=_OPENAI_EDITS,
    fields=_OPENAI_FIELDS,
)
_GPT_IMAGE_2_5: Final = replace(_GPT_IMAGE_2, fields=_OPENAI_FIELDS | _TRANSPARENT | _fields("quality", "xhigh", "max"))
_GPT_IMAGE_1: Final = replace(
    _GPT_IMAGE_2, sizes=(_sizes("1024x1024", "1536x1024", "1024x1536"),), fields=_OPENAI_FIELDS | _TRANSPARENT
)
_LAST_DAY: Final = date(2026, 12, 1)
"""Of four models, by OpenAI's page of deprecations as a third party quotes it (1.1)."""
OPENAI: Final[Mapping[str, ModelFacts]] = {
    "gpt-image-2": ModelFacts(_GPT_IMAGE_2),
    "gpt-image-2-2026-04-21": ModelFacts(_GPT_IMAGE_2),
    "gpt-image-2.5-sunburst": ModelFacts(_GPT_IMAGE_2_5),
    "gpt-image-2.5-sunburst-2026-09-08": ModelFacts(_GPT_IMAGE_2_5),
    "gpt-image-2.5-flare": ModelFacts(_GPT_IMAGE_2_5),
    "gpt-image-2.5-flare-2026-09-08": ModelFacts(_GPT_IMAGE_2_5),
    # The texts on transparency and on the two highest qualities do not name 2.6.
    "gpt-image-2.6-sunburst": ModelFacts(_GPT_IMAGE_2),
    "gpt-image-2.6-flare": ModelFacts(_GPT_IMAGE_2),
    "gpt-image-1.5": ModelFacts(_GPT_IMAGE_1, retires_on=_LAST_DAY),
    "gpt-image-1-mini": ModelFacts(_GPT_IMAGE_1, retires_on=_LAST_DAY),
    "chatgpt-image-latest": ModelFacts(_GPT_IMAGE_1, retires_on=_LAST_DAY),
    "gpt-image-1": ModelFacts(_GPT_IMAGE_1, retires_on=date(2026, 10, 23)),
}
RELAYED: Final = ModelFacts(replace(_GPT_IMAGE_1, fields=_OPENAI_FIELDS))
"""Any gpt-image model behind another name: the sizes that all of them make."""

# MiniMax H3-Image (section 11; reference/minimax.md 1.5)

_H3: Final = Capability(
    (SizeBounds(1, 8192, 1, 655_360, 20_000_000, 3),),
    max_images_per_call=10,
    max_pixels_per_call=_PIXELS_MAX,
    prompt_max_chars=32_000,
    edits=EditRule(_FILES, 10 * _MEGABYTE - 1, images_max=16),  # its bytes are not known: as those of image-01
    fields=_COMMON | _fields("output_format", "png", "jpeg", "webp"),
)
H3: Final[Mapping[str, ModelFacts]] = {
    "MiniMax-H3-Image": ModelFacts(_H3),
    "MiniMax-H3-Image-Highspeed": ModelFacts(_H3),
}

# Seedream at Ark and BytePlus (section 9)

_SQUARE_2K: Final = Size(2048, 2048)
_AREA_2K, _AREA_4K = 2048 * 2048, 4096 * 4096
_SEEDREAM: Final = Capability(
    (SizeBounds(15, 16_384, 1, 3_686_400, _AREA_4K, 16),),
    _SQUARE_2K,
    prompt_max_chars=_UNKNOWN_CHARS,
    edits=EditRule(_FILES, 30 * _MEGABYTE, images_max=14),
    fields=_COMMON,
)
_5: Final = _COMMON | _fields("output_format", "png", "jpeg")
_SEEDREAM_5_PRO: Final = replace(
    _SEEDREAM,
    sizes=(SizeBounds(15, 8192, 1, 921_600, _AREA_2K, 16),),
    edits=EditRule(_FILES, 30 * _MEGABYTE, images_max=10),
    fields=_5,
)
_SEEDREAM_4: Final = replace(_SEEDREAM, sizes=(SizeBounds(15, 16_384, 1, 921_600, _AREA_4K, 16),))
_SEEDREAM_3: Final = replace(
    _SEEDREAM,
    sizes=(SizeBounds(512, 2048, 1),),
    default_size=Size(1024, 1024),
    edits=None,
    fields=_COMMON | {"seed"},
)
BYTEPLUS: Final[Mapping[str, ModelFacts]] = {
    "seedream-5-0-pro-260628": ModelFacts(_SEEDREAM_5_PRO),
    "seedream-5-0-260128": ModelFacts(replace(_SEEDREAM, fields=_5)),
    "seedream-4-5-251128": ModelFacts(_SEEDREAM),
    "seedream-4-0-250828": ModelFacts(_SEEDREAM_4),
    "seedream-3-0-t2i-250415": ModelFacts(_SEEDREAM_3),
}
ARK: Final[Mapping[str, ModelFacts]] = {f"doubao-{name}": facts for name, facts in BYTEPLUS.items()}
ARK_DEFAULT: Final = ModelFacts(_SEEDREAM)

# Zhipu and Z.AI (section 12). The bounds are general knowledge; all documented sizes are within them.

_ZHIPU_FIELDS: Final = _COMMON | _fields("quality", "standard", "hd", "low", "medium", "high")
_COGVIEW: Final = Capability(
    (SizeBounds(512, 2048, 16, area_max=2**21),),
    prompt_max_chars=_UNKNOWN_CHARS,
    supports_base64=False,
    fields=_ZHIPU_FIELDS,
)
_GLM_IMAGE: Final = replace(_COGVIEW, sizes=(SizeBounds(512, 2048, 32, area_max=2**21),), default_size=Size(1280, 1280))
ZHIPU: Final[Mapping[str, ModelFacts]] = {
    "glm-image": ModelFacts(_GLM_IMAGE),
    "cogview-4": ModelFacts(_COGVIEW),
    "cogview-4-250304": ModelFacts(_COGVIEW),
    "cogview-3-flash": ModelFacts(_COGVIEW, PerImage(0)),
}
ZHIPU_DEFAULT: Final = ModelFacts(_COGVIEW)

# Baidu Qianfan (section 13)

_QIANFAN: Final = Capability(
    (_sizes("1024x1024"),),
    prompt_max_chars=800,
    supports_base64=False,
    fields=_COMMON | {"seed"},
)
_QIANFAN_EDITS: Final = EditRule(_FILES, 10 * _MEGABYTE - 1)
"""The limit on bytes is not known."""
QIANFAN: Final[Mapping[str, ModelFacts]] = {
    "qwen-image": ModelFacts(_QIANFAN),
    "qwen-image-edit": ModelFacts(replace(_QIANFAN, edits=_QIANFAN_EDITS)),
    "musesteamer-air-image": ModelFacts(replace(_QIANFAN, prompt_max_chars=1000)),
    "irag-1.0": ModelFacts(
        replace(
            _QIANFAN,
            sizes=(_sizes("1024x1024", "768x768", "2048x2048"),),
            max_images_per_call=4,
            prompt_max_chars=220,
        )
    ),
    "ernie-irag-edit": ModelFacts(replace(_QIANFAN, prompt_max_chars=220, edits=_QIANFAN_EDITS)),
    "ernie-image-turbo": ModelFacts(_QIANFAN, retires_on=date(2026, 6, 30)),
}
QIANFAN_DEFAULT: Final = ModelFacts(_QIANFAN)

# Recraft (section 7)

_RECRAFT_4: Final = (
    *("1024x1024", "1536x768", "768x1536", "1280x832", "832x1280", "1216x896", "896x1216", "1152x896", "896x1152"),
    *("832x1344", "1280x896", "896x1280", "1344x768", "768x1344"),
)
_RECRAFT_3: Final = (
    *("1024x1024", "1365x1024", "1536x1024", "1820x1024", "2048x1024", "1434x1024", "1280x1024", "1707x1024"),
    *("1024x1365", "1024x1536", "1024x1820", "1024x2048", "1024x1434", "1024x1280", "1024x1707"),
)
_RECRAFT: Final = Capability(
    (_sizes(*_RECRAFT_4),),
    max_images_per_call=6,
    max_pixels_per_call=_PIXELS_MAX,
    prompt_max_chars=10_000,
    fields=_COMMON | {"seed"} | _fields("output_format", "png", "webp"),
)
_RECRAFT_PRO: Final = replace(
    _RECRAFT,
    sizes=(SizeList(tuple(Size(2 * size.width, 2 * size.height) for size in _sizes(*_RECRAFT_4).sizes)),),
    default_size=_SQUARE_2K,
)
_RECRAFT_OLD: Final = replace(_RECRAFT, sizes=(_sizes(*_RECRAFT_3),), prompt_max_chars=1000)
RECRAFT: Final[Mapping[str, ModelFacts]] = {
    "recraftv4_1": ModelFacts(_RECRAFT),
    "recraftv4_1_pro": ModelFacts(_RECRAFT_PRO),
    "recraftv4_1_utility": ModelFacts(_RECRAFT),
    "recraftv4_1_utility_pro": ModelFacts(_RECRAFT_PRO),
    "recraftv4": ModelFacts(_RECRAFT),
    "recraftv4_pro": ModelFacts(_RECRAFT_PRO),
    "recraftv3": ModelFacts(_RECRAFT_OLD, PerImage(40_000)),
    "recraftv2": ModelFacts(_RECRAFT_OLD, PerImage(22_000)),
}
RECRAFT_DEFAULT: Final = ModelFacts(_RECRAFT)

# Relays and 302.AI's other route (section 2): what a model behind them can do is not known.

GENERIC: Final = ModelFacts(
    Capability(
        (_sizes("1024x1024", "1536x1024", "1024x1536"),),
        prompt_max_chars=_UNKNOWN_CHARS,
        edits=_OPENAI_EDITS,
        fields=_COMMON,
    )
)
ANY_SIZE: Final = SizeBounds(64, 4096, 1)
"""Of a relay whose operator says that it makes exact sizes."""
