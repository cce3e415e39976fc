"""Images where a reply should have none: they may have been billed, so nothing is bought again and no key is blamed."""

import json

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import ResponseFormat
from gateway.providers import PROVIDERS
from gateway.providers.protocol import Provider
from gateway.providers.replies import UpstreamResponse

LINK = "https://cdn.hailuoai.com/1.jpeg?Signature=x%3D"
JPEG = "/9j/4AAQSkZJRg=="
AVIF = "AAAAIGZ0eXBhdmlmAAAAAA=="
HEIC = "AAAAGGZ0eXBoZWljAAAAAA=="
FORMS = (
    *(LINK, LINK.upper(), f" {LINK}\n", f"data:image/jpeg;base64,{JPEG}", JPEG, JPEG[:-2], AVIF, HEIC),
    *("_9j_4AAQSkZJRg==", "iVBORw0KGgo=", "UklGRiQAAABXRUJQ", "R0lGODlhAQABAAAAACw=", f"data:image/avif;base64,{AVIF}"),
)
BOTH = pytest.mark.parametrize("provider", [PROVIDERS["302ai"], PROVIDERS["minimax"]], ids=["302ai", "minimax"])


def refused(code: object, **more: object) -> dict[str, object]:
    return {"base_resp": {"status_code": code, "status_msg": "no", **more}}


def own_error(**more: object) -> dict[str, object]:
    return {"error": {"err_code": -10001, "message": "no", **more}}


def error_of(provider: Provider, answer: object, status: int = 200, prompt: str = "a fox") -> GatewayError:
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    sent = (b'{"model":"image-01","prompt":', msgspec.json.encode(prompt), b"}")
    with pytest.raises(GatewayError) as failed:
        provider.read_reply(UpstreamResponse(status, body, sent=sent), ResponseFormat.URL)
    return failed.value


def beside(answer: dict[str, object]) -> list[tuple[object, int]]:
    """The answer beside every kind of refusal, and as a success."""
    typed = {"type": "error", "error": {"type": "authentication_error", "http_code": "401"}, "request_id": "r"}
    codes: list[object] = [refused(code) | answer for code in (0, 1000, 1002, 1004, 1008, 2013, 2056)]
    return (
        [(body, 200) for body in codes]
        + [(answer, status) for status in (400, 401, 403, 429)]
        + [(typed | answer, 401)]
    )


@BOTH
@pytest.mark.parametrize("image", FORMS)
def test_an_image_in_any_place_may_have_been_billed(provider: Provider, image: str) -> None:
    places: list[dict[str, object]] = [
        {"images": [image]},
        {"images": [{"url": image}]},
        {"Data": {"image_urls": ["", None, image]}},
        {"DATA": {"IMAGE_BASE64": [image]}},
        {"metadata": {"image_urls": [image]}},
        {"output": {"results": [{"index": 1, "b64_json": image}]}},
        {"data": {"images": [image]}},
        {"image": image},
        {"choices": [{"message": {"images": [{"image_url": {"url": image}}]}}]},
    ]
    for place in places:
        for answer, status in beside(place):
            assert (answer, ErrorCode.INVALID_RESPONSE) == (answer, error_of(provider, answer, status).error_code)


@BOTH
@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (refused(1000, image_urls=[LINK]), 200),
        (own_error(image_urls=[LINK]), 401),
        (own_error(image_urls=["", "//cdn.example.org/a.jpg"]), 401),
        ({"metadata": {"success_count": "2"}} | refused(1004), 200),
        ({"metadata": {"success_count": 1}} | refused(1002), 200),
        ({"Metadata": {"successCount": 1}} | refused(0), 200),
        ({"result": {"success_count": " 03"}}, 429),
        ({"images": ["file-0193"]} | refused(0), 200),
        ({"output": {"image": "file-0193"}} | refused(0), 200),
        ({"output": {"outputUrl": "//cdn.example.org/1"}} | refused(0), 200),
        ({"title_image": LINK} | refused(1002), 200),
        ([LINK], 429),
        (LINK, 429),
    ],
)
def test_images_inside_an_error_and_counted_images_may_have_been_billed(
    provider: Provider, answer: object, status: int
) -> None:
    assert ErrorCode.INVALID_RESPONSE is error_of(provider, answer, status).error_code


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        b"RIFF$\x00\x00\x00WEBPVP8 ",
        b"GIF89a\x01\x00",
        b"\x00\x00\x00 ftypavif\x00\x00\x00\x00",
        JPEG.encode(),
        LINK.encode(),
        b'{"output":{"image":"https:\\/\\/x.org\\/1"},"a":',
        b'{"images":["\\/9j\\/4AAQ"],"images":[]}',
        b'{"images":["\\/9j\\/4AAQ',
        b'data: {"output":{"url":"https://x.org/1"}}\n\n',
        b'{"data":{"image_urls":["https://x.org/1"]},"data":{"image_urls":[]}}',
        b'{"data":{"image_urls":["https://x.org/\xff"],"error":"\\ud800"}',
        b'{"id":"' + b"x" * 100_000 + b'","images":["https://x.org/1"]}',
        b'{"x":[' + b",".join([b"{}"] * 200_000) + b'],"images":["https://x.org/1"]}',
    ],
    ids=lambda body: repr(body[:24]),
)
@pytest.mark.parametrize("status", [200, 400, 401, 429])
@pytest.mark.parametrize("prompt", ["a fox", "image_urls, image_base64"])
def test_images_in_a_body_that_cannot_be_read_may_have_been_billed(
    provider: Provider, body: bytes, status: int, prompt: str
) -> None:
    assert ErrorCode.INVALID_RESPONSE is error_of(provider, body, status, prompt).error_code


