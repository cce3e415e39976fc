"""What a response says of quotas and of its own cost."""

import pytest

from gateway.api.response_headers import quota_headers
from gateway.domain.tenants import QuotaStatus
from tests.support.harness import Gateway, MakeGateway, Simulator, new_key

GENERATIONS = "/v1/images/generations"
PRICE = "0.0035"


def status(name: str, limit: int, used: int, scope: str = "tenant", resets_at_s: int = 0) -> QuotaStatus:
    return QuotaStatus(scope, name, limit, used, resets_at_s)


def told(headers: object) -> dict[str, str]:
    names = {"x-imagegate-warning", "x-imagegate-cost-usd"}
    return {
        name: value
        for name, value in dict(headers).items()  # type: ignore[call-overload]
        if name.startswith("x-imagegate-quota-") or name in names
    }


def test_without_a_quota_no_header_speaks_of_one() -> None:
    assert [] == list(quota_headers(()))


def test_the_least_that_remains_is_told_and_the_moment_of_the_quota_with_the_largest_share() -> None:
    quotas = (
        status("images_per_day", 100, 10, resets_at_s=86_400),
        status("images_per_month", 1000, 795, resets_at_s=2 * 86_400),
        status("usd_micros_per_month", 50_000_000, 42_125_000, resets_at_s=2 * 86_400),
        status("images_per_day", 80, 1, "key", resets_at_s=86_400),
    )
    assert {
        "x-imagegate-quota-remaining-images": "79",
        "x-imagegate-quota-remaining-usd": "7.875",
        "x-imagegate-quota-reset": "1970-01-03T00:00:00Z",
        "x-imagegate-warning": "quota 84% of usd_per_month",
    } == dict(quota_headers(quotas))


@pytest.mark.parametrize(
    ("limit", "used", "warning"),
    [
        (100, 79, None),
        (100, 80, "quota 80% of images_per_day of this key"),
        (1000, 999, "quota 99% of images_per_day of this key"),
        (10, 14, "quota 140% of images_per_day of this key"),
        (0, 0, "quota 100% of images_per_day of this key"),
    ],
)
def test_a_warning_begins_at_80_percent(limit: int, used: int, warning: str | None) -> None:
    headers = dict(quota_headers([status("images_per_day", limit, used, "key")]))
    assert warning == headers.get("x-imagegate-warning")
    assert str(max(0, limit - used)) == headers["x-imagegate-quota-remaining-images"]


def test_every_answer_tells_what_is_left_and_what_it_cost(gateway: Gateway, simulator: Simulator) -> None:
    """Made, streamed, native, failed upstream, malformed, and refused by the quota."""
    quotas = {"images_per_month": 10, "usd_per_month": "0.05"}
    sent = {"authorization": f"Bearer {new_key(gateway.url, 'limited', quotas=quotas)}"}

    def images(left: str, money: str, cost: str | None, answer_headers: object) -> None:
        headers = told(answer_headers)
        assert (left, money, cost) == (
            headers["x-imagegate-quota-remaining-images"],
            headers["x-imagegate-quota-remaining-usd"],
            headers.get("x-imagegate-cost-usd"),
        )
        assert headers["x-imagegate-quota-reset"].endswith("-01T00:00:00Z")

    images("10", "0.05", None, gateway.get("/v1/models", **sent).headers)
    images("7", "0.0395", "0.0105", gateway.post(GENERATIONS, {"prompt": "x", "n": 3}, **sent).headers)
    streamed = gateway.post(GENERATIONS, {"prompt": "x", "stream": True}, **sent)
    images("6", "0.036", PRICE, streamed.headers)
    assert streamed.text.endswith(f"\n\n: cost-usd {PRICE}\n\n")
    native = gateway.post("/v1/image_generation", {"model": "image-01", "prompt": "x"}, **sent)
    images("5", "0.0325", PRICE, native.headers)
    failed = gateway.post(GENERATIONS, {"prompt": "x [code=1026]"}, **sent)
    assert 400 == failed.status_code
    images("4", "0.029", "0.00", failed.headers)
    images("5", "0.0325", None, gateway.post(GENERATIONS, {"prompt": ""}, **sent).headers)
    refused = gateway.post(GENERATIONS, {"prompt": "x", "n": 6}, **sent)
    assert 429 == refused.status_code
    images("5", "0.0325", None, refused.headers)
    last = gateway.post(GENERATIONS, {"prompt": "x", "n": 4}, **sent)
    images("1", "0.0185", "0.014", last.headers)
    assert "quota 90% of images_per_month" == last.headers["x-imagegate-warning"]
    assert 9 == simulator.images_billed()


def test_a_tenant_without_quotas_is_told_only_the_cost(gateway: Gateway) -> None:
    assert {"x-imagegate-cost-usd": PRICE} == told(gateway.generate(prompt="x").headers)
    assert {} == told(gateway.get("/v1/models").headers) == told(gateway.generate(prompt="").headers)


def test_a_replay_costs_nothing(gateway: Gateway, simulator: Simulator) -> None:
    key = {"idempotency_key": "one"}
    costs = [gateway.post(GENERATIONS, {"prompt": "x"}, **key).headers["x-imagegate-cost-usd"] for _ in range(2)]
    assert [PRICE, "0.00"] == costs
    assert 1 == simulator.images_billed()


def test_a_stream_that_began_before_its_images_tells_the_cost_in_its_last_comment(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"sse_keepalive_s": 0.05})
    answer = gateway.generate(prompt="x [delay=0.3]", n=2, stream=True)
    assert "x-imagegate-cost-usd" not in answer.headers
    assert answer.text.endswith("\n\n: cost-usd 0.007\n\n")


def test_a_page_of_another_origin_may_read_these_headers(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"cors_origins": ["https://app.example"]})
    answer = gateway.post(GENERATIONS, {"prompt": "x"}, origin="https://app.example")
    assert ("*", PRICE) == (answer.headers["access-control-expose-headers"], answer.headers["x-imagegate-cost-usd"])
