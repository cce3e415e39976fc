"""Request bodies as clients send them: compressed, with a byte order mark, with half an emoji, or unreadable."""

import gzip
import random
import zlib
from collections.abc import Callable
from typing import Final

import pytest

from tests.support.harness import Gateway, MakeGateway, Simulator

GENERATIONS: Final = "/v1/images/generations"
NATIVE: Final = "/v1/image_generation"
BODY: Final = b'{"model": "image-01", "prompt": "a lighthouse"}'
MIB: Final = 1024 * 1024


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def in_members(data: bytes) -> bytes:
    return gzip.compress(data[:10]) + gzip.compress(data[10:])


PACKED: Final[list[tuple[str, Callable[[bytes], bytes]]]] = [
    ("gzip", gzip.compress),
    ("GZIP", gzip.compress),
    ("x-gzip", gzip.compress),
    ("gzip", in_members),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("identity", bytes),
    ("identity, gzip", gzip.compress),
    ("deflate, gzip", lambda data: gzip.compress(zlib.compress(data))),
    ("", bytes),
]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", [GENERATIONS, NATIVE])
@pytest.mark.parametrize(("coding", "pack"), PACKED, ids=lambda value: getattr(value, "__name__", value))
def test_a_compressed_body_is_read(
    gateway: Gateway, simulator: Simulator, path: str, coding: str, pack: Callable[[bytes], bytes]
) -> None:
    answer = gateway.post(path, pack(BODY), content_encoding=coding)
    assert 200 == answer.status_code, answer.text
    assert "base_resp" not in answer.json() or 0 == answer.json()["base_resp"]["status_code"]
    assert "a lighthouse" == simulator.requests()[-1]["body"]["prompt"]


@pytest.mark.shares_gateway
def test_a_large_compressed_body_is_read(gateway: Gateway) -> None:
    """Of 12 MiB, in many pieces, that compress to 9."""
    face = "data:image/jpeg;base64," + random.Random(1).randbytes(6 * MIB).hex()
    body = b'{"model":"image-01","prompt":"x","subject_reference":[{"type":"character","image_file":"%s"}]}'
    answer = gateway.post(NATIVE, gzip.compress(body % face.encode(), 1), content_encoding="gzip")
    assert 0 == answer.json()["base_resp"]["status_code"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, br", "gzip, gzip, gzip", "nonsense"])
def test_another_coding_is_415_with_those_that_are_read(gateway: Gateway, coding: str) -> None:
    answer = gateway.post(GENERATIONS, BODY, content_encoding=coding)
    error = answer.json()["error"]
    assert (415, "unsupported_content_type", None) == (answer.status_code, error["code"], error["param"])
    assert "'gzip' or 'deflate'" in error["message"]
    assert "gzip, deflate" == answer.headers["accept-encoding"]
    assert "false" == answer.headers["x-should-retry"]


@pytest.mark.shares_gateway
def test_on_the_native_routes_another_coding_is_an_invalid_parameter(gateway: Gateway) -> None:
    answer = gateway.post(NATIVE, BODY, content_encoding="br")
    assert (200, 2013) == (answer.status_code, answer.json()["base_resp"]["status_code"])


PACKED_BODY: Final = gzip.compress(BODY)


BROKEN: Final = {
    "cut at its end": ("gzip", PACKED_BODY[:-1], "it is truncated"),
    "cut in the middle": ("gzip", PACKED_BODY[:20], "it is truncated"),
    "cut in its header": ("gzip", PACKED_BODY[:1], "it is truncated"),
    "cut zlib": ("deflate", zlib.compress(BODY)[:-1], "it is truncated"),
    "not compressed": ("gzip", BODY, "Error -3"),
    "no deflate": ("deflate", b"\xff" * 100, "Error -3"),
    "a wrong checksum": ("gzip", PACKED_BODY[:-8] + bytes(8), "incorrect data check"),
    "more behind its end": ("gzip", PACKED_BODY + b"garbage", "other data follows its end"),
    "empty members": ("gzip", gzip.compress(b"") * 10_000, "it is mostly overhead"),
}


@pytest.mark.shares_gateway
@pytest.mark.parametrize("kind", BROKEN)
def test_broken_compression_is_named(gateway: Gateway, kind: str) -> None:
    coding, body, reason = BROKEN[kind]
    answer = gateway.post(GENERATIONS, body, content_encoding=coding)
    error = answer.json()["error"]
    assert (400, "invalid_request_error", None, None) == (
        answer.status_code,
        error["type"],
        error["param"],
        error["code"],
    )
    assert error["message"].startswith("We could not decompress the body of your request: ")
    assert reason in error["message"]


def bomb(size: int) -> bytes:
    return gzip.compress(b'{"prompt": "x"' + b" " * size + b"}")


@pytest.mark.shares_gateway
@pytest.mark.parametrize("size", [200_000, 50 * MIB])
@pytest.mark.parametrize("pack", [bomb, lambda size: gzip.compress(bomb(size))], ids=["once", "twice"])
def test_a_decompression_bomb_is_413(
    gateway: Gateway, simulator: Simulator, pack: Callable[[int], bytes], size: int
) -> None:
    packed = pack(size)
    coding = "gzip, gzip" if len(packed) < len(bomb(size)) else "gzip"
    answer = gateway.post(GENERATIONS, packed, content_encoding=coding)
    assert (413, "request_too_large") == (answer.status_code, answer.json()["error"]["code"])
    assert [] == simulator.requests()


def test_the_limit_counts_decompressed_bytes(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"max_body_bytes": 1000})
    fits, exceeds = (gzip.compress(BODY.ljust(size)) for size in (1000, 1001))
    assert 200 == gateway.post(GENERATIONS, fits, content_encoding="gzip").status_code
    assert 413 == gateway.post(GENERATIONS, exceeds, content_encoding="gzip").status_code


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", [GENERATIONS, NATIVE])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (rb"a \ud83d", "a \ufffd"),
        (rb"a \ud83d b", "a \ufffd b"),
        (rb"\uDC00a", "\ufffda"),
        (rb"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (rb"\ud83d\ude00\ude00", "\U0001f600\ufffd"),
        (rb"\ud83d\n", "\ufffd\n"),
        (rb"\\ud83d \ud83d", "\\ud83d \ufffd"),
        (rb"\\\ud83d", "\\\ufffd"),
        (rb"\\ud83d\ude00", "\\ud83d\ufffd"),
    ],
)
def test_half_an_emoji_is_a_replacement_character(
    gateway: Gateway, simulator: Simulator, path: str, text: bytes, expected: str
) -> None:
    answer = gateway.post(path, b'{"model":"image-01","prompt":"%s"}' % text)
    assert 200 == answer.status_code, answer.text
    assert expected == simulator.requests()[-1]["body"]["prompt"]


