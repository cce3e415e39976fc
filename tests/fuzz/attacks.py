"""Every kind of hostile request that the tests know, as bytes: broken HTTP, broken bodies, refusals and aborts."""

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Final, TypeVar

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

from tests.fuzz.book import Book
from tests.fuzz.plans import LARGE, quick
from tests.fuzz.requests import SEEDS, Sent, requests
from tests.fuzz.schemas import OPERATIONS
from tests.support.attack_vectors import (
    AMBIGUOUS,
    BROKEN,
    CHUNKED,
    FLOODS,
    HEADS_TOO_LARGE,
    HEADS_WITHOUT_A_HOST,
    METHODS,
    NO_PATHS_OF_OURS,
    PARTS,
    POST,
    SMUGGLED,
)
from tests.support.hostile import Plan
from tests.support.profile import fuzzing
from tests.support.strangers import head

MB: Final = 2**20
KEY: Final = "the-key"
"""Stands in a request for one of the attack's keys."""
SERIAL: Final = "the-item"
"""Stands for a number of as many digits, so that no two requests are the same."""
_NATIVE: Final = b"POST /v1/image_generation"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Attack:
    """One kind of request, of clients with these keys in turn."""

    kind: str
    template: bytes
    keys: Sequence[str]
    end: str = "read"
    """What the client does then: "read" until the server closes, "reset", or leave the response "unread"."""

    def render(self, serial: int) -> bytes:
        key, number = self.keys[serial % len(self.keys)], f"{serial:0{len(SERIAL)}}"
        return self.template.replace(KEY.encode(), key.encode(), 1).replace(SERIAL.encode(), number.encode())


def drawn(strategy: st.SearchStrategy[_T], count: int) -> list[_T]:
    """So many examples of a strategy."""
    found: list[_T] = []

    @given(strategy)
    @fuzzing(count)
    def collect(one: _T) -> None:
        found.append(one)

    with warnings.catch_warnings(action="ignore", category=HypothesisWarning):
        collect()  # it does not find its own generator in what a server of this process froze for the collector
    return found


def hostile_plans() -> dict[str, Plan]:
    """By the model that is served so."""
    plans = [*LARGE.values(), *(case.plan for case in drawn(quick, 60))]
    return {f"dark-{number}": plan for number, plan in enumerate(plans)}


def attacks(book: Book, models: Iterable[str], tenants: Iterable[str]) -> list[Attack]:
    """All of them, over the keys of the tenants; of each hostile model one."""
    keys = [book.keys[tenant] for tenant in tenants]
    groups = {
        "read": (*_broken_http(), *_broken_bodies(), *_refused(), *_hostile_upstreams(models)),
        "reset": (*_cut_off(), *(("an abort", body) for body in _orders())),
        "unread": (*_floods(), *(("a slow reader", body) for body in _orders())),
    }
    found = [Attack(kind, template, keys, end) for end, pairs in groups.items() for kind, template in pairs]
    found += [Attack("drawn", book.render(sent), keys, "read" if sent.is_plain else "reset") for sent in _drawn()]
    found += [Attack(tenant, _document(prompt=SERIAL), [book.keys[tenant]]) for tenant in ("limited", "spent")]
    pipelined = _kept(head(b"GET /v1/models/none", key=book.keys["greedy"])) * 40
    return found + [Attack("throttled", pipelined, keys)] * 3


def _drawn() -> Iterator[Sent]:
    for operation in OPERATIONS:
        yield from drawn(requests(operation), 40 if operation.path in SEEDS else 5)


def _kept(sent: bytes) -> bytes:
    return sent.replace(b"connection: close\r\n", b"")


def _with_body(body: bytes, line: bytes = POST) -> bytes:
    return head(line, b"content-length: %d" % len(body), key=KEY) + body


def _document(**fields: object) -> bytes:
    return _with_body(json.dumps(fields).encode())


def _hostile_upstreams(models: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    for model, delivery in zip(models, cycle(("url", "b64_json"))):
        yield "hostile upstream", _document(model=model, prompt=SERIAL, response_format=delivery)


def _orders() -> Iterator[bytes]:
    for fields in ({}, {"stream": True}, {"n": 3}, {"response_format": "url"}, {"model": "dark-0"}):
        yield _document(prompt=SERIAL, **fields)


def _broken_http() -> Iterator[tuple[str, bytes]]:
    whole = [*HEADS_TOO_LARGE.values(), *(sent + SMUGGLED for sent in HEADS_WITHOUT_A_HOST.values())]
    yield from (("a broken head", sent) for sent in (*whole, *map(head, METHODS)))
    yield from (("a path", head(b"GET " + target, key=KEY)) for target in NO_PATHS_OF_OURS)
    for headers, body in AMBIGUOUS.values():
        yield "framing", _kept(head(POST, *headers, key=KEY)) + body + SMUGGLED
    number = SERIAL.encode()
    yield "a route for each", head(b"GET /v1/" + number, b"x-request-id: " + number)
    yield "an encoded route for each", head(b"GET /%61dmin/v1/tenants/" + number)


def _broken_bodies() -> Iterator[tuple[str, bytes]]:
    for body in BROKEN.values():
        yield "JSON", _with_body(body)
        yield "JSON", _with_body(body.replace(b'{"prompt"', b'{"model":"image-01","prompt"', 1), _NATIVE)
    yield from (("parts", _with_body(body, _NATIVE)) for body in PARTS.values())


def _refused() -> Iterator[tuple[str, bytes]]:
    picture = [{"type": "character", "image_file": "data:image/jpeg;base64," + "A" * 15 * MB}]
    refused = {"model": "image-01", "prompt": "x", "subject_reference": picture, "n": 99}
    too_large = b" " * (16 * MB + 1)
    yield "a large refused body", _with_body(json.dumps(refused).encode(), _NATIVE)
    yield "too large a body", _with_body(b" " * (MB + 1))
    yield "too large a body", _with_body(too_large, _NATIVE)
    yield "too large in chunks", _in_chunks(b"%x\r\n" % len(too_large) + too_large)
    yield "a parameter", _document(prompt="x", **{SERIAL: 1})
    yield "a model", _document(prompt="x", model=SERIAL)
    yield "a wrong key for each", _document(prompt="x" * 9000).replace(KEY.encode(), b"sk-ig-01" + SERIAL.encode() * 5)
    yield "no key", head(b"GET /v1/models/" + SERIAL.encode())


def _cut_off() -> Iterator[tuple[str, bytes]]:
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    announced = head(_NATIVE, b"content-length: %d" % (15 * MB), key=KEY)
    yield "a body cut off", announced + b" " * 4 * MB
    yield "a body that never begins", announced
    yield "chunks cut off", _in_chunks(chunk * 32)
    yield "a stranger's body", CHUNKED + chunk * 4
    yield "half a head", b"GET / HTTP/1.1\r\nx: " + b"y" * 60_000
    yield "nothing", b""


def _in_chunks(sent: bytes) -> bytes:
    return head(_NATIVE, b"transfer-encoding: chunked", key=KEY) + sent


def _floods() -> Iterator[tuple[str, bytes]]:
    for begin, piece in FLOODS.values():
        yield "a flood", begin + piece * (MB // len(piece))
