"""Decoding without a connection: any split of any compressed body, and any text as Python's own parser reads it."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.decoding import BodyDecoder, normalize_json
from gateway.domain.errors import GatewayError

FRAGMENTS = ("\\", "\\\\", "\\ud83d", "\\ude00", "\\uD83D\\uDE00", "\\u0041", "ud83d", "a", '\\"', "\\n", "é")


@given(st.lists(st.sampled_from(FRAGMENTS)).map("".join))
def test_only_lone_surrogates_change(text: str) -> None:
    body = f'{{"a":"{text}"}}'
    try:
        read = json.loads(body)
    except ValueError:
        return
    expected = read["a"].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert {"a": expected} == json.loads(normalize_json(body.encode()))


def decode(coding: str, *pieces: bytes) -> bytes:
    decoder = BodyDecoder(coding)
    decoded = b"".join(part for piece in pieces for part in decoder.feed(piece))
    decoder.finish()
    return decoded


def split(data: bytes, at: list[int]) -> Iterator[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return (data[start:end] for start, end in pairwise(edges))


@given(st.binary(max_size=500), st.lists(st.integers(0, 1000), max_size=8), st.sampled_from(["gzip", "deflate"]))
def test_a_body_is_the_same_however_it_arrives(body: bytes, at: list[int], coding: str) -> None:
    packed = gzip.compress(body) + gzip.compress(body) if coding == "gzip" else zlib.compress(body + body)
    assert body + body == decode(coding, *split(packed, at))


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate", "gzip, deflate"]))
def test_any_bytes_are_decoded_or_refused(body: bytes, coding: str) -> None:
    with suppress(GatewayError):
        decode(coding, body)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_every_truncation_is_refused(pack: Callable[[bytes], bytes]) -> None:
    packed = pack(b'{"prompt": "x"}')
    for end in range(1, len(packed)):
        with pytest.raises(GatewayError, match="it is truncated"):
            decode("gzip", packed[:end])
