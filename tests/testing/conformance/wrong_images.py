"""Wrong answers with images, each with the checks that see it, and no others."""

from typing import Any, Final

from tests.testing.conformance.fair import ENCODED, Reply
from tests.testing.conformance.twists import (
    Wrong,
    answering,
    at,
    dropping,
    each,
    heading,
    in_events,
    last_event,
    ordered,
    ordered_by,
    posted,
    setting,
    streamed,
    when,
)


def _add_link(item: dict[str, Any]) -> None:
    item.setdefault("url", "https://pictures.example/one.png")


def _make_link(item: dict[str, Any]) -> None:
    item.pop("b64_json", None)
    _add_link(item)


def _lead(item: dict[str, Any]) -> None:
    if "b64_json" in item:
        item["b64_json"] = f"data:image/png;base64,{ENCODED}"


def _relate(item: dict[str, Any]) -> None:
    if "url" in item:
        item["url"] = "/pictures/one.png"


def _shorten(item: dict[str, Any]) -> None:
    item["url"] = item["url"].removesuffix(".png")


def _double(reply: Reply) -> None:
    reply.document["data"] *= 2


def _halve(reply: Reply) -> None:
    del reply.document["data"][1:]


def _end_twice(reply: Reply) -> None:
    assert reply.events is not None
    reply.events.append(reply.events[-1])


def _count_from_one(reply: Reply) -> None:
    for event in (reply.events or ())[:-1]:
        event["partial_image_index"] += 1


def _pingless(reply: Reply) -> None:
    in_events(b"event: image_generation.completed", b"event: ping\n\nevent: image_generation.completed")(reply)


IMAGES: Final = (
    Wrong("two for one", "images.one", when(ordered_by(lambda body: body.get("n") == 1), _double)),
    Wrong("created as a fraction", "images.created", when(ordered, setting("created", to=1795546854.5))),
    Wrong("created in milliseconds", "images.created", when(ordered, setting("created", to=1795546854000))),
    Wrong(
        "base64 with data:",
        "images.b64_json images.size images.output_format images.gpt_form",
        when(ordered, each(_lead)),
    ),
    Wrong(
        "base64 and a link",
        "images.not_both images.gpt_form",
        when(ordered, each(_add_link)),
    ),
    Wrong("another size", "images.size", when(ordered, setting("size", to="512x512"))),
    Wrong("another format", "images.output_format", when(ordered, setting("output_format", to="jpeg"))),
    Wrong(
        "usage in fractions", "images.usage images.gpt_usage", when(ordered, setting("usage", "total_tokens", to=0.5))
    ),
    Wrong("no usage", "images.gpt_usage", when(ordered, dropping("usage"))),
    Wrong("a relative link", "images.link images.link_opens images.link_type", when(ordered, each(_relate))),
    Wrong("a link with a key", "images.link_opens images.link_type", when(at("/pictures/one.png"), answering(403))),
    Wrong("a link to text", "images.link_type", when(at("/pictures/one.png"), heading(content_type="text/plain"))),
    Wrong(
        "a link without an ending",
        "images.link_name",
        when(ordered_by(lambda body: body.get("response_format") == "url"), each(_shorten)),
    ),
    Wrong("one for two", "images.n", when(ordered_by(lambda body: body.get("n") == 2), _halve)),
    Wrong(
        "null is a value",
        "images.nulls images.default_form",
        when(ordered_by(lambda body: None in body.values()), answering(400)),
    ),
    Wrong(
        "links by default",
        "images.default_form images.gpt_form",
        when(ordered_by(lambda body: not body.get("response_format")), each(_make_link)),
    ),
    Wrong("needs a model", "images.bare", when(ordered_by(lambda body: "model" not in body), answering(400))),
    Wrong(
        "a link as asked, and base64",
        "images.link",
        when(
            ordered_by(lambda body: body.get("response_format") == "url"),
            each(lambda item: item.update(b64_json=ENCODED)),
        ),
    ),
    Wrong(
        "base64 that is none",
        "images.b64_json images.size images.output_format sdk.b64_json",
        when(
            ordered_by(lambda body: body.get("response_format") == "b64_json"),
            each(lambda item: item.update(b64_json=None)),
        ),
    ),
    Wrong(
        "a link that is none",
        "images.link images.link_name sdk.url",
        when(ordered_by(lambda body: body.get("response_format") == "url"), each(lambda item: item.update(url=None))),
    ),
)

STREAMS: Final = (
    Wrong("JSON for a stream", "streams.answer streams.sdk", when(streamed, answering(200, {"data": []}))),
    Wrong(
        "events for a refusal",
        "streams.error_first",
        when(posted(lambda call: call.body and "stream" in call.body and call.body.get("n") == 0), answering(200, {})),
    ),
    Wrong("two ends", "streams.completed", when(streamed, _end_twice)),
    Wrong("created for created_at", "streams.keys", when(streamed, last_event(created_at=None, created=1))),
    Wrong("a stream without usage", "streams.usage", when(streamed, last_event(usage=None))),
    Wrong("a stream of nothing", "streams.picture", when(streamed, last_event(b64_json="bm90aGluZw=="))),
    Wrong("partial images from 1", "streams.partials", when(streamed, _count_from_one)),
    Wrong(
        "another event line",
        "streams.names",
        when(streamed, in_events(b"event: image_generation.completed", b"event: done")),
    ),
    Wrong("an event without data", "streams.lines streams.sdk", when(streamed, _pingless)),
    Wrong("an event with an id", "streams.lines", when(streamed, in_events(b"event: ", b"id: 1\nevent: "))),
)
