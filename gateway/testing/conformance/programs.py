"""The requests of client programs with their default settings, and what they read of the response.

The bodies are those that each program's own code sent (reference/clients.md); a prompt is added to each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gateway.testing.conformance.server import EDITS, GENERATIONS


class Reads(Enum):
    """The fields in which a program looks for an image; it takes the first that is there."""

    BASE64 = ("b64_json",)
    LINK = ("url",)
    EITHER = ("url", "b64_json")


@dataclass(frozen=True, slots=True)
class ProgramRequest:
    """One request of one program."""

    program: str
    act: str
    """A word for the name of the check."""
    reads: Reads
    body: Mapping[str, object]
    """JSON, or the fields of a form if there are `files`."""
    files: tuple[str, ...] = ()
    """Names of the parts that hold a picture."""
    path: str = GENERATIONS
    reads_usage: bool = False
    may_refuse: frozenset[str] = frozenset()
    """Parameters that a server need not support, if it refuses them by name."""
    is_azure: bool = False
    """Path and key are where Azure has them, which a server need not support."""

    @property
    def name(self) -> str:
        words = f"{self.program} {self.act}".lower().replace("-", " ").replace(".", " ").split()
        return "programs." + "_".join(words)

    @property
    def images(self) -> int:
        n = self.body.get("n", 1)
        return n if isinstance(n, int) else 1

    @property
    def kind(self) -> object:
        """The format that the program asked for, and declares to its users; None for any."""
        return self.body.get("output_format")

    @property
    def identity(self) -> str:
        """The same for two programs that send the same request."""
        return repr((self.path, sorted(self.body.items()), self.files))


def _edit(
    program: str,
    act: str,
    reads: Reads,
    body: Mapping[str, object],
    *files: str,
    may_refuse: frozenset[str] = frozenset(),
) -> ProgramRequest:
    return ProgramRequest(program, act, reads, body, files, EDITS, may_refuse=may_refuse)


_Fields = dict[str, object]
_B, _L, _E = Reads.BASE64, Reads.LINK, Reads.EITHER
_Get = ProgramRequest
_MASK: Final = frozenset({"mask"})
_SEVERAL: Final = frozenset({"image", "image[]", "images"})
_AZURE: Final = "/deployments/gpt-image-1/images/generations?api-version=2025-04-01-preview"
"""Below the base URL: `AzureOpenAI(base_url=...)`."""
_SQUARE: Final[_Fields] = {"n": 1, "size": "1024x1024"}
_STANDARD: Final[_Fields] = {**_SQUARE, "quality": "standard"}
_VIVID: Final[_Fields] = {**_STANDARD, "style": "vivid"}
_GPT: Final[_Fields] = {"model": "gpt-image-1"}
_GPT_2: Final[_Fields] = {"model": "gpt-image-2"}
_MINI: Final[_Fields] = {"model": "gpt-image-1-mini"}
_DALL_E: Final[_Fields] = {"model": "dall-e-3"}
_NATIVE: Final[_Fields] = {"model": "image-01"}
_AS_BASE64: Final[_Fields] = {"response_format": "b64_json"}
_AS_LINK: Final[_Fields] = {"response_format": "url"}
_PNG: Final[_Fields] = {"output_format": "png"}
_WEBP: Final[_Fields] = {"output_format": "webp"}

PROGRAM_REQUESTS: Final = (
    _Get("openai SDK", "generate", _B, _GPT),
    _Get("openai SDK", "png", _B, _GPT | _PNG),
    _edit("openai SDK", "edit", _B, _GPT, "image"),
    _edit("openai SDK", "edit list", _B, _GPT, "image[]"),
    _Get("openai 0.28", "generate", _L, _SQUARE),
    _edit("openai 0.28", "inpaint", _L, {"n": "1", "size": "1024x1024"}, "image", "mask", may_refuse=_MASK),
    _Get("openai CLI", "generate", _L, _SQUARE | _AS_LINK),
    _Get("openai-edge", "generate", _L, _SQUARE),
    _Get("AzureOpenAI", "generate", _B, _GPT, path=_AZURE, is_azure=True),
    _Get("Open WebUI", "generate", _E, _AS_BASE64 | {"model": "dall-e-2", "n": 1, "size": "512x512"}),
    _Get("Open WebUI", "generate gpt", _E, _GPT | {"n": 1, "size": "512x512"}),
    _edit("Open WebUI", "edit", _E, _GPT, "image"),
    _edit("Open WebUI", "edit several", _E, _GPT, "image[]", "image[]", may_refuse=_SEVERAL),
    _Get("LibreChat", "dalle3", _L, _DALL_E | {"quality": "hd", "style": "vivid", "size": "1792x1024", "n": 1}),
    _Get(
        "LibreChat",
        "image gen oai",
        _B,
        _GPT | {"n": 1, "background": "auto", "quality": "auto", "size": "auto"} | _PNG,
    ),
    _edit("LibreChat", "image edit oai", _B, _GPT | {"quality": "auto", "size": "auto"}, "image[]"),
    _Get("LobeChat", "generate", _E, _GPT | {"n": 1}),
    _Get("LobeChat", "generate dalle", _E, _DALL_E | {"n": 1} | _AS_BASE64),
    _Get("LobeChat", "generate native", _E, _NATIVE | {"n": 1, "aspectRatio": "1:1", "seed": None}),
    _edit("LobeChat", "edit", _E, _GPT | {"n": "1", "input_fidelity": "high"}, "image"),
    _Get("Cherry Studio", "generate", _B, _NATIVE | _SQUARE | _AS_BASE64),
    _Get("NextChat", "generate", _B, _DALL_E | _VIVID | _AS_BASE64),
    _Get("AI SDK", "generate", _B, _NATIVE | _SQUARE | _AS_BASE64),
    _Get("AI SDK", "generate gpt", _B, _GPT | _SQUARE),
    _Get("AI SDK", "png", _B, _GPT | _SQUARE | _PNG),
    _edit("AI SDK", "edit", _B, _GPT | {"n": "1"}, "image"),
    _Get("AI SDK compatible", "generate", _E, _NATIVE | _SQUARE),
    _Get("LangChain JS", "generate", _L, _DALL_E | _VIVID | _AS_LINK),
    _Get("LangChain", "generate", _L, _SQUARE | {"model": "dall-e-2"}),
    _Get("LangChain", "generate native", _L, _NATIVE | _SQUARE),
    _Get("LlamaIndex", "generate", _L, _DALL_E | _VIVID | _AS_LINK),
    _Get("LlamaIndex", "text to image", _L, {"n": 1, "size": "256x256"}),
    _Get("Haystack", "generate", _B, _GPT_2 | _SQUARE | {"quality": "auto"}),
    _Get("Haystack", "generate dalle", _B, _DALL_E | _STANDARD),
    _Get("Haystack 2", "generate", _L, _DALL_E | _STANDARD | _AS_LINK),
    _Get("Semantic Kernel", "generate", _E, _NATIVE | {"n": 1}),
    _edit("Semantic Kernel", "edit", _E, _GPT | {"n": "1"}, "image[]"),
    _Get("LiteLLM", "generate", _E, _NATIVE),
    _edit("LiteLLM", "edit", _E, _GPT, "image[]"),
    _Get("crewAI", "generate", _L, _DALL_E | _STANDARD),
    _Get("crewAI", "generate native", _L, _NATIVE | _STANDARD),
    _Get("pydantic-ai", "generate", _B, _GPT_2),
    _Get("pydantic-ai", "png", _B, _GPT_2 | _PNG),
    _edit("pydantic-ai", "edit", _B, _GPT_2, "image[]"),
    _Get("agno", "dalle", _L, _DALL_E | _STANDARD),
    _Get("agno", "generate", _B, _GPT_2),
    _Get("phidata", "generate", _L, _DALL_E | _VIVID),
    _Get("CAMEL", "generate", _B, _DALL_E | _STANDARD | _AS_BASE64),
    _Get("griptape", "generate", _B, _NATIVE | {"n": 1} | _AS_BASE64),
    _edit("griptape", "inpaint", _B, _AS_BASE64, "image", "mask", may_refuse=_MASK),
    _Get("AG2", "generate", _L, _DALL_E | _STANDARD),
    _Get("n8n", "generate", _B, _MINI),
    _Get("n8n", "generate dalle", _B, _DALL_E | _AS_BASE64),
    _edit("n8n", "edit", _B, _GPT, "image"),
    _Get("Dify", "generate", _B, _GPT | {"n": 1}, reads_usage=True),
    _Get("Dify", "webp", _B, _GPT | {"n": 1} | _WEBP, reads_usage=True),
    _edit("Dify", "edit", _B, _GPT, "image"),
    _Get("Genkit", "generate", _B, _DALL_E | _AS_BASE64),
    _Get("TanStack AI", "generate", _E, _NATIVE | {"n": 1, "stream": False}),
    _Get("promptfoo", "generate", _E, _DALL_E | _SQUARE),
    _Get("Activepieces", "generate", _E, _DALL_E | {"quality": "standard", "size": "1024x1024"}),
    _Get("Portkey SDK", "generate", _E, _NATIVE),
    _Get(
        "big-AGI",
        "webp",
        _B,
        _GPT_2 | {"n": 1, "output_compression": 100, "moderation": "low", "user": "Big-AGI"} | _WEBP,
    ),
    _Get("Khoj", "generate", _B, _DALL_E | _AS_BASE64),
    _Get("Nextcloud", "generate", _E, _MINI | _SQUARE),
)

PROGRAM_IMAGES: Final = sum({request.identity: request.images for request in PROGRAM_REQUESTS}.values())
"""Images bought for the requests of programs: one purchase serves all that send the same."""
