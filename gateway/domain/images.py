"""A job to make images, what an upstream can do, and the pictures that come back."""

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from gateway.domain.sizes import AspectRatios, Size, SizePlan, SizePolicy, SizeRule, exact_size, plan_size

URL_MAX_CHARS: Final = 8192
"""Limit on the URL of an image, from a provider or a client; signed ones have a few hundred."""

_SEEDS: Final = 2**31
"""A moved seed stays in the smallest range that a provider publishes."""

_SQUARE: Final = Size(1024, 1024)


class ResponseFormat(Enum):
    """The form in which the client receives the images."""

    URL = "url"
    BASE64 = "base64"


class Operation(Enum):
    """What an image is made from: a text, or images that it changes."""

    GENERATE = "generate"
    EDIT = "edit"


class Role(Enum):
    """What an input image is used for."""

    CHARACTER = "character"
    """The person or figure to show."""


class Format(Enum):
    """A picture's file format, as OpenAI names it in `output_format`."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"


@dataclass(frozen=True, slots=True)
class Capability:
    """What one call of one model at one upstream can do."""

    sizes: tuple[SizeRule, ...]
    """In order of preference."""
    default_size: Size = _SQUARE
    """Made if no size is asked for."""
    max_images_per_call: int = 1
    prompt_max_chars: int = 1000
    operations: frozenset[Operation] = frozenset({Operation.GENERATE})
    answers_base64: bool = True
    """Answers with base64 when asked; otherwise links are fetched and encoded by the gateway."""
    fields: frozenset[str] = frozenset()
    """The optional fields it takes: see `ImageJob.fields`."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image that is part of the request."""

    role: Role
    link: bytes = field(repr=False)
    """A URL or a data URL, as a JSON string. It may be megabytes: every call of a job sends this object."""


@dataclass(frozen=True, slots=True)
class ImageJob:
    """What is to be made. At most one of `size`, `pixels` and `aspect_ratio` is set."""

    prompt: str = field(repr=False)
    count: int = 1
    delivery: ResponseFormat = ResponseFormat.BASE64
    operation: Operation = Operation.GENERATE
    size: Size | None = None
    """The size policy finds what comes closest."""
    pixels: Size | None = None
    """Exactly this size."""
    aspect_ratio: str | None = None
    """Exactly this ratio."""
    quality: str | None = None
    output_format: str | None = None
    background: str | None = None
    seed: int | None = None
    inputs: tuple[InputImage, ...] = field(default=(), repr=False)
    options: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Fields that only some providers know: "PROVIDER.FIELD" to a JSON value."""

    @property
    def held_bytes(self) -> int:
        """What the inputs and options hold in memory."""
        return sum(len(image.link) for image in self.inputs) + sum(map(len, self.options.values()))

    @property
    def fields(self) -> frozenset[str]:
        """What is set beyond prompt and size: "seed", "KIND.VALUE" of choices and inputs, names of options."""
        found = [*self.options, *[f"input.{image.role.value}" for image in self.inputs]]
        if self.seed is not None:
            found.append("seed")
        choices = (("quality", self.quality), ("output_format", self.output_format), ("background", self.background))
        found += [f"{kind}.{value}" for kind, value in choices if value]
        return frozenset(found)


@dataclass(frozen=True, slots=True)
class CallPlan:
    """One call of a job: what the upstream is asked for."""

    model: str
    """The upstream's name of the model."""
    images: int
    shape: SizePlan
    delivery: ResponseFormat
    """Links if the upstream has no base64; the gateway then fetches and encodes them."""


def plan_shape(job: ImageJob, capability: Capability, policy: SizePolicy) -> SizePlan | None:
    """How the job's size is asked for; None if the upstream cannot honour every field of the job."""
    is_possible = job.operation in capability.operations and len(job.prompt) <= capability.prompt_max_chars
    if not is_possible or not job.fields <= capability.fields:
        return None
    if job.aspect_ratio is not None:
        ratios = (rule for rule in capability.sizes if isinstance(rule, AspectRatios))
        return next((shape for rule in ratios if (shape := rule.named(job.aspect_ratio))), None)
    if job.pixels is not None:
        return exact_size(job.pixels, (rule for rule in capability.sizes if not isinstance(rule, AspectRatios)))
    if job.size is None:
        return SizePlan(capability.default_size)
    return plan_size(job.size, capability.sizes, policy)


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """A picture at a result host's URL."""

    url: str


@dataclass(frozen=True, slots=True)
class Base64Image:
    """A picture in base64: a slice of the received bytes, plain ASCII, no line breaks, safe inside a JSON string."""

    base64: memoryview = field(repr=False)


Picture = ImageUrl | Base64Image


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
        return sum(len(picture.base64) for picture in self.pictures if isinstance(picture, Base64Image))

    @property
    def missing(self) -> int:
        return self.count - len(self.pictures)


def split_count(count: int, max_per_call: int) -> list[int]:
    """The sizes of the calls that make `count` images, the fullest first."""
    full, rest = divmod(count, max_per_call)
    return [max_per_call] * full + ([rest] if rest else [])


def with_seed_of(job: ImageJob, index: int) -> ImageJob:
    """The job for the call that begins with image `index`: its seed moves on, or it would buy the same again."""
    if job.seed is None or index == 0:
        return job
    return replace(job, seed=(job.seed + index) % _SEEDS)


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
