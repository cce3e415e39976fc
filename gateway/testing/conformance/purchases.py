"""Purchases: images bought by the official SDK, each once for all checks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import openai
from openai import OpenAI
from openai.types import ImagesResponse

from gateway.testing.conformance.checks import InapplicableError, UntriedError, require
from gateway.testing.conformance.responses import Answer, member
from gateway.testing.conformance.server import GENERATIONS, Server

if TYPE_CHECKING:
    import httpx2  # the SDK's own HTTP client

PROMPT: Final = "A red square on white"
UNICODE_PROMPT: Final = "Ein rotes Quadrat auf Weiß\n赤い四角 🟥"
UNREAD: Final = (openai.OpenAIError, ValueError, TypeError, AttributeError, RecursionError)
"""Exceptions of the SDK for responses of an unexpected shape."""
GPT_NAME: Final = "gpt-image-1"
SIZE: Final = "1024x1024"
PARTIAL_IMAGES: Final = 2
_REQUEST: Final = f"POST {GENERATIONS}"
_BUSY: Final = (402, 403, 429, 502, 503, 504)
"""The server cannot make an image now, which says nothing about its API."""
_NULLS: Final = ("n", "size", "quality", "style", "response_format", "output_format", "background", "stream")

IMAGES: Final[Mapping[str, int]] = MappingProxyType(
    {"encoded": 1, "linked": 1, "pair": 2, "nulls": 1, "bare": 1, "streamed": 1, "gpt": 1}
)
"""Every purchase, with its number of images."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """Result of a purchase: the bytes, and the SDK's reading of them."""

    answer: Answer
    parsed: ImagesResponse | None = None
    events: tuple[object, ...] = ()
    request_id: str | None = None
    """From the SDK."""
    raised: BaseException | None = None
    """By the SDK."""

    def item(self) -> Mapping[str, object]:
        """Returns the first image. Raises: UntriedError."""
        found = member(self.answer.document, "data", 0)
        if not isinstance(found, dict):
            raise UntriedError("the answer has no image to judge")
        return found


