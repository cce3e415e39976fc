"""A job to make images, what an upstream can do, and the pictures that come back."""

import math
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Size:
    """Pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def log_ratio(self) -> float:
        return math.log(self.width / self.height)


DEFAULT_RATIO: Final = "1:1"
PRESETS: Final[Mapping[str, Size]] = MappingProxyType(
    {
        "1:1": Size(1024, 1024),
        "16:9": Size(1280, 720),
        "4:3": Size(1152, 864),
        "3:2": Size(1248, 832),
        "2:3": Size(832, 1248),
        "3:4": Size(864, 1152),
        "9:16": Size(720, 1280),
        "21:9": Size(1344, 576),
    }
)
"""Pixels made for each `aspect_ratio` (reference/minimax.md 1.3)."""

PIXELS_MIN: Final = 512
PIXELS_MAX: Final = 2048
PIXELS_STEP: Final = 8
"""A side that image-01 takes as `width` or `height` (reference/minimax.md 1.2)."""

URL_MAX_CHARS: Final = 8192
"""A URL of a picture, as provider or client sends it; signed ones have some hundred."""

_SEEDS: Final = 2**31
"""A moved seed stays in the range that a reseller publishes (reference/minimax.md 1.2)."""


class SizePolicy(Enum):
    """What happens to a size that an upstream cannot make: the closest one, or a refusal."""

    NEAREST = "nearest"
    STRICT = "strict"


class Delivery(Enum):
    """How the caller wants the pictures."""

    URL = "url"
    BASE64 = "base64"


@dataclass(frozen=True, slots=True)
class Capability:
    """What one call of one model at one upstream can do."""

    max_images_per_call: int = 9
    prompt_max_chars: int = 1499
    ratios: frozenset[str] = frozenset(PRESETS)
    takes_pixels: bool = True
    """Takes `width` and `height`."""
    answers_base64: bool = True
    """Answers with base64 when asked; otherwise links are fetched and encoded by the gateway."""
    fields: frozenset[str] = frozenset()
    """The optional fields it takes: names of `Extras`."""


@dataclass(frozen=True, slots=True)
class Extras:
    """MiniMax's own optional fields; None is absent. JSON values are kept as the caller sent them."""

    seed: int | None = None
    prompt_optimizer: bool | None = None
    aigc_watermark: bool | None = None
    style: bytes | None = None
    subject_reference: bytes | None = None

    @property
    def held_bytes(self) -> int:
        return len(self.style or b"") + len(self.subject_reference or b"")

    def given(self) -> frozenset[str]:
        """The names of the fields that the caller set."""
        return frozenset(name for name in EXTRA_FIELDS if getattr(self, name) is not None)


EXTRA_FIELDS: Final = ("seed", "prompt_optimizer", "aigc_watermark", "style", "subject_reference")


@dataclass(frozen=True, slots=True)
class ImageJob:
    """What is to be made. At most one of `size`, `pixels` and `aspect_ratio` is set."""

    prompt: str = field(repr=False)
    count: int = 1
    delivery: Delivery = Delivery.BASE64
    size: Size | None = None
    """Asked for in OpenAI's field: the size rule finds what comes closest."""
    pixels: Size | None = None
    """Asked for as MiniMax's `width` and `height`: exactly this."""
    aspect_ratio: str | None = None
    """Asked for in MiniMax's field: exactly this."""
    extras: Extras = field(default=Extras(), repr=False)


@dataclass(frozen=True, slots=True)
class Shape:
    """How to ask an upstream for a size, and the size that it will make."""

    made: Size
    aspect_ratio: str | None = None
    pixels: Size | None = None


def plan_shape(job: ImageJob, capability: Capability, policy: SizePolicy) -> Shape | None:
    """The size rule of reference/minimax.md section 6; None where the upstream cannot make the size."""
    if job.aspect_ratio is not None:
        return _preset(job.aspect_ratio) if job.aspect_ratio in capability.ratios else None
    if job.pixels is not None:
        return _exact(job.pixels) if capability.takes_pixels else None
    if job.size is None:
        return Shape(PRESETS[DEFAULT_RATIO])
    return _plan_size(job.size, capability, policy)


