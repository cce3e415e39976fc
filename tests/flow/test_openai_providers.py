"""Every provider that speaks OpenAI's format, from the client's request to the simulator and the bill."""

import base64
import io
import re
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from PIL import Image

from tests.support.harness import UNLIMITED, Gateway, Simulator, document, gatewaying, simulating
from tests.support.pictures import drawn

PROVIDERS: Final = {
    "openai": ("/openai/v1", "gpt-image-2.5-sunburst"),
    "azure": ("/azure", "pictures"),
    "minimax-h3": ("/h3/v1", "MiniMax-H3-Image"),
    "ark": ("/ark/api/v3", "doubao-seedream-5-0-260128"),
    "byteplus": ("/byteplus/api/v3", "seedream-4-0-250828"),
    "zhipu": ("/zhipu/api/paas/v4", "cogview-4"),
    "zai": ("/zai/api/paas/v4", "glm-image"),
    "qianfan": ("/qianfan/v2", "qwen-image-edit"),
    "recraft": ("/recraft/v1", "recraftv4_1"),
    "302ai-openai": ("/302ai", "gpt-image-2"),
    "302ai-images": ("/302ai", "flux-kontext-pro"),
    "generic": ("/relay/v1", "any"),
}
"""The base URL at the simulator, and a model."""
FAULTS: Final = ("dead", "broke", "busy", "overloaded")
"""Names of accounts with a fault: of the first two, the key itself causes it."""
PRICE: Final = "0.01"
PNG: Final = drawn("PNG", (64, 48))


@pytest.fixture(scope="module")
def twin() -> Iterator[Simulator]:
    with simulating() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(one_redis_server: str, twin: Simulator) -> Iterator[Gateway]:
    """A gateway with five upstreams of each provider, each with a model of its own."""
    upstreams, models = [], []
    for provider, (path, model) in PROVIDERS.items():
        for kind in ("good", *FAULTS):
            name = f"{provider}-{kind}"
            key = {
                "name": f"{kind}-{provider}-1",
                "secret": {"env": f"SECRET_{kind}_{provider}_1".upper().replace("-", "_")},
            }
            account = {"name": "main", **UNLIMITED, "keys": [key]}
            entry = {"name": name, "provider": provider, "base_url": twin.url + path, "result_hosts": [twin.url]}
            upstreams.append(entry | {"accounts": [account]})
            target = {"upstream": name, "model": model}
            models.append({"id": name, "price_per_image_usd": PRICE, "targets": [target]})
    configured = document(one_redis_server, redis={"url": one_redis_server, "timeout_ms": 2000, "key_prefix": "twelve"})
    with gatewaying(configured | {"upstreams": upstreams, "models": models}) as running:
        yield running


def billed(twin: Simulator, provider: str, kind: str = "good") -> int:
    account = twin.invoice()["accounts"].get(f"{kind}-{provider}", {"images": 0})
    images: int = account["images"]
    return images


def pictures(response: httpx.Response) -> list[tuple[str, int, int]]:
    """Returns format, width and height of each image."""
    assert 200 == response.status_code, response.text
    found = []
    for item in response.json()["data"]:
        data = (
            base64.b64decode(item["b64_json"]) if item.get("b64_json") else httpx.get(item["url"], verify=False).content
        )
        with Image.open(io.BytesIO(data)) as image:
            found.append(((image.format or "").lower(), *image.size))
    return found


def calls(gateway: Gateway, upstream: str) -> dict[str, float]:
    """Returns the number of calls to an upstream by their error code."""
    text = gateway.get("/metrics").text
    found = re.findall(r'imagegate_upstream_calls_total\{code="(\w+)",upstream="([\w-]+)"\} (\S+)', text)
    return {code: float(count) for code, name, count in found if name == upstream}


MADE: Final = {
    "openai": ("png", 1024, 1024),
    "azure": ("png", 1024, 1024),
    "minimax-h3": ("jpeg", 1024, 1024),
    "ark": ("jpeg", 2048, 2048),
    "byteplus": ("jpeg", 2048, 2048),
    "zhipu": ("jpeg", 1024, 1024),
    "zai": ("jpeg", 1280, 1280),
    "qianfan": ("jpeg", 1024, 1024),
    "recraft": ("webp", 1024, 1024),
    "302ai-openai": ("png", 1024, 1024),
    "302ai-images": ("jpeg", 1024, 1024),
    "generic": ("jpeg", 1024, 1024),
}
"""What a request without format and size gets."""