class Purchases:
    """Buys images for checks and remembers the results."""

    def __init__(self, server: Server, model: str, listed: frozenset[str]) -> None:
        self.model = model
        self.listed = listed
        self._server = server
        transport = openai.DefaultHttpxClient(trust_env=server.trusts_environment, verify=server.trusted)
        self.sdk = OpenAI(
            base_url=server.base_url,
            api_key=server.key,
            max_retries=0,
            timeout=server.timeout_s,
            http_client=transport,
        )
        self._made: dict[str, Purchase | UntriedError] = {}

    @property
    def is_gpt(self) -> bool:
        """True for model names that OpenAI answers in base64 only."""
        return self.model.startswith(("gpt-image", "chatgpt-image"))

    def encoded(self) -> Purchase:
        """One image in base64, in a size of every family."""
        form = {} if self.is_gpt else {"response_format": "b64_json"}
        return self._made_once("encoded", lambda: self.buy(model=self.model, n=1, size=SIZE, **form))

    def linked(self) -> Purchase:
        purchase = self._made_once("linked", lambda: self.buy(model=self.model, response_format="url"), strict=False)
        if purchase.answer.status == 400 and self.is_gpt:
            raise InapplicableError("the model gives no links, as OpenAI's of this name")
        return _delivered(purchase)

    def pair(self) -> Purchase:
        purchase = self._made_once("pair", lambda: self.buy(model=self.model, n=2), strict=False)
        if purchase.answer.status == 400 and member(purchase.answer.error, "param") == "n":
            raise InapplicableError("the model makes one image at a time, and says so")
        return _delivered(purchase)

    def nulls(self) -> Purchase:
        """Every optional field present, as null."""
        absent: dict[str, object] = dict.fromkeys(_NULLS)
        return self._made_once("nulls", lambda: self.buy(PROMPT, model=self.model, **absent))

    def bare(self) -> Purchase:
        """No model, a non-ASCII prompt, and a user."""
        return self._made_once("bare", lambda: self.buy(UNICODE_PROMPT, user="conformance-user"))

    def gpt(self) -> Purchase:
        if GPT_NAME not in self.listed:
            raise InapplicableError(f"the server does not list {GPT_NAME}")
        return self._made_once("gpt", lambda: self.buy(model=GPT_NAME))

    def streamed(self) -> Purchase:
        """A stream of events. Raises: InapplicableError if the server correctly refuses streams."""
        purchase = self._made_once("streamed", self._stream, strict=False)
        if purchase.answer.status in {400, 404} and purchase.answer.error:
            raise InapplicableError(f"the server does not stream: {purchase.answer.quote()}")
        return _delivered(purchase)

    def _made_once(self, name: str, make: Callable[[], Purchase], *, strict: bool = True) -> Purchase:
        """Buys once. A purchase without a response is not repeated, because it may have been made and billed."""
        if name not in self._made:
            try:
                self._made[name] = self._patiently(make)
            except UntriedError as error:
                self._made[name] = error
        made = self._made[name]
        if isinstance(made, UntriedError):
            raise made
        return _delivered(made) if strict else made

    def _patiently(self, make: Callable[[], Purchase]) -> Purchase:
        made: list[Purchase] = []

        def ask() -> Answer:
            made.append(make())
            return made[-1].answer

        self._server.patiently(ask)
        return made[-1]

    def buy(self, prompt: str = PROMPT, /, **fields: object) -> Purchase:
        """Buys one generation. Raises: UntriedError without a response."""

        def send() -> Purchase:
            raw = self.sdk.images.with_raw_response.generate(prompt=prompt, extra_body=fields)
            answer = self._keep(raw.http_response)
            try:
                parsed = raw.parse()
            except UNREAD as error:
                return Purchase(answer, raised=error)
            is_read = isinstance(parsed, ImagesResponse)
            return Purchase(answer, parsed if is_read else None, request_id=parsed._request_id if is_read else None)  # noqa: SLF001 - the SDK's documented name

        return self._send(send)

    def _stream(self) -> Purchase:
        """Returns the events twice: the raw bytes, and the SDK's reading of the same bytes."""

        def send() -> Purchase:
            with self.sdk.images.with_streaming_response.generate(
                prompt=PROMPT, model=self.model, stream=True, partial_images=PARTIAL_IMAGES
            ) as response:
                response.read()
                answer = self._keep(response.http_response)
                try:
                    return Purchase(answer, events=tuple(response.parse()))
                except UNREAD as error:
                    return Purchase(answer, raised=error)

        return self._send(send)

    def _send(self, send: Callable[[], Purchase]) -> Purchase:
        """Sends an order by the SDK. Raises: UntriedError without a response."""
        self._server.expect_answer(_REQUEST)
        try:
            return send()
        except openai.APIStatusError as error:
            return Purchase(self._keep(error.response), raised=error)
        except openai.APITimeoutError as error:
            raise self._server.note_silence(_REQUEST) from error
        except openai.APIConnectionError as error:
            raise UntriedError(f"{_REQUEST}: {error}") from error

    def _keep(self, response: "httpx2.Response") -> Answer:
        headers = dict(response.headers)
        return self._server.keep(Answer(_REQUEST, response.status_code, headers, response.content))

    def close(self) -> None:
        self.sdk.close()


def _delivered(purchase: Purchase) -> Purchase:
    """Raises: as `expect_delivery`; the checks that ordered the image report that."""
    expect_delivery(purchase.answer)
    return purchase


def expect_delivery(answer: Answer) -> None:
    """Raises: UntriedError if the server could make no image now, BrokenError if it refused."""
    if answer.status in _BUSY:
        raise UntriedError(f"no image could be made: {answer.quote()}")
    require(answer.status == 200, f"{answer.request}: {answer.quote()}; expected 200")