def _plan_size(size: Size, capability: Capability, policy: SizePolicy) -> Shape | None:
    for ratio, preset in PRESETS.items():
        if preset == size and ratio in capability.ratios:
            return _preset(ratio)
    if capability.takes_pixels and can_be_pixels(size):
        return _exact(size)
    nearest = min(sorted(capability.ratios), key=lambda ratio: abs(PRESETS[ratio].log_ratio - size.log_ratio))
    is_same_ratio = math.isclose(PRESETS[nearest].log_ratio, size.log_ratio)
    if policy is SizePolicy.NEAREST or (is_same_ratio and not capability.takes_pixels):
        return _preset(nearest)
    return None


def can_be_pixels(size: Size) -> bool:
    """Whether image-01 takes this size as `width` and `height`."""
    return all(PIXELS_MIN <= side <= PIXELS_MAX and side % PIXELS_STEP == 0 for side in (size.width, size.height))


def _preset(ratio: str) -> Shape:
    return Shape(PRESETS[ratio], aspect_ratio=ratio)


def _exact(size: Size) -> Shape:
    return Shape(size, pixels=size)


@dataclass(frozen=True, slots=True)
class Link:
    """A picture at a result host's URL."""

    url: str


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture in base64: a slice of the received bytes, plain ASCII, no line breaks, safe inside a JSON string."""

    base64: memoryview = field(repr=False)


Picture = Link | Encoded


@dataclass(frozen=True, slots=True)
class ImageReply:
    """What one upstream call delivered."""

    pictures: tuple[Picture, ...]
    id: str = ""
    failed: int | None = None
    """How many it says were withheld by its safety check, where it says so."""

    def first(self, ordered: int) -> "ImageReply":
        """The reply without pictures that were not ordered."""
        return replace(self, pictures=self.pictures[:ordered])

    def withheld(self, ordered: int) -> int:
        """How many of the images that were ordered were withheld: never more than are not there, and no guess."""
        return max(0, min(ordered - len(self.pictures), self.failed or 0))


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What a job delivered, over all its calls."""

    pictures: tuple[Picture, ...]
    made: Size
    count: int
    """Images asked for."""
    id: str = ""
    """The upstream's id of the first call, or empty."""

    @property
    def held_bytes(self) -> int:
        return sum(len(picture.base64) for picture in self.pictures if isinstance(picture, Encoded))

    @property
    def missing(self) -> int:
        return self.count - len(self.pictures)


def split_count(count: int, max_per_call: int) -> list[int]:
    """The sizes of the calls that make `count` images, the fullest first."""
    full, rest = divmod(count, max_per_call)
    return [max_per_call] * full + ([rest] if rest else [])


def with_seed_of(job: ImageJob, index: int) -> ImageJob:
    """The job for the call that begins with image `index`: its seed moves on, or it would buy the same again."""
    seed = job.extras.seed
    if seed is None or index == 0:
        return job
    return replace(job, extras=replace(job.extras, seed=(seed + index) % _SEEDS))


class Format(Enum):
    """A picture's file format, as OpenAI names it in `output_format`."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"


_MAGIC: Final = (
    (b"\xff\xd8\xff", 0, Format.JPEG),
    (b"\x89PNG\r\n\x1a\n", 0, Format.PNG),
    (b"WEBP", 8, Format.WEBP),
    (b"GIF8", 0, Format.GIF),
)
"""The bytes that tell a format, and where they stand."""


def sniff(data: bytes | bytearray) -> Format | None:
    """The format of a picture's first bytes, None where it is none."""
    return next((kind for magic, start, kind in _MAGIC if data.startswith(magic, start)), None)


def sniff_base64(data: memoryview) -> Format | None:
    """The format of a picture in base64, read from its first characters."""
    return sniff(_decode_head(bytes(data[:16])))


def _decode_head(head: bytes) -> bytes:
    """The first bytes of valid base64: as far as whole groups of four go."""
    whole = head[: len(head) // 4 * 4]
    try:
        return b64decode(whole)
    except ValueError:
        return b""
