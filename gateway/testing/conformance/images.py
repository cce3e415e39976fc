"""The response with images."""

import time
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from gateway.testing.conformance.checks import Check, InapplicableError, Level, UntriedError, expect_status, require
from gateway.testing.conformance.pictures import decode, measure
from gateway.testing.conformance.purchases import GPT_NAME
from gateway.testing.conformance.responses import is_integer, member, shown

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext
    from gateway.testing.conformance.responses import Answer

_EPOCH_MIN: Final = 1_577_836_800
"""2020-01-01 in seconds, so that milliseconds are detected."""
_DAY_S: Final = 86_400
_USAGE: Final = (
    ("total_tokens",),
    ("input_tokens",),
    ("output_tokens",),
    ("input_tokens_details", "text_tokens"),
    ("input_tokens_details", "image_tokens"),
)


def usage_faults(usage: object) -> list[str]:
    """Returns the keys that are not integers."""
    return [".".join(path) for path in _USAGE if not is_integer(member(usage, *path))]


def _created(context: "CheckContext") -> None:
    created = member(context.purchases.encoded().answer.document, "created")
    is_time = isinstance(created, int) and is_integer(created) and _EPOCH_MIN < created < time.time() + _DAY_S
    require(is_time, f"created is {shown(created)}")


def _one(context: "CheckContext") -> None:
    answer = context.purchases.encoded().answer
    data = member(answer.document, "data")
    require(isinstance(data, list) and len(data) == 1 and isinstance(data[0], dict), answer.quote())


def _encoded(context: "CheckContext") -> None:
    decode(context.purchases.encoded().item().get("b64_json"))


def _not_both(context: "CheckContext") -> None:
    url = context.purchases.encoded().item().get("url")
    require(url is None, "the item has a url too")


def _size(context: "CheckContext") -> None:
    purchase = context.purchases.encoded()
    stated = member(purchase.answer.document, "size")
    if stated is None:
        raise InapplicableError("the response has no size")
    made = decode(purchase.item().get("b64_json")).size
    require(made is None or stated == made, f"size is {shown(stated)}, the picture has {made}")


def _format(context: "CheckContext") -> None:
    purchase = context.purchases.encoded()
    stated = member(purchase.answer.document, "output_format")
    if stated is None:
        raise InapplicableError("the response has no output_format")
    made = decode(purchase.item().get("b64_json")).kind
    require(stated == made, f"output_format is {shown(stated)}, the picture is {made}")


def _usage(context: "CheckContext") -> None:
    usage = member(context.purchases.encoded().answer.document, "usage")
    if usage is None and not context.purchases.is_gpt:
        raise InapplicableError("the answer has no usage, which only gpt-image names need")
    require(not usage_faults(usage), f"no integers in usage: {', '.join(usage_faults(usage))}")


def _link(context: "CheckContext") -> None:
    item = context.purchases.linked().item()
    parts = urlsplit(str(item.get("url") or ""))
    require(parts.scheme in {"http", "https"} and parts.netloc, f"the item is {shown(_without_bytes(item))}")
    require(item.get("b64_json") is None, "the item has b64_json too")


def _without_bytes(item: Mapping[str, object]) -> dict[str, object]:
    return {name: "..." if name == "b64_json" else value for name, value in item.items()}


def _fetched(context: "CheckContext") -> "Answer":
    url = context.purchases.linked().item().get("url")
    if not isinstance(url, str) or not url:
        raise UntriedError("the answer has no link")
    return context.server.fetch(url)


def _link_opens(context: "CheckContext") -> None:
    fetched = _fetched(context)
    expect_status(fetched, 200)
    measure(fetched.content)


def _link_type(context: "CheckContext") -> None:
    fetched = _fetched(context)
    require(fetched.media_type.startswith("image/"), f"{fetched.request}: {fetched.media_type or 'no content type'}")


def _link_name(context: "CheckContext") -> None:
    path = urlsplit(str(context.purchases.linked().item().get("url") or "")).path
    suffix = PurePosixPath(path).suffix.lower()
    require(suffix in {".png", ".jpg", ".jpeg", ".webp", ".gif", ".svg"}, f"the link ends in {shown(path[-24:])}")