@pytest.mark.shares_gateway
def test_half_an_emoji_in_a_name_is_an_unknown_name(gateway: Gateway) -> None:
    answer = gateway.post(GENERATIONS, rb'{"prompt":"x","a\ud83d":1}')
    assert "Unknown parameter: 'a\ufffd'." == answer.json()["error"]["message"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", [GENERATIONS, NATIVE])
def test_a_byte_order_mark_is_passed_over(gateway: Gateway, path: str) -> None:
    answer = gateway.post(path, b"\xef\xbb\xbf" + BODY)
    assert 200 == answer.status_code
    assert "base_resp" not in answer.json() or 0 == answer.json()["base_resp"]["status_code"]


TEXT: Final = BODY.decode()


UNREADABLE: Final = {
    "nothing": (b"", "it is empty."),
    "blanks": (b" \r\n\t", "it is empty."),
    "a byte order mark": (b"\xef\xbb\xbf", "it is empty."),
    "a brace": (b"{", "it ends too early."),
    "UTF-16": (TEXT.encode("utf-16"), "it is UTF-16, not UTF-8."),
    "UTF-16LE": (TEXT.encode("utf-16-le"), "it is UTF-16, not UTF-8."),
    "UTF-16BE": (TEXT.encode("utf-16-be"), "it is UTF-16, not UTF-8."),
    "UTF-32": (TEXT.encode("utf-32"), "it is UTF-32, not UTF-8."),
    "UTF-32BE": (TEXT.encode("utf-32-be"), "it is UTF-32, not UTF-8."),
    "gzip": (gzip.compress(BODY), "it is compressed with gzip: send the header 'content-encoding: gzip'."),
    "zlib": (zlib.compress(BODY), "it is compressed with deflate: send the header 'content-encoding: deflate'."),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "it is compressed with zstd: send it uncompressed."),
}


@pytest.mark.shares_gateway
@pytest.mark.parametrize("kind", UNREADABLE)
def test_the_reason_given_for_a_body_is_the_reason(gateway: Gateway, kind: str) -> None:
    body, reason = UNREADABLE[kind]
    answer = gateway.post(GENERATIONS, body)
    message = f"We could not parse the JSON body of your request: {reason}"
    assert (400, message) == (answer.status_code, answer.json()["error"]["message"])
    native = gateway.post(NATIVE, body).json()["base_resp"]
    assert (2013, f"invalid params, {message}") == (native["status_code"], native["status_msg"])
