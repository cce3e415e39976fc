"""How a server is made wrong in one way: when an answer is changed, and how."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.testing.conformance.server import WRONG_KEY
from tests.testing.conformance.fair import Call, Reply, Twist, refusal

GENERATIONS: Final = "/images/generations"

Condition = Callable[[Call, Reply], bool]
Change = Callable[[Reply], Reply | None]


def when(condition: Condition, change: Change) -> Twist:
    return lambda call, reply: change(reply) if condition(call, reply) else None


def keep(call: Call, reply: Reply) -> None:
    """The twist that changes nothing."""


@dataclass(frozen=True)
class Wrong:
    """A server that is wrong in one way, and what a run finds."""

    name: str
    fails: str
    twist: Twist = keep
    accepts: str = ""
    model: str = "image-01"
    provoked: int = 0
    pauses: Mapping[str, float] = field(default_factory=dict)


def always(call: Call, reply: Reply) -> bool:
    return True


def at(path: str, method: str | None = None, status: int | None = None) -> Condition:
    return lambda call, reply: call.path == path and method in {None, call.method} and status in {None, reply.status}


def called(is_meant: Callable[[Call], object]) -> Condition:
    return lambda call, _reply: bool(is_meant(call))


def posted(is_meant: Callable[[Call], object]) -> Condition:
    """A request for images that is meant, whatever came of it."""
    return lambda call, _reply: call.path == GENERATIONS and call.method == "POST" and bool(is_meant(call))


def ordered(call: Call, reply: Reply) -> bool:
    """Whether images are delivered, and not as a stream."""
    return call.path == GENERATIONS and reply.status == 200 and reply.events is None


def ordered_by(is_meant: Callable[[dict[str, Any]], object]) -> Condition:
    return lambda call, reply: ordered(call, reply) and bool(is_meant(call.body))


def rushed(call: Call, reply: Reply) -> bool:
    """Whether it is one of the purchases that provoke the rate limit."""
    return ordered(call, reply) and set(call.body) == {"model", "prompt"} and call.body["model"] != "gpt-image-1"


def streamed(call: Call, reply: Reply) -> bool:
    return reply.events is not None


def refused(call: Call, reply: Reply) -> bool:
    """Whether a field of a purchase is refused."""
    return call.path == GENERATIONS and reply.status == 400 and isinstance(call.body, dict)


def with_wrong_key(call: Call, reply: Reply) -> bool:
    return reply.status == 401 and WRONG_KEY in call.headers.get("authorization", "")


def setting(*path: str | int, to: object) -> Change:
    def change(reply: Reply) -> None:
        place = reply.document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = to

    return change


def dropping(*names: str) -> Change:
    """Without these fields, or those of its error object."""

    def change(reply: Reply) -> None:
        place = reply.document.get("error", reply.document)
        for name in names:
            del place[name]

    return change


def heading(**headers: str | None) -> Change:
    """With other headers; None takes one out."""

    def change(reply: Reply) -> None:
        for name, text in headers.items():
            reply.headers[name.replace("_", "-")] = text or ""
            if text is None:
                del reply.headers[name.replace("_", "-")]

    return change


def answering(status: int, document: object = None) -> Change:
    """Something else, under the same headers."""

    def change(reply: Reply) -> Reply:
        made = Reply(status, document) if document is not None else refusal(status, "Something is wrong.")
        made.headers = {name: text for name, text in reply.headers.items() if name != "content-type"}
        return made

    return change


def each(change: Callable[[dict[str, Any]], object]) -> Change:
    """Every item of data."""

    def changed(reply: Reply) -> None:
        for item in reply.document["data"]:
            change(item)

    return changed


def last_event(**fields: object) -> Change:
    """The completed event with other fields; None takes one out."""

    def change(reply: Reply) -> None:
        assert reply.events is not None
        changed = reply.events[-1] | fields
        reply.events[-1] = {name: value for name, value in changed.items() if value is not None}

    return change


def in_events(old: bytes, new: bytes) -> Change:
    """The bytes of a stream with something replaced."""

    def changed(reply: Reply) -> None:
        lines = (f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in reply.events or ())
        reply.raw = "".join(lines).encode().replace(old, new)

    return changed


def busy(code: str | None, retry_after: str) -> Change:
    def change(reply: Reply) -> Reply:
        made = refusal(429, "Rate limit exceeded.", code=code)
        made.headers = {"retry-after": retry_after, "x-request-id": reply.headers["x-request-id"]}
        return made

    return change