OWN = [
    *(
        LINK,
        JPEG,
        f"data:image/png;base64,{JPEG}",
        AVIF,
        f'","image_urls":["{LINK}"],"a":"',
        '"image_urls":',
        "image_urls",
    ),
    *('"success_count":"2"', f'a fox at "{LINK}"', f'{{"data":{{"image_urls":["{LINK}"]}}}}'),
]


@BOTH
@pytest.mark.parametrize("prompt", OWN)
@pytest.mark.parametrize("code", [1002, 1004])
def test_the_caller_s_own_words_are_no_images(provider: Provider, prompt: str, code: int) -> None:
    """No tenant makes a refusal that repeats its prompt an unknown outcome, which trips the circuit breaker."""
    plain = error_of(provider, refused(code)).error_code
    for repeated in (prompt, prompt[:-2] + "...", f"bad prompt: {prompt}", f"{prompt}: bad prompt", f"{prompt} is bad"):
        for place in (
            {"message": repeated},
            {"context": {"prompt": repeated}},
            {"request": {"model": "image-01", "prompt": repeated}},
            {"inputs": [repeated]},
            {"metadata": {"prompt": repeated, "success_count": "0"}},
            {"data": {"reason": repeated}},
        ):
            answer = refused(code) | place
            assert (answer, plain) == (answer, error_of(provider, answer, prompt=prompt).error_code)


@BOTH
@pytest.mark.parametrize("prompt", OWN[:-2])
def test_own_words_that_are_repeated_unescaped_are_no_images(provider: Provider, prompt: str) -> None:
    body = f'{{"error":"no: {prompt}","base_resp":{{"status_code":1004}}}}'.encode()
    assert ErrorCode.INVALID_RESPONSE is not error_of(provider, body, 403, prompt).error_code


FRAGMENTS = st.sampled_from(
    [
        *FORMS,
        *OWN,
        *(" ", "\n", '"', "\\", "[", "{", ":", ",", "a fox", "https://", "/9j/", "\u00e4", "\U0001f98a", ": "),
    ]
)


@BOTH
@given(st.lists(FRAGMENTS, min_size=1, max_size=6).map("".join), st.sampled_from(["", ": no", " is bad", "..."]))
def test_any_own_words_that_are_repeated_as_json_are_no_images(provider: Provider, prompt: str, more: str) -> None:
    assume(len(prompt) >= 4)
    for place in ({"message": prompt + more}, {"prompt": prompt + more}, {"params": ["x", prompt + more]}):
        assert ErrorCode.KEY_INVALID is error_of(provider, refused(1004) | place, prompt=prompt).error_code


@BOTH
def test_own_words_hide_no_image_of_the_provider(provider: Provider) -> None:
    for prompt in (
        "https://",
        "https://cdn.hailuoai.com/",
        "/9j/4AAQ",
        '"image_urls":',
        "success_count",
        "data:image/",
    ):
        for answer, status in beside({"images": [LINK, JPEG]}):
            assert ErrorCode.INVALID_RESPONSE is error_of(provider, answer, status, prompt).error_code


@BOTH
@pytest.mark.parametrize(
    "more",
    [
        {"message": LINK},
        {"status_msg": LINK, "details": [LINK]},
        {"message": f"see {LINK}", "error": f'see "{LINK}"'},
        {"type": "https://tools.ietf.org/html/rfc7231", "instance": "https://api.minimax.io/v1"},
        {
            "documentation_url": LINK,
            "Recommend": LINK,
            "billing_url": LINK,
            "help": LINK,
            "error_doc": [LINK],
            "support_url": LINK,
        },
        {"metadata": {"success_count": "0", "failed_count": "0"}},
        {"metadata": {"success_count": "-1"}},
        {"data": {"image_urls": [], "image_base64": None}, "images": [], "image_urls": ["", None]},
        {"trace_id": "9j/4AAQ", "path": "/9jobs/1", "file": "AAAA", "at": "AAAAIGZ0"},
        {"param": "image_urls", "params": ["image_urls", "image_base64"]},
        {"url": "ftp://x.org/1", "host": "cdn.hailuoai.com"},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("code", [1002, 1004])
def test_what_shows_no_image_is_an_ordinary_refusal(provider: Provider, more: dict[str, object], code: int) -> None:
    assert error_of(provider, refused(code)).error_code is error_of(provider, more | refused(code)).error_code


@BOTH
@pytest.mark.parametrize(
    "more", [{"images": ["", None]}, {"image_url": ""}, {"trace": "a", "message": "success"}], ids=str
)
def test_a_success_without_any_image_is_empty(provider: Provider, more: dict[str, object]) -> None:
    assert ErrorCode.EMPTY_RESPONSE is error_of(provider, more | refused(0)).error_code


@BOTH
@pytest.mark.parametrize(
    "body",
    [
        f'<html><link href="{LINK}"><img src="data:image/png;base64,{JPEG}"><script>x={{"url":"{LINK}"}}</script>',
        f'  <!doctype html><a href="{LINK}">',
        f'Too many requests: see "{LINK}" or {LINK}',
        f"{LINK} says: too many requests",
    ],
)
def test_a_page_of_a_proxy_shows_no_image(provider: Provider, body: str) -> None:
    for status, error_code in ((429, ErrorCode.BARE_RATE_LIMITED), (403, ErrorCode.BARE_FORBIDDEN)):
        assert error_code is error_of(provider, body.encode(), status).error_code
