"""Requests of the clients, drawn from a seed: both APIs, every option, and every fault word."""

from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any, Final

from chaos.configuration import FAR, LIVE, STEADY, TAG_KEY

OPENAI: Final = "openai"
NATIVE: Final = "native"
BATCH: Final = "batch"
LINE_PIXELS: Final = 512
LINE_SEED: Final = 7
"""Of the lines of batches: with both, the provider draws equal images for equal prompts."""
_NATIVE_PATHS: Final = ("/v1/image_generation", "/minimaxi/v1/image_generation")
_TAGS: Final = ("", "ads", "shop", "a|b%7C")
_RATIOS: Final = ("1:1", "16:9", "4:3", "3:2", "2:3", "3:4", "9:16")
_WORDS: Final = (
    "[delay=0.1]",
    "[delay=1]",
    "[delay=2.5]",
    "[fail=1]",
    "[fail=9]",
    "[hang]",
    "[cut]",
    "[garbage]",
    "[empty]",
    "[http=500]",
    "[http=502]",
    "[http=503]",
    "[http=504]",
    "[http=524]",
    "[code=1000]",
    "[code=1001]",
    "[code=1024]",
    "[code=1026]",
    "[code=1027]",
    "[code=1033]",
    "[code=1042]",
    "[code=2013]",
    "[code=-1024]",
    "[cut][fail=1]",
    "[delay=1][cut]",
)
"""They affect a single request; faults that cause cooldowns are scheduled, see schedule.py."""
_WORD_SHARE: Final = 0.33
_HANG_UP_SHARE: Final = 0.12
_WRONG_SHARE: Final = 0.03


class HangUp(StrEnum):
    """When a client disconnects."""

    IN_THE_BODY = "in the body"
    AT_ONCE = "at once"
    WAITING = "waiting"
    IN_THE_ANSWER = "in the answer"


@dataclass(frozen=True, slots=True)
class Order:
    """One request, before it has an ID."""

    wire: str
    path: str
    body: dict[str, Any]
    words: str
    count: int
    headers: dict[str, str] = field(default_factory=dict)
    hang_up: HangUp | None = None
    hang_up_s: float = 0.0

    def body_for(self, request_id: str) -> dict[str, Any]:
        return self.body | {"prompt": f"{request_id} {self.words}".strip()}


def draw(chance: Random, models: tuple[str, ...] | None) -> Order:
    """Draws a client's next request."""
    words = chance.choice(_WORDS) if chance.random() < _WORD_SHARE else "a lighthouse at dawn"
    is_native = chance.random() < 0.4
    body = _native_body(chance, models) if is_native else _openai_body(chance, models)
    count = int(body.get("n", 1))
    if chance.random() < _WRONG_SHARE:
        body |= chance.choice(({"n": 99}, {"flavour": "salt"}, {"model": "no-such-model"}, {"n": "two"}))
    hang_up = chance.choice(list(HangUp)) if chance.random() < _HANG_UP_SHARE else None
    headers = {}
    if chance.random() < 0.4:
        headers["x-imagegate-max-wait"] = chance.choice(("0", "1", "2.5", "6"))
    if tag := chance.choice(_TAGS):
        headers["x-imagegate-tags"] = f"{TAG_KEY}={tag}"
    path = chance.choice(_NATIVE_PATHS) if is_native else "/v1/images/generations"
    wire = NATIVE if is_native else OPENAI
    return Order(wire, path, body, words, count, headers, hang_up, chance.uniform(0.05, 3.0))


def draw_line(chance: Random) -> Order:
    """Draws a line of a batch."""
    words = chance.choice(_WORDS) if chance.random() < _WORD_SHARE else "a lighthouse at dawn"
    body: dict[str, Any] = {"model": "image-01", "size": f"{LINE_PIXELS}x{LINE_PIXELS}", "seed": LINE_SEED}
    body |= {"n": _count(chance, 9), "response_format": chance.choice(("url", "url", "b64_json"))}
    count = int(body["n"])
    if tag := chance.choice(_TAGS):
        body |= {"metadata": {TAG_KEY: tag}, "user": f"user of {tag}"}
    if chance.random() < _WRONG_SHARE:
        body |= chance.choice(({"n": 99}, {"flavour": "salt"}, {"n": "two"}))
    return Order(BATCH, "/v1/images/generations", body, words, count)


def poison(code: int) -> Order:
    """Returns a prompt that makes the provider respond with an error that causes a cooldown.

    Uses the model that only MiniMax has: only its free endpoints show the end of every such state.
    """
    body = {"model": LIVE, "n": 1, "response_format": "url"}
    return Order(OPENAI, "/v1/images/generations", body, f"[code={code}]", 1)


def steady_call(count: int, words: str = "") -> Order:
    """Returns a call of the model whose upstream no other fault affects."""
    body = {"model": STEADY.model, "n": count, "response_format": "url"}
    return Order(OPENAI, "/v1/images/generations", body, words, count)


def _count(chance: Random, most: int) -> int:
    return chance.choice((1, 1, 1, 1, 2, 2, 3, 4, chance.randint(1, most)))


def _openai_body(chance: Random, models: tuple[str, ...] | None) -> dict[str, Any]:
    names = ("image-01", "dall-e-3", "gpt-image-1")
    model = chance.choice(names if models else (*names, *names, LIVE, FAR))
    body: dict[str, Any] = {"model": model}
    if chance.random() < 0.7:
        body["n"] = _count(chance, 10)
    is_stream = chance.random() < 0.25
    if is_stream:
        body["stream"] = True
    elif chance.random() < 0.85:
        body["response_format"] = chance.choice(("url", "url", "url", "b64_json"))
    for name, values, share in (
        ("size", ("auto", "1024x1024", "1792x1024", "512x512"), 0.3),
        ("quality", ("auto", "hd", "low"), 0.2),
        ("moderation", ("auto", "low"), 0.1),
        ("user", ("someone",), 0.1),
        ("style", ("vivid", "natural"), 0.1),
        ("output_format", ("jpeg",), 0.1),
        ("background", ("auto", "opaque"), 0.1),
    ):
        if chance.random() < share:
            body[name] = chance.choice(values)
    if model not in {FAR, LIVE} and chance.random() < 0.1:
        body["seed"] = chance.randrange(1000)
    if chance.random() < 0.1:
        body["prompt_optimizer"] = chance.choice((True, False))
    return body


def _native_body(chance: Random, models: tuple[str, ...] | None) -> dict[str, Any]:
    names = ("image-01", "minimaxi-image-01")
    model = chance.choice(names if models else (*names, LIVE))
    body: dict[str, Any] = {"model": model}
    if chance.random() < 0.7:
        body["n"] = _count(chance, 9)
    if chance.random() < 0.6:
        body["response_format"] = chance.choice(("url", "url", "url", "base64"))
    if chance.random() < 0.3:
        body["aspect_ratio"] = chance.choice(_RATIOS)
    elif model != LIVE and chance.random() < 0.2:
        body |= {"width": 512, "height": 768}
    if model == LIVE and chance.random() < 0.3:
        body["style"] = {"style_type": "水彩", "style_weight": 0.5}
    if chance.random() < 0.1:
        body["aigc_watermark"] = True
    return body