@pytest.mark.parametrize("provider", PROVIDERS)
def test_four_images_in_base64_are_bought_and_charged_once(gateway: Gateway, twin: Simulator, provider: str) -> None:
    before = billed(twin, provider)
    response = gateway.generate(model=f"{provider}-good", prompt="a fox", n=4, response_format="b64_json")
    assert [MADE[provider]] * 4 == pictures(response)
    form, width, height = MADE[provider]
    assert (form, f"{width}x{height}") == (response.json()["output_format"], response.json()["size"])
    assert 4 == billed(twin, provider) - before
    assert "0.04" == response.headers["x-imagegate-cost-usd"]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_link_is_delivered_if_the_provider_gives_one(gateway: Gateway, provider: str) -> None:
    response = gateway.generate(model=f"{provider}-good", prompt="a cat", response_format="url")
    assert [MADE[provider]] == pictures(response)
    has_link = provider not in {"openai", "azure"}
    assert has_link == ("url" in response.json()["data"][0])


SIZES: Final = {
    "openai": ("1280x720", "1280x720"),
    "minimax-h3": ("1000x700", "1000x700"),
    "ark": ("1920x1080", "2560x1440"),
    "byteplus": ("1024x1024", "1024x1024"),
    "zhipu": ("1344x768", "1344x768"),
    "zai": ("1000x1000", "992x992"),
    "qianfan": ("1024x768", "1024x1024"),
    "recraft": ("1280x720", "1344x768"),
    "302ai-openai": ("1536x1024", "1536x1024"),
    "generic": ("1792x1024", "1536x1024"),
}


@pytest.mark.parametrize("provider", SIZES)
def test_the_closest_size_is_made_and_told(gateway: Gateway, provider: str) -> None:
    asked, made = SIZES[provider]
    response = gateway.generate(
        model=f"{provider}-good", prompt="a lake", size=asked, output_format="png", response_format="b64_json"
    )
    width, _, height = made.partition("x")
    assert [("png", int(width), int(height))] == pictures(response)
    told = None if asked == made else f"asked {asked}, made {made}"
    assert told == response.headers.get("x-imagegate-size")


EDITORS: Final = tuple(name for name in PROVIDERS if name not in {"zhipu", "zai", "recraft"})
MASKERS: Final = ("openai", "azure", "302ai-openai", "302ai-images", "generic")


def edit(gateway: Gateway, provider: str, *names: str, **fields: str) -> httpx.Response:
    files = [(name, ("a.png", PNG, "image/png")) for name in names]
    data = {"model": f"{provider}-good", "prompt": "a hat", "response_format": "b64_json", **fields}
    headers = {"authorization": f"Bearer {gateway.api_key}"}
    url = f"{gateway.base_url}/images/edits"
    return httpx.post(url, data=data, files=files, headers=headers, timeout=30, verify=False)


@pytest.mark.parametrize("provider", EDITORS)
def test_an_edit_reaches_the_provider_with_its_image(gateway: Gateway, twin: Simulator, provider: str) -> None:
    before = billed(twin, provider)
    assert [MADE[provider]] == pictures(edit(gateway, provider, "image"))
    assert 1 == billed(twin, provider) - before
    sent = str(twin.requests()[-1]["body"])
    assert base64.b64encode(PNG).decode() in sent


@pytest.mark.parametrize("provider", MASKERS)
def test_an_edit_has_several_images_and_a_mask(gateway: Gateway, twin: Simulator, provider: str) -> None:
    assert [MADE[provider]] == pictures(edit(gateway, provider, "image[]", "image[]", "mask"))
    assert {"image[]", "mask"} <= set(twin.requests()[-1]["body"])


@pytest.mark.parametrize("provider", ["zhipu", "zai", "recraft"])
def test_an_edit_is_refused_where_there_are_none(gateway: Gateway, provider: str) -> None:
    response = edit(gateway, provider, "image")
    assert (400, "model") == (response.status_code, response.json()["error"]["param"])


