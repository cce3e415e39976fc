"""Lines of input files at any chunking, and output files by any range."""

import asyncio
import base64
import codecs
import json
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.images import Format
from gateway.jobs.batch_input import InputRules, Validation, entry_range, read_entry, read_lines, validate
from gateway.jobs.batch_output import OutputRenderer, manifest_name, refer, render_line, rendered_bytes
from gateway.jobs.batches import TRANSITIONS, BatchStatus
from gateway.jobs.file_records import FileRecord
from gateway.storage.pictures import StoredPicture
from tests.support.batching import ENDPOINT, line

RULES = InputRules(ENDPOINT, 1000, 10_000, 10, lambda name: name)
MANIFEST = manifest_name("acme", 3600, "0" * 32)


async def chunks(data: bytes, sizes: Sequence[int]) -> AsyncIterator[bytes]:
    at, index = 0, 0
    while at < len(data):
        size = sizes[index % len(sizes)]
        yield data[at : at + size]
        at, index = at + size, index + 1


def lines_of(data: bytes, sizes: Sequence[int], most: int) -> list[tuple[int, int, bytes | None]]:
    async def collect() -> list[tuple[int, int, bytes | None]]:
        found = read_lines(chunks(data, sizes), most)
        return [(at, size, None if text is None else bytes(text)) async for at, size, text in found]

    return asyncio.run(collect())


@given(st.binary(max_size=200).map(lambda data: data.replace(b"x", b"\n")), st.lists(st.integers(1, 9), min_size=1))
def test_lines_are_the_same_at_any_chunking(data: bytes, sizes: list[int]) -> None:
    expected, at = [], 0
    for text in data.split(b"\n"):
        expected.append((at, len(text), text if len(text) <= 6 else None))
        at += len(text) + 1
    if not data or data.endswith(b"\n"):
        expected.pop()
    assert expected == lines_of(data, sizes, 6)


def validated(*lines: object) -> Validation:
    return validated_bytes(b"\n".join(json.dumps(one).encode() for one in lines))


def validated_bytes(data: bytes, line_max_bytes: int = 10_000, size: int = 7) -> Validation:
    rules = replace(RULES, line_max_bytes=line_max_bytes)
    return asyncio.run(validate(chunks(data, [size]), rules))


def test_the_index_leads_to_each_line() -> None:
    lines = [line("a"), line("b" * 100), line("c")]
    data, found = b"\n".join(json.dumps(one).encode() for one in lines), validated(*lines)
    for number, expected in enumerate(lines, 1):
        first, last = entry_range(number)
        offset, length = read_entry(bytes(found.index[first : last + 1]))
        assert expected == json.loads(data[offset : offset + length])


def test_a_byte_order_mark_and_empty_lines_are_skipped_and_lines_keep_their_numbers() -> None:
    texts = [b"", b" \t\r", json.dumps(line("a")).encode(), b"", json.dumps(line("b") | {"url": "/x"}).encode(), b""]
    found = asyncio.run(validate(chunks(codecs.BOM_UTF8 + b"\n".join(texts), [7]), RULES))
    assert [("invalid_url", 5)] == [(error.code, error.line) for error in found.errors]
    data = codecs.BOM_UTF8 + json.dumps(line("a")).encode()
    found = asyncio.run(validate(chunks(data, [2]), RULES))
    offset, length = read_entry(bytes(found.index))
    assert ([], line("a")) == (found.errors, json.loads(data[offset : offset + length]))


def test_empty_lines_are_bounded() -> None:
    [error] = asyncio.run(validate(chunks(b"\n" * 1001, [1]), RULES)).errors
    assert "too_many_tasks" == error.code
    assert "empty_file" == asyncio.run(validate(chunks(b"\n" * 1000, [1]), RULES)).errors[0].code


def test_a_file_keeps_100_errors_and_a_long_line_is_one() -> None:
    assert 100 == len(validated(*[[] for _ in range(300)]).errors)
    [error] = validated(line("a", "x" * 20_000)).errors
    assert ("invalid_request", 1) == (error.code, error.line)


@pytest.mark.parametrize("custom_id", ["\U0001f600" * 129, "\x01" * 86], ids=["emoji", "control"])
def test_the_bytes_of_a_custom_id_are_limited(custom_id: str) -> None:
    [error] = validated(line(custom_id)).errors
    assert ("invalid_request", 1, "custom_id") == (error.code, error.line, error.param)
    assert [] == validated(line(custom_id[:-1])).errors