def _pair(context: "CheckContext") -> None:
    data = member(context.purchases.pair().answer.document, "data")
    count = len(data) if isinstance(data, list) else 0
    require(count == 2, f"{count} for n=2")


def _nulls(context: "CheckContext") -> None:
    context.purchases.nulls().item()


def _default_form(context: "CheckContext") -> None:
    item = context.purchases.nulls().item()
    wanted, other = ("url", "b64_json") if context.purchases.model.startswith("dall-e") else ("b64_json", "url")
    require(item.get(wanted), f"{other if item.get(other) else 'neither'} instead")


def _bare(context: "CheckContext") -> None:
    context.purchases.bare().item()


def _gpt(context: "CheckContext") -> None:
    purchase = context.purchases.gpt()
    decode(purchase.item().get("b64_json"))
    require(purchase.item().get("url") is None, "the item has a url too")


def _gpt_usage(context: "CheckContext") -> None:
    faults = usage_faults(member(context.purchases.gpt().answer.document, "usage"))
    require(not faults, f"no integers in usage: {', '.join(faults)}")


def _check(name: str, level: Level, holds: str, breaks: str, attempt: "Callable[[CheckContext], None]") -> Check:
    return Check(f"images.{name}", level, holds, breaks, attempt, buys=True)


_M, _S = Level.MUST, Level.SHOULD
CHECKS: Final = (
    _check(
        "one",
        _M,
        "A purchase of one image is answered with 200 and one item in data.",
        "Every client reads data[0].",
        _one,
    ),
    _check(
        "created",
        _M,
        "created is the time in whole seconds.",
        "Go and Java SDK: a fraction or a text does not fit an int64.",
        _created,
    ),
    _check(
        "b64_json",
        _M,
        "b64_json is a picture in base64, without data: and line breaks.",
        "Open WebUI, LangChain and Dify decode it as it is.",
        _encoded,
    ),
    _check("not_both", _S, "An item in base64 has no url.", "Open WebUI and LangChain take the url first.", _not_both),
    _check("size", _S, "size is the picture's true size.", "Programs that lay out by it.", _size),
    _check(
        "output_format",
        _S,
        "output_format is what the bytes are.",
        "Edits upload the image under the stated type; a strict server refuses it.",
        _format,
    ),
    _check("usage", _M, "usage, where it is, has all its integers.", "Dify adds up every one of them.", _usage),
    _check(
        "link",
        _M,
        "response_format=url gives an absolute link, and no b64_json.",
        "LangChain and LibreChat ask dall-e names for links.",
        _link,
    ),
    _check(
        "link_opens", _M, "The link opens without a key, and is a picture.", "Browsers, which send no key.", _link_opens
    ),
    _check("link_type", _S, "The link's content type is image/*.", "Open WebUI stores the file by it.", _link_type),
    _check("link_name", _S, "The link's path ends as a picture's.", "n8n and chats name the file by it.", _link_name),
    _check("n", _M, "n=2 gives two images.", "Open WebUI and AI SDK: the second is missing without a word.", _pair),
    _check(
        "nulls",
        _M,
        "Optional fields that are null are taken as absent.",
        "Python and Node SDK send None and null as they are.",
        _nulls,
    ),
    _check(
        "default_form",
        _S,
        "Without response_format dall-e names give a link, all others base64, or both.",
        "LangChain and LibreChat (dall-e) read url; AI SDK, Dify and n8n read b64_json.",
        _default_form,
    ),
    _check(
        "bare",
        _M,
        "A purchase without a model, with words of any script and a user, is made.",
        "Programs that name no model; every user who does not write English.",
        _bare,
    ),
    _check(
        "gpt_form",
        _M,
        f"{GPT_NAME}, where it is listed, gives base64 without being asked.",
        "AI SDK, Dify and LibreChat read b64_json alone of this name.",
        _gpt,
    ),
    _check(
        "gpt_usage",
        _M,
        f"{GPT_NAME}, if listed, reports usage with all its integers.",
        "Dify fails without it.",
        _gpt_usage,
    ),
)