def test_a_link_to_edit_is_refused_where_files_are_sent(gateway: Gateway) -> None:
    body = {"model": "openai-good", "prompt": "a hat", "image": "https://example.com/a.png"}
    response = gateway.post("/v1/images/edits", body)
    assert (400, "image") == (response.status_code, response.json()["error"]["param"])


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_refused_prompt_is_free(gateway: Gateway, twin: Simulator, provider: str) -> None:
    before = billed(twin, provider)
    response = gateway.generate(model=f"{provider}-good", prompt="a crime [code=1026]")
    code = "invalid_value" if provider == "recraft" else "moderation_blocked"
    assert (400, code) == (response.status_code, response.json()["error"]["code"])
    assert ("0.00", before) == (response.headers["x-imagegate-cost-usd"], billed(twin, provider))


RELAYS: Final = ("recraft", "generic")
"""Providers whose own error codes are not known: nothing is held against the key or the account."""
BARE: Final = {"dead": "bare_unauthorized", "broke": "bare_rate_limited", "busy": "bare_rate_limited"}
EXPECTED: Final = {
    "dead": (503, "key_invalid"),
    "broke": (503, "insufficient_balance"),
    "busy": (429, "account_rate_limited"),
    "overloaded": (503, "model_unavailable"),
}
EXCEPTIONS: Final = {
    ("recraft", "dead"): (503, "bare_unauthorized"),
    ("recraft", "broke"): (503, "bare_payment_required"),
    ("recraft", "busy"): (429, "bare_rate_limited"),
    ("recraft", "overloaded"): (502, "invalid_response"),
    ("generic", "dead"): (503, "bare_unauthorized"),
    ("generic", "broke"): (429, "bare_rate_limited"),
    ("generic", "busy"): (429, "bare_rate_limited"),
    ("generic", "overloaded"): (502, "invalid_response"),
    ("302ai-openai", "busy"): (429, "bare_rate_limited"),
    ("302ai-openai", "overloaded"): (502, "invalid_response"),
    ("302ai-images", "busy"): (429, "bare_rate_limited"),
    ("302ai-images", "overloaded"): (502, "invalid_response"),
    ("minimax-h3", "overloaded"): (502, "upstream_error"),
    ("qianfan", "overloaded"): (502, "invalid_response"),
}
"""Where the code is not known to be the provider's own, a 5xx may have been billed."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_fault_of_the_account_is_told_and_free(gateway: Gateway, twin: Simulator, provider: str, fault: str) -> None:
    word = {"busy": "[code=1002]", "overloaded": "[code=1033]"}.get(fault, "")
    body = {"model": f"{provider}-{fault}", "prompt": f"a fox {word}"}
    response = gateway.post("/v1/images/generations", body, x_imagegate_max_wait="0")
    status, code = EXCEPTIONS.get((provider, fault), EXPECTED[fault])
    assert (status, {code}) == (response.status_code, set(calls(gateway, f"{provider}-{fault}")))
    assert 0 == billed(twin, provider, fault)
    charged = "0.01" if code == "invalid_response" else "0.00"
    assert charged == response.headers["x-imagegate-cost-usd"]


def test_the_models_name_their_provider(gateway: Gateway) -> None:
    owners = {model["id"]: model["owned_by"] for model in gateway.get("/v1/models").json()["data"]}
    assert {f"{name}-good": name for name in PROVIDERS}.items() <= owners.items()


def test_a_transparent_background_is_told(gateway: Gateway) -> None:
    fields = {"model": "openai-good", "prompt": "a logo", "output_format": "png"}
    made = [gateway.generate(**fields, background=background) for background in ("transparent", "opaque", "auto")]
    assert ["transparent", "opaque", "opaque"] == [response.json()["background"] for response in made]


def test_fields_of_openai_reach_it(gateway: Gateway, twin: Simulator) -> None:
    fields: dict[str, Any] = {
        "quality": "high",
        "moderation": "low",
        "user": "u-1",
        "output_format": "webp",
        "output_compression": 80,
    }
    response = gateway.generate(model="openai-good", prompt="a fox", **fields)
    assert [("webp", 1024, 1024)] == pictures(response)
    assert "x-imagegate-ignored" not in response.headers
    assert fields.items() <= twin.requests()[-1]["body"].items()
    other = gateway.generate(model="ark-good", prompt="a fox", quality="high", moderation="low", user="u-1")
    assert "quality, moderation" == other.headers["x-imagegate-ignored"]
    assert {"user", "quality", "moderation"}.isdisjoint(twin.requests()[-1]["body"])
