"""The response as a stream of events."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from openai.types import ImageGenCompletedEvent

from gateway.testing.conformance.checks import Check, InapplicableError, Level, UntriedError, expect_refusal, require
from gateway.testing.conformance.images import usage_faults
from gateway.testing.conformance.pictures import decode
from gateway.testing.conformance.purchases import PARTIAL_IMAGES, PROMPT
from gateway.testing.conformance.responses import is_integer, member, read_json, shown

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext

_COMPLETED: Final = "image_generation.completed"
_PARTIAL: Final = "image_generation.partial_image"
_TEXTS: Final = ("type", "b64_json", "size", "quality", "background", "output_format")


@dataclass(frozen=True, slots=True)
class Event:
    """The fields of one event, as sent."""

    name: str | None
    data: str | None
    has_id: bool

    @property
    def document(self) -> object:
        return read_json(self.data or "")

    @property
    def kind(self) -> object:
        return member(self.document, "type")


def read_events(content: bytes) -> list[Event]:
    """Parses events with fields; comments are skipped."""
    text = content.decode(errors="replace").replace("\r\n", "\n")
    events = []
    for block in text.split("\n\n"):
        lines = [line.partition(":") for line in block.split("\n") if line and not line.startswith(":")]
        fields: dict[str, str] = {name: value.removeprefix(" ") for name, _, value in lines}
        if fields and fields.get("data") != "[DONE]":
            events.append(Event(fields.get("event"), fields.get("data"), "id" in fields))
    return events


def _events(context: "CheckContext") -> list[Event]:
    """Returns the events. Raises: UntriedError if there are none."""
    purchase = context.purchases.streamed()
    found = read_events(purchase.answer.content) if purchase.answer.media_type == "text/event-stream" else []
    if not found:
        raise UntriedError("the answer has no events to judge")
    return found


def _completed(context: "CheckContext") -> Mapping[str, object]:
    found = [event.document for event in _events(context) if event.kind == _COMPLETED]
    if not found or not isinstance(found[0], dict):
        raise UntriedError("there is no completed event to judge")
    return found[0]


def _answered(context: "CheckContext") -> None:
    answer = context.purchases.streamed().answer
    require(answer.media_type == "text/event-stream", answer.quote())


def _one_end(context: "CheckContext") -> None:
    kinds = [event.kind for event in _events(context)]
    ends = [at for at, kind in enumerate(kinds) if kind == _COMPLETED]
    require(ends == [len(kinds) - 1], f"the events are {', '.join(map(str, kinds))}")


def _keys(context: "CheckContext") -> None:
    end = _completed(context)
    wrong = [name for name in _TEXTS if not isinstance(end.get(name), str)]
    wrong += [] if is_integer(end.get("created_at")) else ["created_at"]
    require(not wrong, f"missing or of another type: {', '.join(wrong)}")


def _usage(context: "CheckContext") -> None:
    faults = usage_faults(_completed(context).get("usage"))
    require(not faults, f"no integers in usage: {', '.join(faults)}")


def _picture(context: "CheckContext") -> None:
    decode(_completed(context).get("b64_json"))


def _partials(context: "CheckContext") -> None:
    found = [event.document for event in _events(context) if event.kind == _PARTIAL]
    if not found:
        raise InapplicableError("no partial image was sent, as is allowed")
    indexes = [member(event, "partial_image_index") for event in found]
    in_order = indexes == list(range(len(found))) and len(found) <= PARTIAL_IMAGES
    require(in_order, f"of {PARTIAL_IMAGES} asked for, the indexes are {shown(indexes)}")


def _names(context: "CheckContext") -> None:
    for event in _events(context):
        require(event.data is None or event.name == event.kind, f"event: {event.name}, type {shown(event.kind)}")


def _lines(context: "CheckContext") -> None:
    for event in _events(context):
        require(event.data is not None, f"event: {event.name} without data")
        require(not event.has_id, f"an id: line on event {event.name}")


def _sdk(context: "CheckContext") -> None:
    purchase = context.purchases.streamed()
    require(purchase.raised is None, f"{type(purchase.raised).__name__}: {purchase.raised}")
    kinds = [type(event).__name__ for event in purchase.events]
    is_completed = purchase.events and isinstance(purchase.events[-1], ImageGenCompletedEvent)
    require(is_completed, f"the SDK gives {', '.join(kinds) or 'an empty stream'}")


def _error_first(context: "CheckContext") -> None:
    body = {"model": context.purchases.model, "prompt": PROMPT, "n": 0, "stream": True}
    expect_refusal(context.server.generate(body), 400)


def _check(name: str, level: Level, holds: str, breaks: str, attempt: "Callable[[CheckContext], None]") -> Check:
    return Check(f"streams.{name}", level, holds, breaks, attempt, buys=name != "error_first")


_M, _S = Level.MUST, Level.SHOULD
CHECKS: Final = (
    _check(
        "error_first",
        _M,
        "A stream that cannot begin is refused with 400, not with events.",
        "Python SDK: BadRequestError; else an empty stream, and no error.",
        _error_first,
    ),
    _check(
        "answer",
        _M,
        "stream=true is answered with text/event-stream, or refused; never with plain JSON.",
        "Python and Node SDK see an empty stream, and no error.",
        _answered,
    ),
    _check(
        "completed", _M, f"The last event, and only it, is {_COMPLETED}.", "Every SDK ends its loop with it.", _one_end
    ),
    _check(
        "keys",
        _M,
        "It has b64_json, size, quality, background and output_format as texts, and created_at in whole seconds.",
        "Go and Java SDK require them; created_at is not created.",
        _keys,
    ),
    _check("usage", _S, "It has usage with all its integers.", "Programs that count tokens.", _usage),
    _check("picture", _M, "Its b64_json is a picture.", "Every client decodes it as it is.", _picture),
    _check(
        "partials",
        _S,
        f"Partial images are at most as many as asked for ({PARTIAL_IMAGES}), numbered from 0.",
        "Clients that replace the preview by its number.",
        _partials,
    ),
    _check(
        "names",
        _S,
        "Each event: line is the type in its data.",
        "Browsers' EventSource, which hands out by it.",
        _names,
    ),
    _check(
        "lines",
        _M,
        "No event is without data, and none has an id.",
        "Python SDK raises JSONDecodeError; Node too without data. Keep-alives are comments.",
        _lines,
    ),
    _check("sdk", _M, "The Python SDK gives an ImageGenCompletedEvent as the last.", "Programs that stream.", _sdk),
)
