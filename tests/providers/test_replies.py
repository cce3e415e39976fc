"""An answer is taken apart without trusting any of it, and without copying the pictures."""

import base64
import binascii
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import Base64Image, ImageUrl, ResponseFormat
from gateway.providers import PROVIDERS
from gateway.providers.protocol import Provider
from gateway.providers.replies import (
    STATUS_ERRORS,
    UntrustedObject,
    UpstreamResponse,
    http_error,
    parse_object,
    read_images,
)

JPEG = base64.b64encode(b"\xff\xd8\xff\xe0" + b"picture" * 3).decode()


def opened(body: bytes) -> UntrustedObject:
    return UntrustedObject(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))


def data_of(raw: bytes) -> UntrustedObject:
    return parse_object(UpstreamResponse(200, b'{"data":' + raw + b"}")).inner("data")


def pictures(raw: bytes, delivery: ResponseFormat = ResponseFormat.BASE64) -> list[bytes | str]:
    found = read_images(data_of(raw), delivery)
    return [bytes(picture.base64) if isinstance(picture, Base64Image) else picture.url for picture in found]


@pytest.mark.parametrize("body", [b"{}", b'{"x":null}', b'{"x":1.5}', b'{"x":true}', b'{"x":"\\ud83d\\ude00"}'])
def test_missing_null_and_wrong_types_read_as_nothing(body: bytes) -> None:
    envelope = opened(body)
    assert envelope.integer("x") is None
    assert envelope.items("x") == []
    assert envelope.inner("x").inner("y").items("z") == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("7", 7),
        ('"7"', 7),
        ('" 7 "', 7),
        ('"-10001"', -10001),
        ("-10001", -10001),
        ('"007"', 7),
        ('"7.0"', None),
        ('"+7"', None),
        ('"seven"', None),
        ('""', None),
        ('"\u0667"', None),
        ("true", None),
        ("[7]", None),
        ('"' + "9" * 400 + '"', None),
        ("9" * 5000, None),
    ],
)
def test_integers_may_come_as_text(value: str, expected: int | None) -> None:
    assert expected == opened(f'{{"x":{value}}}'.encode()).integer("x")


def test_text_is_cut_for_the_log() -> None:
    assert len(opened(b'{"x":"' + b"a" * 10_000 + b'"}').text("x")) == 1000
    assert opened(b'{"x":7}').text("x") == ""


def test_every_http_status_has_a_fault_that_costs_no_key_without_reason() -> None:
    for status in range(300, 600):
        error = http_error(UpstreamResponse(status, b"", 5.0), "detail")
        if status in STATUS_ERRORS:
            assert error.retry_after_s == 5.0, status
        else:
            assert error.row.pause_s == 0, status
        assert str(status) in error.detail


@pytest.mark.parametrize("status", [408, 504, 524])
def test_http_timeouts_may_have_cost_money(status: int) -> None:
    """524 is Cloudflare's "the origin did not answer in time": sent, and no answer."""
    assert Outcome.UNKNOWN is http_error(UpstreamResponse(status, b""), "detail").row.outcome


def test_2xx_without_an_object_is_unreadable() -> None:
    with pytest.raises(GatewayError) as failed:
        parse_object(UpstreamResponse(204, b""))
    assert ErrorCode.INVALID_RESPONSE is failed.value.error_code


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (f'"{JPEG}"', JPEG),
        (f'"data:image/jpeg;base64,{JPEG}"', JPEG),
        ('"' + JPEG.replace("/", "\\/") + '"', JPEG),
        ('"' + JPEG[:8] + "\\n" + JPEG[8:] + '\\r\\n"', JPEG),
        ('"/9j/4A"', "/9j/4A=="),
        ('"/9j/4A=="', "/9j/4A=="),
        ('"iVBORw0KGgo="', "iVBORw0KGgo="),
        ('""', None),
        ('"AAAA"', None),
        ('"/9j/4"', None),
        ('"/9j/ä"', None),
        ('"/9j/\\u0000"', None),
        ('"/9j/\\""', None),
        ("null", None),
        ("123456", None),
        ('["/9j/4A=="]', None),
        ('{"/9j/":1}', None),
    ],
)
def test_base64_is_cleaned_or_left_out(item: str, expected: str | None) -> None:
    assert ([expected.encode()] if expected else []) == pictures(f'{{"image_base64":[{item}]}}'.encode())


