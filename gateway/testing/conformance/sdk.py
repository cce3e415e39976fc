"""How the official Python SDK reads the server's responses."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import openai

from gateway.testing.conformance.checks import BrokenError, Check, Level, UntriedError, require
from gateway.testing.conformance.fields import UNKNOWN_MODEL
from gateway.testing.conformance.purchases import PROMPT, UNREAD, Purchase
from gateway.testing.conformance.server import GENERATIONS, WRONG_KEY

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext

_PURCHASE: Final = f"POST {GENERATIONS}"


def _raised(context: "CheckContext", request: str, call: Callable[[], object]) -> openai.APIStatusError | None:
    """Returns the SDK's exception for a refusal; None without a refusal. Raises: UntriedError, BrokenError."""
    context.server.expect_answer(request)
    try:
        call()
    except openai.RateLimitError as error:
        raise UntriedError(str(error)) from error
    except openai.APIStatusError as error:
        return error
    except openai.APITimeoutError as error:
        raise context.server.note_silence(request) from error
    except openai.APIConnectionError as error:
        raise UntriedError(f"{request}: {error}") from error
    except UNREAD as error:
        raise BrokenError(f"{request}: the SDK cannot read the answer ({type(error).__name__})") from error
    return None


def _is(error: openai.APIStatusError | None, kind: type[openai.APIStatusError]) -> None:
    require(isinstance(error, kind), f"the SDK raised {type(error).__name__ if error else 'nothing'}")


def _wrong_key(context: "CheckContext") -> None:
    stranger = context.purchases.sdk.with_options(api_key=WRONG_KEY)
    _is(
        _raised(context, _PURCHASE, lambda: stranger.images.generate(model=context.purchases.model, prompt=PROMPT)),
        openai.AuthenticationError,
    )


def _bad(context: "CheckContext") -> openai.APIStatusError | None:
    return _raised(
        context,
        _PURCHASE,
        lambda: context.purchases.sdk.images.generate(model=context.purchases.model, prompt=PROMPT, n=0),
    )


def _bad_request(context: "CheckContext") -> None:
    _is(_bad(context), openai.BadRequestError)


def _attributes(context: "CheckContext") -> None:
    error = _bad(context)
    if error is None:
        raise UntriedError("the SDK raised nothing")
    wrong = [name for name in ("code", "param", "type", "request_id") if not isinstance(getattr(error, name), str)]
    require(not wrong, f"{type(error).__name__} has no {', '.join(wrong)}")


def _not_found(context: "CheckContext") -> None:
    _is(
        _raised(context, f"GET /models/{UNKNOWN_MODEL}", lambda: context.purchases.sdk.models.retrieve(UNKNOWN_MODEL)),
        openai.NotFoundError,
    )


def _models(context: "CheckContext") -> None:
    for base_url in (context.server.base_url, f"{context.server.base_url}/"):
        found: list[object] = []
        client = context.purchases.sdk.with_options(base_url=base_url)
        error = _raised(context, "GET /models", partial(_collect, client, found))
        require(error is None, f"the SDK raised {type(error).__name__} for models.list()")
        require(found and all(isinstance(name, str) for name in found), f"models.list() gives {found[:3]}")


def _collect(client: openai.OpenAI, found: list[object]) -> None:
    found.extend(entry.id for entry in client.models.list())


def _encoded(context: "CheckContext") -> None:
    require(isinstance(_first(context.purchases.encoded(), "b64_json"), str), "data[0].b64_json is no text")


def _linked(context: "CheckContext") -> None:
    require(isinstance(_first(context.purchases.linked(), "url"), str), "data[0].url is no text")


def _first(purchase: Purchase, name: str) -> object:
    """Returns the SDK's value for the first image; the SDK does not check types."""
    data: object = getattr(purchase.parsed, "data", None)
    return getattr(data[0], name, None) if isinstance(data, list) and data else None


def _request_id(context: "CheckContext") -> None:
    purchase = context.purchases.encoded()
    sent = purchase.answer.headers.get("x-request-id")
    require(sent and purchase.request_id == sent, f"_request_id is {purchase.request_id}, x-request-id {sent}")


def _check(
    name: str, level: Level, holds: str, breaks: str, attempt: "Callable[[CheckContext], None]", *, buys: bool = False
) -> Check:
    return Check(f"sdk.{name}", level, holds, breaks, attempt, buys=buys)


_M, _S = Level.MUST, Level.SHOULD
CHECKS: Final = (
    _check(
        "wrong_key",
        _M,
        "A wrong key raises AuthenticationError.",
        "LangChain and every program that catches it.",
        _wrong_key,
    ),
    _check(
        "bad_request",
        _M,
        "n=0 raises BadRequestError.",
        "LangChain, and programs that show users what to fix.",
        _bad_request,
    ),
    _check(
        "attributes",
        _S,
        "That error has code, param, type and request_id.",
        "Programs that act on e.code and log e.request_id.",
        _attributes,
    ),
    _check(
        "not_found", _M, "An unknown model raises NotFoundError.", "Programs that look before they ask.", _not_found
    ),
    _check(
        "models",
        _M,
        "models.list() gives ids, with and without a slash behind the base URL.",
        "Dify, LlamaIndex.",
        _models,
    ),
    _check(
        "b64_json",
        _M,
        "images.generate gives data[0].b64_json.",
        "The snippet of OpenAI's own guide.",
        _encoded,
        buys=True,
    ),
    _check("url", _M, "images.generate with response_format=url gives data[0].url.", "LangChain.", _linked, buys=True),
    _check(
        "request_id",
        _S,
        "_request_id of the answer is x-request-id.",
        "Users who tell of trouble.",
        _request_id,
        buys=True,
    ),
)
