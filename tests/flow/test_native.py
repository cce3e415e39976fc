"""An existing MiniMax or 302.AI client changes only its host and its key."""

import httpx
import pytest

from tests.support.harness import Gateway, MakeGateway, Simulator, upstream

PATHS = {
    "/v1/image_generation": ("minimax", "image-01"),
    "/minimaxi/v1/image_generation": ("302ai", "minimaxi-image-01"),
}

CODES = (1000, 1001, 1024, 1026, 1027, 1033, 1042)
BODIES: list[dict[str, object]] = [
    *(dict[str, object](prompt=f"[code={code}]") for code in CODES),
    {"prompt": "a cat"},
    {"prompt": "a cat", "aspect_ratio": "16:9", "response_format": "url", "prompt_optimizer": True},
    {"prompt": "a cat", "response_format": "base64"},
    {"prompt": "two cats [fail=1]", "n": 2},
    {"prompt": "x" * 1500},
]


def direct(simulator: Simulator, path: str, body: dict[str, object]) -> httpx.Response:
    return httpx.post(f"{simulator.url}{path}", json=body, headers={"authorization": "Bearer direct-1"})


@pytest.mark.parametrize("body", BODIES, ids=lambda body: str(body)[:60])
@pytest.mark.parametrize("path", list(PATHS))
def test_the_answer_is_the_upstreams_own_byte_for_byte(
    make_gateway: MakeGateway, simulator: Simulator, path: str, body: dict[str, object]
) -> None:
    provider, model = PATHS[path]
    gateway = make_gateway(upstream("sim", provider, simulator.url, max_images_per_call=9, base64_response=True))
    # What the 302.AI provider always sends, so that both requests are the same.
    filled = {"aspect_ratio": "1:1", "response_format": "url", "prompt_optimizer": False} if provider == "302ai" else {}
    sent = {"model": model, "response_format": "url"} | filled | body

    through = gateway.post(path, sent)
    expected = direct(simulator, path, sent)

    assert expected.content == through.content
    assert expected.status_code == through.status_code


@pytest.mark.parametrize("model", ["image-01", "minimaxi-image-01"])
@pytest.mark.parametrize("path", list(PATHS))
@pytest.mark.parametrize("provider", ["minimax", "302ai"])
def test_both_spellings_are_understood_whatever_the_upstream(
    make_gateway: MakeGateway, simulator: Simulator, provider: str, path: str, model: str
) -> None:
    gateway = make_gateway(upstream("sim", provider, simulator.url))

    answer = gateway.post(path, {"model": model, "prompt": "a cat"}).json()

    assert {"status_code": 0, "status_msg": "success"} == answer["base_resp"]
    assert 1 == len(answer["data"]["image_urls"])


def test_the_body_at_302_ai_is_the_pages_example_field_for_field(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    """The five fields that the page marks required, with its values; nothing more, nothing less."""
    gateway = make_gateway(upstream("sim", "302ai", simulator.url))
    example = {
        "model": "minimaxi-image-01",
        "prompt": "A man in a white t-shirt, full body, at the Venice Beach sign",
        "aspect_ratio": "16:9",
        "response_format": "url",
        "prompt_optimizer": True,
    }

    gateway.post("/minimaxi/v1/image_generation", example)
    extra = {"aspect_ratio": "16:9", "response_format": "url", "prompt_optimizer": True}
    gateway.generate(prompt=example["prompt"], **extra)

    assert [example, example] == [request["body"] for request in simulator.requests()]
    assert {"/minimaxi/v1/image_generation"} == {request["path"] for request in simulator.requests()}


def test_only_a_bearer_goes_upstream_and_nothing_of_the_callers(gateway: Gateway, simulator: Simulator) -> None:
    gateway.post("/v1/image_generation", {"model": "image-01", "prompt": "a cat"}, cookie="a=b", x_api_key="k")

    headers = simulator.requests()[-1]["headers"]
    assert "main" == headers.pop("authorization")
    allowed = {"host", "content-type", "content-length", "accept", "accept-encoding", "user-agent"}
    assert set() == headers.keys() - allowed


@pytest.mark.parametrize("path", list(PATHS))
def test_a_missing_or_wrong_key_is_told_in_the_native_form(gateway: Gateway, path: str) -> None:
    missing = httpx.post(f"{gateway.url}{path}", json={})
    wrong = gateway.post(path, {}, authorization="Bearer sk-nothing")

    assert (200, 1004) == (missing.status_code, missing.json()["base_resp"]["status_code"])
    assert (200, 2049) == (wrong.status_code, wrong.json()["base_resp"]["status_code"])


def test_trouble_with_our_own_keys_never_looks_like_trouble_with_the_callers(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    gateway = make_gateway(upstream("sim", "minimax", simulator.url, "dead:dead-1"))

    answer = gateway.post("/v1/image_generation", {"model": "image-01", "prompt": "a cat"})

    assert {"base_resp": {"status_code": 1033, "status_msg": "system error"}} == answer.json()
