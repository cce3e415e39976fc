"""Replies of a provider: everything that is documented, and much that is not."""

from collections.abc import Iterator

from tests.flow.captured.provider import Scripted

_ENCODED = "/9j/IHBpY3R1cmU="
_LINK = "http://upstream/pictures/0.jpg"
_CODES = (
    *(1000, 1001, 1002, 1004, 1008, 1013, 1024, 1026, 1027, 1028, 1030, 1033, 1039, 1041, 1042, 1043, 1044, 2013),
    *(2037, 2038, 2039, 2042, 2045, 2046, 2047, 2048, 2049, 2054, 2056, 2061, 2067, 20132, 1_400_010_161, 7, -1),
)
_TEXTS_OF_2013 = (
    "invalid params, prompt length must be less than 1500",
    "your current token plan not support model, image-01",
    "your current token plan not support model",
    "text moderation failed",
    "invalid params, width must be a multiple of 8",
    "input new_sensitive",
)
_ERR_CODES = (*range(-10018, -10000), -1024, -99, -100, -101, -7)
_WORDS = ("InvalidParameter", "MissingParameter", "Unauthorized", "RateLimitExceeded", "InsufficientBalance")
_TYPES = (
    *("authentication_error", "authorized_error", "permission_error", "invalid_request_error", "bad_request_error"),
    *("rate_limit_error", "insufficient_balance_error", "overloaded_error", "api_error", "server_error", "odd_error"),
)
_STATUSES = (
    *(204, 301, 302, 400, 401, 402, 403, 404, 405, 408, 409, 413, 418, 422, 429),
    *(500, 501, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 530),
)


def _made(data: object, made: object = "1", failed: object = "0", code: object = 0) -> dict[str, object]:
    return {
        "id": "0123456789",
        "data": data,
        "metadata": {"success_count": made, "failed_count": failed},
        "base_resp": {"status_code": code, "status_msg": "success"},
    }


def _base_resp(code: object, text: str = "no") -> dict[str, object]:
    return {"base_resp": {"status_code": code, "status_msg": text}}


def _typed(kind: str, status: int) -> dict[str, object]:
    error = {"type": kind, "message": "no", "http_code": str(status)}
    return {"type": "error", "error": error, "request_id": "r-1"}


def replies() -> Iterator[tuple[str, Scripted]]:
    """Provider and reply."""
    for reply in (*_successes(), *_refusals(), *_broken()):
        yield "minimax", reply
        yield "302ai", reply
    for reply in _of_302ai():
        yield "302ai", reply
        if not reply.name.startswith("err_code"):
            yield "minimax", reply


def _successes() -> Iterator[Scripted]:
    yield Scripted("encoded", _made({"image_base64": [_ENCODED] * 2}))
    yield Scripted("links", _made({"image_urls": [_LINK, _LINK]}))
    yield Scripted("both forms", _made({"image_urls": [_LINK], "image_base64": [_ENCODED]}))
    yield Scripted("one of two withheld", _made({"image_base64": [_ENCODED]}, 1, 1))
    yield Scripted("blanks among them", _made({"image_base64": ["", None, _ENCODED, 5], "image_urls": None}))
    yield Scripted("data URL with line breaks", _made({"image_base64": ["data:image/jpeg;base64,/9j/IHBp\nY3R1cmU="]}))
    yield Scripted("more than asked", _made({"image_base64": [_ENCODED] * 4}))
    yield Scripted("no code", {"data": {"image_base64": [_ENCODED]}})
    yield Scripted("code as text", _made({"image_base64": [_ENCODED]}, code="0"))
    yield Scripted("one link leads nowhere", _made({"image_urls": [_LINK, "http://upstream/pictures/missing.jpg"]}))
    yield Scripted("every link leads nowhere", _made({"image_urls": ["http://upstream/pictures/missing.jpg"]}))
    yield Scripted("foreign host", _made({"image_urls": ["http://elsewhere.test/0.jpg"]}))


def _refusals() -> Iterator[Scripted]:
    for code in _CODES:
        yield Scripted(f"code {code}", _base_resp(code))
    for text in _TEXTS_OF_2013:
        yield Scripted(f"code 2013: {text}", _base_resp(2013, text))
    yield Scripted("code 1026 as text", _base_resp("1026"))
    yield Scripted("code 2056 and HTTP 429", _base_resp(2056), 429, {"retry-after": "7"})
    yield Scripted("code 1002 and Retry-After", _base_resp(1002), 200, {"retry-after": "90"})
    yield Scripted("code 1008 said twice", '{"base_resp":{"status_code":1008},"base_resp":{"status_code":1008}}')
    yield Scripted("all withheld", _made({"image_urls": []}, "0", "1"))
    yield Scripted("empty", _made({"image_urls": []}, "0", "0"))
    for kind in _TYPES:
        for status in (200, 400, 429, 503, 504):
            yield Scripted(f"{kind}, HTTP {status}", _typed(kind, status), status)
    yield Scripted("error as text", {"error": "no"}, 400)
    yield Scripted("error without a type", {"error": {"message": "no"}}, 401)


def _broken() -> Iterator[Scripted]:
    for status in _STATUSES:
        yield Scripted(f"HTTP {status}", "", status)
    for status in sorted({status for status in _STATUSES if status >= 520}):
        yield Scripted(f"HTTP {status} of Cloudflare", "<html>", status, {"cf-ray": "1"})
    yield Scripted("HTTP 429 with Retry-After", "{}", 429, {"retry-after": "30"})
    yield Scripted("HTTP 500 with a body of the provider", _base_resp(1000), 500)
    for text in ("", "{}", "[]", "null", "<html>", '{"base_resp":', '{"data":5}', "[" * 3000, r'"\ud83d"'):
        yield Scripted(f"body {text[:20]}", text)
    yield Scripted("made in an unknown form", _made({"images": ["x"]}, "1"))
    yield Scripted("made, and nothing there", _made({}, "1"))
    yield Scripted("not a picture", _made({"image_base64": ["AAAA"]}))


def _of_302ai() -> Iterator[Scripted]:
    for code in _ERR_CODES:
        yield Scripted(f"err_code {code}", {"error": {"err_code": code, "message": "no"}}, 401)
    yield Scripted("err_code in data", {"data": {"error": {"err_code": "-10004", "message": "no"}}})
    for word in (*_WORDS, "InternalError", "Else"):
        for status in (200, 400, 401, 500):
            yield Scripted(f"{word}, HTTP {status}", {"code": word, "message": "no"}, status)