def test_one_file_has_one_model() -> None:
    [error] = validated(line("a"), line("b", model="other")).errors
    assert ("model_mismatch", 2, "body.model") == (error.code, error.line, error.param)


@pytest.mark.parametrize(
    ("n", "images"), [("3", 3), ("0", 1), ("null", 1), ("11", 10), ("9" * 400, 10), ("9" * 4301, 10), ('"x"', 1)]
)
def test_a_number_of_images_that_no_request_may_have_is_not_counted(n: str, images: int) -> None:
    found = validated_bytes(json.dumps(line("a", n=7)).replace('"n": 7', f'"n": {n}').encode())
    assert ([], images) == (found.errors, found.images)


@pytest.mark.parametrize(
    "text",
    [
        '{"custom_id":1, garbage',
        '{"custom_id":1,"x":' + "[" * 3000 + "]" * 3000 + "}",
        '{"custom_id":"a","method":"\\ud800","url":"u","body":{}}',
    ],
)
def test_a_line_that_begins_as_another_value_and_is_no_json_is_named(text: str) -> None:
    found = validated_bytes(text.encode())
    assert [("invalid_json_line", 1)] == [(error.code, error.line) for error in found.errors]


def test_a_line_is_explained_without_building_its_values() -> None:
    data = b'{"custom_id":1,"x":[' + b"[]," * 2**19 + b"[]]}"
    tracemalloc.start()
    try:
        found = validated_bytes(data, 2 * len(data), 2**16)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert ["custom_id", "method", "url", "body"] == [error.param for error in found.errors]
    assert peak_bytes < 3 * len(data)


def test_every_status_is_reached_and_the_final_ones_are_openais() -> None:
    following = frozenset[BatchStatus]().union(*TRANSITIONS.values())
    assert set(BatchStatus) == set(TRANSITIONS) == following | {BatchStatus.VALIDATING}
    assert {"failed", "completed", "expired", "cancelled"} == {one.value for one in BatchStatus if one.is_final}


@dataclass
class Bytes:
    """Objects and pictures in memory, which return 5 bytes at a time."""

    objects: dict[str, bytes]

    async def get(self, name: str) -> AsyncIterator[bytes]:
        return chunks(self.objects[name], [11])

    async def open(self, name: str, _: Format, __: int, start: int, end: int) -> AsyncIterator[bytes]:
        return chunks(self.objects[name][start:end], [5, 1, 2])


@pytest.mark.parametrize("sizes", [(0, 1, 2), (3, 30), (100, 101, 102)])
def test_a_rendered_file_is_the_same_by_any_range(sizes: tuple[int, ...]) -> None:
    pictures = {f"{size:040x}": bytes(range(size)) for size in sizes}
    references = [refer(StoredPicture(name, Format.PNG, len(data), 3600)) for name, data in pictures.items()]
    body = b",".join(b'"%b"' % reference for reference in references)
    manifest = [
        render_line("batch_1", number, "caf\u00e9 \x01 id", (200, "req_1", [b"[", body, b"]"])) for number in (1, 2)
    ]
    record = FileRecord(
        id="file-" + "0" * 32,
        tenant="acme",
        bytes=sum(map(rendered_bytes, manifest)),
        created_ms=0,
        expires_at=3600,
        filename="a",
        purpose="batch_output",
        source="batch:",
        objects=(MANIFEST,),
    )
    place = Bytes({MANIFEST: b"".join(manifest), **pictures})
    renderer = OutputRenderer(cast("Any", place), cast("Any", place))

    async def render(start: int, end: int) -> bytes:
        return b"".join([piece async for piece in renderer(record, start, end)])

    whole = asyncio.run(render(0, record.bytes))
    assert record.bytes == len(whole)
    for text in whole.splitlines():
        found = json.loads(text)
        assert "caf\u00e9 \x01 id" == found["custom_id"]
        assert list(pictures.values()) == [base64.b64decode(one) for one in found["response"]["body"]]
    for start in range(0, record.bytes, 23):
        for end in range(start + 1, record.bytes + 1, 37):
            assert whole[start:end] == asyncio.run(render(start, end))