@pytest.mark.parametrize("text", ["/9j/====", "/9j/==4A", "/9j/4AA=4AA="])
def test_padding_inside_is_no_base64(text: str) -> None:
    """What the SDKs' users decode must decode."""
    assert [] == pictures(msgspec.json.encode({"image_base64": [text]}))


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("https://x.org/a%2Fb?c=d%2B", "https://x.org/a%2Fb?c=d%2B"),
        ("  http://x.org/a\n", "http://x.org/a"),
        ("HTTPS://x.org/a", "HTTPS://x.org/a"),
        ("https://x.org/" + "a" * 8178, "https://x.org/" + "a" * 8178),
        ("https://x.org/" + "a" * 8179, None),
        ("https://x.org/\r\nset-cookie: a", None),
        ("https://x.org/\u0000", None),
        ("https://x.org/\u202e", None),
        ("javascript:alert(1)", None),
        ("ftp://x.org/a", None),
        ("//x.org/a", None),
        ("", None),
    ],
)
def test_links_are_http_and_printable(item: str, expected: str | None) -> None:
    found = pictures(msgspec.json.encode({"image_urls": [item]}), ResponseFormat.URL)
    assert ([expected] if expected else []) == found


def test_a_megabyte_picture_is_a_slice_of_the_received_bytes() -> None:
    body = msgspec.json.encode({"data": {"image_base64": ["/9j/" + "A" * 4_000_000]}})
    tracemalloc.start()
    try:
        (picture,) = read_images(parse_object(UpstreamResponse(200, body)).inner("data"), ResponseFormat.BASE64)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(picture, Base64Image)
    assert len(picture.base64) == 4_000_004
    assert kept_bytes < 100_000


MANY = {
    "strings": b'{"data":{"image_base64":[' + b",".join([b'"a"'] * 200_000) + b"]}}",
    "numbers": b'{"data":{"image_urls":[' + b",".join([b"1"] * 200_000) + b"]}}",
    "objects": b'{"data":[' + b",".join([b"{}"] * 200_000) + b"]}",
    "arrays in arrays": b'{"data":[' + b",".join([b"[" * 200 + b"]" * 200] * 1000) + b"]}",
    "fields": b'{"x":{' + b",".join(b'"%d":1' % at for at in range(200_000)) + b"}}",
}


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("body", MANY.values(), ids=MANY)
def test_an_answer_of_many_parts_is_not_taken_apart(body: bytes, status: int) -> None:
    with pytest.raises(GatewayError, match="too many parts") as refused:
        PROVIDERS["minimax"].read_reply(UpstreamResponse(status, body), ResponseFormat.URL)
    is_free = status == 400 and b"image_" not in body
    assert (ErrorCode.UPSTREAM_REJECTED if is_free else ErrorCode.INVALID_RESPONSE) is refused.value.error_code


@pytest.mark.parametrize(
    ("sent", "error_code"),
    [
        (b'{"prompt":"a fox"}', ErrorCode.INVALID_RESPONSE),
        (b'{"prompt":"\\"image_urls\\":"}', ErrorCode.INVALID_RESPONSE),
        (b'{"prompt":"\\"image_urls\\":[\\"https://x.org/1\\"]"}', ErrorCode.BARE_FORBIDDEN),
    ],
)
def test_images_in_a_body_that_is_no_json_may_have_been_billed_unless_it_repeats_the_request(
    sent: bytes, error_code: ErrorCode
) -> None:
    """No tenant opens the circuit breaker with words that an upstream repeats unescaped."""
    reply = UpstreamResponse(403, b'{"error":"\\ud800","image_urls":["https://x.org/1"]}', sent=(sent,))
    with pytest.raises(GatewayError) as refused:
        PROVIDERS["minimax"].read_reply(reply, ResponseFormat.URL)
    assert error_code is refused.value.error_code


def test_a_page_of_hundreds_of_models_is_taken_apart() -> None:
    models = [
        {"id": f"m{at}", "object": "model", "created": 1, "owned_by": "x", "tags": ["a", "b"]} for at in range(900)
    ]
    assert 900 == len(parse_object(UpstreamResponse(200, msgspec.json.encode({"data": models}))).inners("data"))


@pytest.mark.parametrize(
    ("name", "item", "delivery"),
    [("image_base64", JPEG, ResponseFormat.BASE64), ("image_urls", "https://x.org/a.jpg", ResponseFormat.URL)],
)
def test_no_more_items_are_looked_at_than_can_be_ordered(name: str, item: str, delivery: ResponseFormat) -> None:
    assert [] == pictures(msgspec.json.encode({name: ["junk"] * 1000 + [item]}), delivery)
    assert 9 == len(pictures(msgspec.json.encode({name: ["", None, *[item] * 9]}), delivery))
    assert 32 == len(pictures(msgspec.json.encode({name: [item] * 1000}), delivery))


