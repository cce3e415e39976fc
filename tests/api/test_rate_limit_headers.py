import pytest

from gateway.api.response_headers import rate_headers
from gateway.domain.tenants import Rate, Rates
from tests.support.harness import Gateway, Simulator, new_key


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (1, "1s"), (59, "59s"), (60, "1m0s"), (61, "1m1s")])
def test_durations_are_written_as_openai_does(seconds: int, text: str) -> None:
    assert text == dict(rate_headers(Rates(requests=Rate(9, 5, seconds))))["x-ratelimit-reset-requests"]


def test_only_limits_that_exist_are_told() -> None:
    assert [
        ("x-ratelimit-limit-images", "9"),
        ("x-ratelimit-remaining-images", "5"),
        ("x-ratelimit-reset-images", "1m1s"),
    ] == list(rate_headers(Rates(images=Rate(9, 5, 61))))


def told(headers: object) -> dict[str, str]:
    return {name: value for name, value in dict(headers).items() if name.startswith("x-ratelimit-")}  # type: ignore[call-overload]


def test_every_answer_to_a_tenant_with_rates_tells_them(gateway: Gateway, simulator: Simulator) -> None:
    """Served, refused, malformed, native, streamed, and the list of models; a malformed order is a request too."""
    limits = {"requests_per_minute": 6, "images_per_minute": 9}
    key = new_key(gateway.url, "limited", limits=limits)
    sent = {"authorization": f"Bearer {key}"}
    before = {
        "x-ratelimit-limit-requests": "6",
        "x-ratelimit-remaining-requests": "6",
        "x-ratelimit-reset-requests": "0s",
        "x-ratelimit-limit-images": "9",
        "x-ratelimit-remaining-images": "9",
        "x-ratelimit-reset-images": "0s",
    }
    for answer in (gateway.get("/v1/models", **sent), gateway.get("/v1/models/nope", **sent)):
        assert before == told(answer.headers), answer.text
    for left, answer in (
        ("5", gateway.post("/v1/images/generations", {"prompt": "x", "n": 11}, **sent)),
        ("4", gateway.post("/v1/image_generation", {"prompt": "x"}, **sent)),
    ):
        counted = {"x-ratelimit-remaining-requests": left, "x-ratelimit-reset-requests": "1m1s"}
        assert before | counted == told(answer.headers), answer.text
    answer = gateway.post("/v1/images/generations", {"prompt": "x", "n": 2}, **sent)
    assert (200, "3", "7", "1m1s") == (
        answer.status_code,
        answer.headers["x-ratelimit-remaining-requests"],
        answer.headers["x-ratelimit-remaining-images"],
        answer.headers["x-ratelimit-reset-images"],
    )
    streamed = gateway.post("/v1/images/generations", {"prompt": "x", "stream": True}, **sent)
    assert ("2", "6") == tuple(streamed.headers[f"x-ratelimit-remaining-{unit}"] for unit in ("requests", "images"))
    native = gateway.post("/v1/image_generation", {"model": "image-01", "prompt": "x"}, **sent)
    assert ("1", "5") == tuple(native.headers[f"x-ratelimit-remaining-{unit}"] for unit in ("requests", "images"))
    refused = gateway.post("/v1/images/generations", {"prompt": "x", "n": 6}, **sent)
    assert 429 == refused.status_code
    assert ("0", "5") == tuple(refused.headers[f"x-ratelimit-remaining-{unit}"] for unit in ("requests", "images"))
    assert 4 == simulator.images_billed()


def test_a_tenant_without_rates_is_told_none(gateway: Gateway) -> None:
    assert {} == told(gateway.generate(prompt="x").headers) == told(gateway.get("/v1/models").headers)
