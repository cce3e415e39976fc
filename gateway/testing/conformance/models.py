"""The model list."""

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from gateway.testing.conformance.checks import (
    Check,
    InapplicableError,
    Level,
    UntriedError,
    expect_refusal,
    expect_status,
    require,
)
from gateway.testing.conformance.fields import UNKNOWN_MODEL
from gateway.testing.conformance.responses import is_integer, member, shown

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext
    from gateway.testing.conformance.server import Server

_RETRIEVED_MAX: Final = 10


def list_models(server: "Server") -> list[object]:
    """Returns the entries of the list. Raises: BrokenError if it is not a list, and as `Server.send`."""
    answer = server.get("/models")
    expect_status(answer, 200)
    data = member(answer.document, "data")
    require(member(answer.document, "object") == "list" and isinstance(data, list), answer.quote())
    return data if isinstance(data, list) else []


def _named(context: "CheckContext") -> list[str]:
    found = [member(entry, "id") for entry in list_models(context.server)]
    named = [name for name in found if isinstance(name, str)]
    if not named:
        raise UntriedError("no model is listed")
    return named


def _list(context: "CheckContext") -> None:
    for entry in list_models(context.server):
        require(isinstance(member(entry, "id"), str), shown(entry))


def _entries(context: "CheckContext") -> None:
    for entry in list_models(context.server):
        is_model = member(entry, "object") == "model" and isinstance(member(entry, "owned_by"), str)
        require(is_model and is_integer(member(entry, "created")), shown(entry))


def _listed(context: "CheckContext") -> None:
    model = context.purchases.model
    require(model in _named(context), f"{model} is not listed")


def _retrieve(context: "CheckContext") -> None:
    listed = {member(entry, "id"): entry for entry in list_models(context.server)}
    for name in _named(context)[:_RETRIEVED_MAX]:
        answer = context.server.get(f"/models/{quote(name, safe='')}")
        expect_status(answer, 200)
        require(answer.document == listed[name], f"{shown(listed[name])} in the list, alone {answer.quote()}")


def _slash(context: "CheckContext") -> None:
    with_slash = next((name for name in _named(context) if "/" in name), None)
    if with_slash is None:
        raise InapplicableError("no model's name has a slash")
    answer = context.server.get(f"/models/{quote(with_slash)}")
    expect_status(answer, 200)
    require(member(answer.document, "id") == with_slash, answer.quote())


def _unknown(context: "CheckContext") -> None:
    expect_refusal(context.server.get(f"/models/{UNKNOWN_MODEL}"), 404)


CHECKS: Final = (
    Check(
        "models.list",
        Level.MUST,
        'GET /models is {"object": "list", "data": [{"id": text, ...}]}.',
        "Dify tests a key with it, n8n and LobeChat fill their menus from it.",
        _list,
    ),
    Check(
        "models.entries",
        Level.SHOULD,
        'Every entry has object "model", created as an integer, and owned_by.',
        "Go and Java SDK, which read typed objects.",
        _entries,
    ),
    Check(
        "models.listed",
        Level.SHOULD,
        "The model that is tried is listed.",
        "Menus of clients: what is not listed cannot be chosen.",
        _listed,
    ),
    Check(
        "models.retrieve",
        Level.MUST,
        "GET /models/{id} of what is listed gives the same object.",
        "models.retrieve of every SDK.",
        _retrieve,
    ),
    Check(
        "models.slash",
        Level.SHOULD,
        "An id with a slash is found with the slash unescaped too.",
        "Node SDK 4 does not escape it.",
        _slash,
    ),
    Check(
        "models.unknown",
        Level.MUST,
        "An unknown id: 404 and a message.",
        "Every SDK: NotFoundError.",
        _unknown,
    ),
)