def test_a_picture_in_pieces_is_cleaned_without_an_object_for_each() -> None:
    raw = msgspec.json.encode({"image_base64": ["/9j/" + " AAAA" * 400_000]})
    data = data_of(raw)
    tracemalloc.start()
    try:
        (picture,) = read_images(data, ResponseFormat.BASE64)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(picture, Base64Image)
    assert len(picture.base64) == 1_600_004
    assert peak_bytes < 6 * len(raw)


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=4))
def test_every_jpeg_comes_back_byte_for_byte(files: list[bytes]) -> None:
    files = [b"\xff\xd8\xff" + file for file in files]
    body = msgspec.json.encode({"image_base64": [base64.b64encode(file).decode() for file in files]})
    assert files == [base64.b64decode(found, validate=True) for found in pictures(body)]


@given(st.lists(st.text() | st.none() | st.integers()))
def test_any_list_gives_only_decodable_pictures_and_links(items: list[object]) -> None:
    body = msgspec.json.encode({"image_base64": items, "image_urls": items})
    for picture in read_images(data_of(body), ResponseFormat.BASE64):
        if isinstance(picture, ImageUrl):
            assert picture.url.lower().startswith("http")
        else:
            base64.b64decode(picture.base64, validate=True)


LARGE = base64.b64encode(b"\xff\xd8\xff" + b"picture" * 30_000).decode()
"""Looked at in pieces."""


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (LARGE, LARGE),
        (LARGE[:90_000] + "\n" + LARGE[90_000:], LARGE),
        ("data:image/jpeg;base64," + LARGE, LARGE),
        (LARGE[:90_000] + " " + LARGE[90_001:-1] + "A", LARGE[:90_000] + LARGE[90_001:-1] + "A="),
        (LARGE[:90_000] + "=" + LARGE[90_001:], None),
        (LARGE[:90_000] + "ä" + LARGE[90_001:], None),
        (LARGE[:90_000] + "-" + LARGE[90_001:], None),
        (LARGE[:90_000] + "_" + LARGE[90_001:], None),
        (LARGE[:90_000] + "<script>" + LARGE[90_008:], None),
        (LARGE[:90_000] + "%%%%" + LARGE[90_004:], None),
        (LARGE[:90_000] + "\x7f" * 4 + LARGE[90_004:], None),
        (LARGE[:-1] + "!", None),
    ],
)
def test_a_large_picture_in_another_form_is_cleaned_or_left_out(item: str, expected: str | None) -> None:
    assert ([expected.encode()] if expected else []) == pictures(msgspec.json.encode({"image_base64": [item]}))


@given(st.integers(0, len(LARGE) - 1), st.characters(max_codepoint=0x2FF, exclude_categories=["Cs"]))
def test_one_character_anywhere_gives_a_picture_that_every_client_can_decode_or_none(at: int, character: str) -> None:
    for found in pictures(msgspec.json.encode({"image_base64": [LARGE[:at] + character + LARGE[at + 1 :]]})):
        binascii.a2b_base64(found, strict_mode=True)


DEEP = 900


@pytest.mark.parametrize("provider", PROVIDERS.values(), ids=PROVIDERS)
@pytest.mark.parametrize(
    "data", [b"[" * DEEP + b"]" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP], ids=["lists", "objects"]
)
def test_data_that_is_nested_deeply_ends_in_an_error(provider: Provider, data: bytes) -> None:
    reply = UpstreamResponse(200, b'{"data":' + data + b',"base_resp":{"status_code":0}}')
    with pytest.raises(GatewayError):
        provider.read_reply(reply, ResponseFormat.URL)


USUAL = st.dictionaries(st.sampled_from(["image_base64", "image_urls", "x"]), st.none() | st.lists(st.text()))


@given(USUAL | st.none() | st.text() | st.lists(st.integers()) | st.dictionaries(st.text(), st.integers()))
def test_an_answer_reads_the_same_in_one_pass_and_in_several(data: object) -> None:
    envelope = parse_object(UpstreamResponse(200, msgspec.json.encode({"data": data, "id": "7", "new": 1})))
    assert isinstance(data, dict) or data == envelope.value("data")
    assert 7 == envelope.integer("id")
    for name in ("image_base64", "image_urls", "x"):
        found = data.get(name) if isinstance(data, dict) else None
        assert (found if isinstance(found, list) else []) == [
            msgspec.json.decode(raw) for raw in envelope.inner("data").items(name)
        ]


@pytest.mark.parametrize("body", [b'{"data":{}}', b'{"data":null}', b"{}"])
def test_a_field_that_one_pass_would_lose_is_not_asked_for(body: bytes) -> None:
    with pytest.raises(AssertionError):
        parse_object(UpstreamResponse(200, body)).text("new")
