"""Image jobs, the sizes that they ask for, and the resulting images."""

import math
import string
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final, NamedTuple

URL_MAX_CHARS: Final = 8192
"""Limit on the URL of an image, from a provider or a client. Signed URLs have a few hundred characters."""

_SEEDS: Final = 2**31
"""An incremented seed stays in the smallest range that a provider publishes."""


class Size(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def log_ratio(self) -> float:
        return math.log(self.width / self.height)


class SizeChange(NamedTuple):
    """The size that the client asked for, and another one that was made."""

    asked: Size
    made: Size

    def __str__(self) -> str:
        return f"asked {self.asked}, made {self.made}"


@dataclass(frozen=True, slots=True)
class SizePlan:
    """The size parameters sent upstream, and the resulting size."""

    made: Size
    aspect_ratio: str | None = None
    pixels: Size | None = None


class ResponseFormat(Enum):
    """The form in which the client receives the images, or the upstream is asked for them (not for both)."""

    URL = "url"
    BASE64 = "base64"
    BOTH = "both"  # base64 and the link to the same image; the link alone if the gateway cannot download it


class LinkSource(Enum):
    """Whose links clients get: the provider's, which expire when it decides, or the gateway's, to stored images."""

    PROVIDER = "provider"  # without a storage
    MIXED = "mixed"  # the gateway's only if the client asks for links and the provider's do not lead to its images
    GATEWAY = "gateway"

    def stores(self, delivery: ResponseFormat, *, is_emulated: bool) -> bool:
        """Returns whether the images behind an upstream's links are downloaded and stored."""
        if self is LinkSource.MIXED:
            return is_emulated and delivery is ResponseFormat.URL
        return self is LinkSource.GATEWAY and delivery is not ResponseFormat.BASE64


class Operation(Enum):
    """The kind of a job: generation from a prompt, or an edit of input images."""

    GENERATE = "generate"
    EDIT = "edit"


class Role(Enum):
    """The role of an input image."""

    CHARACTER = "character"  # the person or figure to show
    IMAGE = "image"  # an image to edit
    MASK = "mask"  # the area of the first image to edit


class Format(Enum):
    """An image file format, as OpenAI names it in `output_format`."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image that is part of the request."""

    role: Role
    link: bytes = field(repr=False)
    """A URL or a data URL, as a JSON string. It may be megabytes: all calls of a job share this object."""
    format: Format | None = None  # None for a URL, which is not fetched
    size_bytes: int = 0  # of the decoded file; 0 for a URL

    @property
    def base64(self) -> memoryview:
        """The content of a data URL, not copied."""
        return memoryview(self.link)[self.link.index(b",") + 1 : -1]


@dataclass(frozen=True, slots=True)
class ImageJob:
    """A request for images, in neutral terms. At most one of `size`, `pixels` and `aspect_ratio` is set."""

    prompt: str = field(repr=False)
    count: int = 1
    delivery: ResponseFormat = ResponseFormat.BASE64
    operation: Operation = Operation.GENERATE
    size: Size | None = None  # the size policy chooses the closest size
    pixels: Size | None = None  # exactly this size
    aspect_ratio: str | None = None  # exactly this ratio
    quality: str | None = None
    output_format: Format | None = None  # None: as the upstream makes it
    output_compression: int | None = None  # quality of a conversion to JPEG or WebP, 0 to 100
    background: str | None = None
    moderation: str | None = None
    seed: int | None = None
    end_user: str = field(default="", repr=False)  # as the client names it, for providers that ask for it
    inputs: tuple[InputImage, ...] = field(default=(), repr=False)
    options: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Provider options: "PROVIDER.FIELD" to a JSON value."""

    @property
    def held_bytes(self) -> int:
        """Memory of the inputs and options."""
        return sum(len(image.link) for image in self.inputs) + sum(map(len, self.options.values()))

    @property
    def fields(self) -> frozenset[str]:
        """Fields set besides prompt and size: "seed", "KIND.VALUE" of choices and inputs, names of options."""
        names = [*self.options]
        if self.operation is Operation.GENERATE:  # the images of an edit are planned by the rule for edits
            names += [f"input.{image.role.value}" for image in self.inputs]
        if self.seed is not None:
            names.append("seed")
        form = self.output_format and self.output_format.value
        choices = {"quality": self.quality, "output_format": form, "background": self.background}
        choices["moderation"] = self.moderation
        names += [f"{kind}.{value}" for kind, value in choices.items() if value]
        return frozenset(names)


@dataclass(frozen=True, slots=True)
class CallPlan:
    """Parameters of one upstream call of a job."""

    model: str  # the model's name at the upstream
    images: int
    shape: SizePlan
    delivery: ResponseFormat  # URL if the upstream has no base64: the gateway then downloads and encodes the images


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """An image at a URL of a result host."""

    url: str


@dataclass(frozen=True, slots=True)
class Base64Image:
    """An image in base64: a slice of the received bytes, ASCII without line breaks, safe in a JSON string."""

    base64: memoryview = field(repr=False)
    url: str = ""
    """A link to the same image for the client, if it receives both."""


Picture = ImageUrl | Base64Image


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens that a provider reports for one call or for several. The two parts of the input may be unknown: 0."""

    input_tokens: int
    output_tokens: int
    input_text_tokens: int = 0
    input_image_tokens: int = 0
    cached_tokens: int = 0  # of the input

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class ImageReply:
    """The images of one upstream call."""

    pictures: tuple[Picture, ...]
    id: str = ""
    failed: int | None = None  # number of images withheld by the safety check; None if not reported
    usage: TokenUsage | None = None
    stated_usd_micros: int | None = None  # the cost of the call, if the provider states it
    made: Size | None = None  # read from the first image or stated with it; None: the planned size
    quality: str | None = None  # as the provider states it, in OpenAI's terms
    parts: int = 1  # images in each picture; several are in a square grid, which the gateway cuts apart

    @property
    def images(self) -> int:
        return len(self.pictures) * self.parts

    def to_cut(self, wanted: int) -> int:
        """Returns how many images are cut from each picture; 0 if each picture is one image."""
        return min(wanted, self.parts) if self.parts > 1 else 0


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The images of a job, over all its calls."""

    pictures: tuple[Picture, ...]
    made: Size
    count: int  # number of images requested
    id: str = ""  # the upstream's ID of the first call, or empty
    created_s: int = 0  # Unix seconds
    usage: TokenUsage | None = None  # None unless every call has reported it
    background: str = "opaque"

    @property
    def missing(self) -> int:
        return self.count - len(self.pictures)

    @property
    def held_bytes(self) -> int:
        """Memory of the images."""
        return sum(len(picture.base64) for picture in self.pictures if isinstance(picture, Base64Image))


def split_count(count: int, max_per_call: int) -> list[int]:
    """Splits `count` images into calls, the largest first."""
    full, remainder = divmod(count, max_per_call)
    return [max_per_call] * full + ([remainder] if remainder else [])


def with_seed_of(job: ImageJob, index: int) -> ImageJob:
    """Returns the job of the call that begins with image `index`, with a seed of its own to avoid duplicates."""
    if job.seed is None or index == 0:
        return job
    return replace(job, seed=(job.seed + index) % _SEEDS)


_MAGIC: Final = (
    (b"\xff\xd8\xff", 0, Format.JPEG),
    (b"\x89PNG\r\n\x1a\n", 0, Format.PNG),
    (b"WEBP", 8, Format.WEBP),
    (b"GIF8", 0, Format.GIF),
)
"""Magic bytes of each format, with their offsets."""


def sniff(data: bytes | bytearray) -> Format | None:
    """Detects the format from an image's first bytes. Returns None for other data."""
    return next((kind for magic, start, kind in _MAGIC if data.startswith(magic, start)), None)


def sniff_base64(data: memoryview) -> Format | None:
    """Detects the format of a base64 image from its first characters, in whole groups of four."""
    try:
        return sniff(b64decode(data[: min(16, len(data) // 4 * 4)]))
    except ValueError:
        return None


def decoded_bytes(data: memoryview) -> int:
    """Returns the size of the content of valid base64."""
    return len(data) // 4 * 3 - bytes(data[-2:]).count(b"=")


_ALPHABET: Final = (string.ascii_letters + string.digits + "+/").encode()
_PADDINGS: Final = (b"", b"=", b"==")
_PIECE_BYTES: Final = 64 * 1024


def is_base64(data: memoryview) -> bool:
    """Returns whether the data is base64 with its padding and without line breaks. Copies 64 KiB at a time."""
    if len(data) % 4:
        return False
    starts = range(0, len(data), _PIECE_BYTES)
    padding = b"".join(bytes(data[at : at + _PIECE_BYTES]).translate(None, _ALPHABET) for at in starts)
    return padding in _PADDINGS and data[len(data) - len(padding) :] == padding
