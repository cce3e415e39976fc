"""Client programs: each request is sent as the program sends it, and read as the program reads it."""

import io
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from PIL import Image

from gateway.testing.conformance.checks import Check, InapplicableError, Level, expect_status, require
from gateway.testing.conformance.images import usage_faults, without_bytes
from gateway.testing.conformance.pictures import Picture, decode, measure
from gateway.testing.conformance.programs import PROGRAM_REQUESTS, ProgramRequest
from gateway.testing.conformance.purchases import PROMPT, expect_delivery
from gateway.testing.conformance.responses import Answer, member, shown

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext

_FAMILIES: Final = ("gpt-image", "chatgpt-image", "dall-e")
_SIDE: Final = 1024


def _try(request: ProgramRequest, context: "CheckContext") -> None:
    if "model" in request.body:
        model = _stand_in(str(request.body["model"]), context)
        request = replace(request, body={**request.body, "model": model})
    answer = context.server.remember(request.identity, partial(_send, request, context))
    _expect_served(request, answer)
    found = member(answer.document, "data")
    items = found if isinstance(found, list) else []
    require(len(items) == request.images, f"{len(items)} images of {request.images}: {answer.quote()}")
    for item in items:
        made = _read(request, item if isinstance(item, dict) else {}, context)
        require(request.kind in {None, made.kind}, f"the picture is {made.kind}, not {request.kind}")
    if request.reads_usage:
        faults = usage_faults(member(answer.document, "usage"))
        require(not faults, f"no integers in usage: {', '.join(faults)}")


def _stand_in(model: str, context: "CheckContext") -> str:
    """Returns the program's model or, if the server does not list it, another of its family.

    Programs choose fields and addresses by the family. Raises: InapplicableError without one.
    """
    listed = context.purchases.listed
    if model in listed or not listed:
        return model
    family = _family(model)
    found = [name for name in (context.purchases.model, *sorted(listed)) if _family(name) == family]
    if not found:
        raise InapplicableError(f"the server lists no model such as {model}")
    return found[0]


def _family(model: str) -> str:
    return next((family for family in _FAMILIES if model.startswith(family)), "")


def _send(request: ProgramRequest, context: "CheckContext") -> Answer:
    body = {**request.body, "prompt": PROMPT}
    send = partial(context.server.send, "POST", request.path)
    if request.is_azure:
        return send(authorization=None, headers={"api-key": context.server.key}, json=body)
    if not request.files:
        return send(json=body)
    texts = [(name, (None, str(value))) for name, value in body.items()]
    pictures = [(name, (f"{name.strip('[]')}.png", _drawing(name), "image/png")) for name in request.files]
    return send(files=[*texts, *pictures])


@cache
def _drawing(part: str) -> bytes:
    """Returns a PNG: a square to change, or a mask that is transparent where it is to change."""
    file = io.BytesIO()
    fill = (0, 0, 0, 0) if part == "mask" else (200, 30, 30, 255)
    Image.new("RGBA", (_SIDE, _SIDE), fill).save(file, "PNG")
    return file.getvalue()


def _expect_served(request: ProgramRequest, answer: Answer) -> None:
    """Raises: InapplicableError if the server lacks what it need not have, and says so; as `expect_delivery`."""
    param = member(answer.error, "param")
    if answer.status == 400 and param in request.may_refuse:
        raise InapplicableError(f"the server refuses '{param}' by name")
    if request.is_azure and answer.status in {401, 404}:
        raise InapplicableError("the server does not serve Azure's addresses")
    expect_delivery(answer)


def _read(request: ProgramRequest, item: Mapping[str, object], context: "CheckContext") -> Picture:
    """Returns the picture that the program takes. Raises: BrokenError if it finds none."""
    name = next((name for name in request.reads.value if item.get(name)), None)
    wanted = " or ".join(request.reads.value)
    require(name, f"{request.program} reads {wanted}; the item is {shown(without_bytes(item))}")
    if name == "b64_json":
        return decode(item[name])
    fetched = context.server.fetch(str(item["url"]))
    expect_status(fetched, 200)
    return measure(fetched.content)


def _check(request: ProgramRequest) -> Check:
    files = f" and {', '.join(request.files)}" if request.files else ""
    kind = f", a {request.kind}," if request.kind else ""
    return Check(
        request.name,
        Level.MUST,
        f"POST {request.path} with {json.dumps(request.body)}{files} gives a picture{kind} in "
        f"{' or '.join(request.reads.value)}.",
        f"{request.program} shows an error, or nothing for an image that was paid for.",
        partial(_try, request),
        buys=True,
        program=request.program,
    )


CHECKS: Final = tuple(map(_check, PROGRAM_REQUESTS))
