"""A tenant whose words a provider's edge blocks or repeats costs no other tenant a key."""

import pytest

from tests.support.edge import ATTACK, keys_called, order, post, resting
from tests.support.harness import Simulator, document, gatewaying, new_key, upstream, wait_until

THREE = ("a:a-1,a-2", "b:b-1", "c:c-1")
DIALECTS = pytest.mark.parametrize("protocol", ["minimax", "302ai"])


@DIALECTS
@pytest.mark.parametrize("status", [302, 401, 402, 403, 406, 429, 451])
def test_a_prompt_that_the_edge_blocks_is_refused_after_two_keys_and_rests_none(
    redis_url: str, provider: Simulator, protocol: str, status: int
) -> None:
    order(provider, "edge", blocks=status)
    with gatewaying(document(redis_url, upstream("sim", protocol, provider.url, *THREE))) as gateway:
        mallory = new_key(gateway.url, "mallory", limits={"requests_per_minute": 2})
        refused = post(gateway, mallory, prompt=ATTACK)
        called = keys_called(provider)
        served = [post(gateway, gateway.api_key, prompt=f"a cat {number}").status_code for number in range(6)]
        again = [post(gateway, mallory, prompt=ATTACK).status_code for _ in range(2)]
        assert {} == resting(gateway)
    error = refused.json()["error"]
    assert (400, "request_blocked", "invalid_request_error") == (refused.status_code, error["code"], error["type"])
    assert "false" == refused.headers["x-should-retry"]
    assert (2, 2) == (len(called), len(set(called)))
    assert [200] * 6 == served
    assert [400, 429] == again, "what the edge blocks counts against the tenant's requests"


@DIALECTS
def test_one_job_of_ten_calls_rests_none_of_sixty_keys(redis_url: str, provider: Simulator, protocol: str) -> None:
    order(provider, "edge", blocks=403)
    accounts = [f"acc{number}:acc{number}-1,acc{number}-2" for number in range(30)]
    configured = upstream("sim", protocol, provider.url, *accounts, max_images_per_call=1)
    with gatewaying(document(redis_url, configured)) as gateway:
        assert 400 == post(gateway, gateway.api_key, prompt=ATTACK, n=10).status_code
        assert {} == resting(gateway)
        assert 200 == post(gateway, gateway.api_key, prompt="a cat").status_code
    job = len(keys_called(provider)) - 1
    assert job <= 11, "each part once, and the part that was refused first once more before a second key was refused"


@pytest.mark.parametrize(
    "link",
    [
        "https://x.example/ credits do not support.jpg",
        "https://x.example/ your current token plan not support model",
        "https://x.example/(1008)",
        "https://x.example/(2049)",
    ],
)
def test_words_that_an_error_repeats_rest_nothing(redis_url: str, provider: Simulator, link: str) -> None:
    order(provider, "edge", echoes=True)
    with gatewaying(document(redis_url, upstream("sim", "minimax", provider.url, *THREE))) as gateway:
        reference = [{"type": "character", "image_file": link}]
        body = {"model": "image-01", "prompt": "x", "subject_reference": reference}
        refused = gateway.post("/v1/image_generation", body).json()
        assert {} == resting(gateway)
        assert 200 == post(gateway, gateway.api_key, prompt="a cat").status_code
    assert 2013 == refused["base_resp"]["status_code"]
    assert 2 == len(keys_called(provider)), "one refused call, one served"


def test_a_bare_refusal_of_a_dead_key_is_confirmed_by_its_page_before_the_key_rests(
    redis_url: str, provider: Simulator
) -> None:
    """The page is asked about both keys that were refused; one of them is dead there."""
    order(provider, "edge", blocks=401)
    order(provider, "keys/a-1", answers=2049)
    with gatewaying(document(redis_url, upstream("sim", "minimax", provider.url, "a:a-1", "b:b-1"))) as gateway:
        assert 400 == post(gateway, gateway.api_key, prompt=ATTACK).status_code
        wait_until(lambda: bool(resting(gateway)), "the page is asked")
        assert {"a": "key_invalid", "a/a-1": "key_invalid"} == resting(gateway)
        assert 200 == post(gateway, gateway.api_key, prompt="a cat").status_code


@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (401, 503, "upstream_unavailable"),
        (402, 503, "upstream_unavailable"),
        (403, 503, "upstream_unavailable"),
        (406, 502, "upstream_error"),
        (429, 429, "rate_limit_exceeded"),
    ],
)
def test_with_one_key_alone_it_stays_open_who_is_to_blame(
    redis_url: str, provider: Simulator, status: int, answer: int, code: str
) -> None:
    order(provider, "edge", blocks=status)
    with gatewaying(document(redis_url, upstream("sim", "minimax", provider.url))) as gateway:
        refused = post(gateway, gateway.api_key, prompt=ATTACK)
        assert {} == resting(gateway)
        assert 200 == post(gateway, gateway.api_key, prompt="a cat").status_code
    assert (answer, code) == (refused.status_code, refused.json()["error"]["code"])
