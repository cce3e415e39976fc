"""Each provider whose calls begin tasks, against its twin: what the client gets, and what is charged."""

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import httpx
import pytest
from PIL import Image

from gateway.providers import PROVIDERS
from gateway.providers.protocol import TaskProvider
from tests.support.harness import Gateway, Simulator, admin, document, gatewaying, simulating, upstream, wait_until

PRICE = "0.0035"
SPELLING = {"302ai-tasks": "flux-2-pro", "luma": "uni-1", "luma-photon": "photon-1"}
SPELLING |= {"fal": "fal-ai/flux/dev", "replicate": "black-forest-labs/flux-schnell"}
SPELLING |= {"midjourney": "midjourney"}
PATHS: Final = {"midjourney": "/mj"}
"""Of the base URL."""
PER_TASK: Final = {"midjourney": 4}
"""Images that a task makes, and bills, at once."""
BLAMES = ("key", "balance", "busy")
"""Each blames an account, so it has an upstream of its own."""
ANSWERS: Final = {("302ai-tasks", "busy"): (503, "upstream_unavailable")}
"""Where a provider's answer differs from the usual one."""
BLAMELESS: Final = {("luma-photon", "busy"), ("fal", "busy")}
"""Without a code of the provider's own, so only the request waits."""


@pytest.fixture(scope="module", params=SPELLING)
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def twin() -> Iterator[Simulator]:
    with simulating() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def gateway(one_redis_server: str, twin: Simulator) -> Iterator[Gateway]:
    """All providers in one gateway, which asks more often than they advise."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SPELLING:
            provider = PROVIDERS[name]
            assert isinstance(provider, TaskProvider)
            patch.setattr(provider, "rhythm", replace(provider.rhythm, first_s=0.3, interval_s=0.3, longest_s=0.3))
        upstreams = [
            upstream(
                f"{name}-{case}",
                name,
                twin.url + PATHS.get(name, ""),
                f"{name}-{case}:{name}-{case}-1",
                hosts=(twin.url,),
            )
            for name in SPELLING
            for case in ("well", *BLAMES)
        ]
        models: Any = [
            {
                "id": entry["name"],
                "price_per_image_usd": PRICE,
                "targets": [{"upstream": entry["name"], "model": SPELLING[str(entry["provider"])]}],
            }
            for entry in upstreams
        ]
        with gatewaying(document(one_redis_server, *upstreams, models=models)) as running:
            yield running


def charged(gateway: Gateway) -> str:
    total: str = admin(gateway.url, "GET", "/usage?tenant=acme").json()["total"]["usd"]
    return total


def test_a_task_ends_with_its_images(gateway: Gateway, twin: Simulator, provider: str) -> None:
    per_task = PER_TASK.get(provider, 1)
    for delivery, count in (("b64_json", 1), ("url", 1), ("b64_json", 3)):
        twin.reset()
        answer = gateway.generate(
            model=f"{provider}-well", prompt="a cat", n=count, size="1024x1024", response_format=delivery
        )
        assert 200 == answer.status_code, answer.text
        given = "b64_json" if per_task > 1 else delivery  # no link leads to a part of a picture
        assert [True] * count == [bool(image[given]) for image in answer.json()["data"]]
        assert -(-count // per_task) * per_task == twin.images_billed()


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        ("[code=1026]", 400, "moderation_blocked"),
        ("[code=1027]", 400, "moderation_blocked"),
        ("[code=1000]", 502, "upstream_error"),
        ("[code=2013]", 400, "invalid_value"),
    ],
)
def test_a_refusal_or_a_failure_is_free(
    gateway: Gateway, twin: Simulator, provider: str, words: str, status: int, code: str
) -> None:
    before = charged(gateway)
    answer = gateway.generate(model=f"{provider}-well", prompt=f"a cat {words}", response_format="b64_json")
    assert (status, code) == (answer.status_code, answer.json()["error"]["code"]), answer.text
    assert before == charged(gateway)


@pytest.mark.parametrize("words", ["[code=1024]", "[empty]", "[http=502]"])
def test_an_unknown_outcome_is_never_bought_again(gateway: Gateway, twin: Simulator, provider: str, words: str) -> None:
    """The task is forgotten, ends without an image, or its submission gets a proxy's answer."""
    twin.reset()
    answer = gateway.generate(model=f"{provider}-well", prompt=f"a cat {words}", response_format="b64_json")
    assert (502, 1) == (answer.status_code, twin.invoice()["total"]["requests"]), answer.text


@pytest.mark.parametrize(
    ("case", "fault", "status", "code"),
    [
        ("key", 2049, 503, "upstream_unavailable"),
        ("balance", 1008, 503, "upstream_unavailable"),
        ("busy", 1041, 429, "rate_limit_exceeded"),
    ],
)
def test_an_account_is_blamed_for_what_is_its_own(
    gateway: Gateway, twin: Simulator, provider: str, case: str, fault: int, status: int, code: str
) -> None:
    """By the provider's own code, or by a page that the gateway then asks for."""
    name = f"{provider}-{case}"
    httpx.put(f"{twin.url}/simulator/keys/{name}-1", json={"answers": fault}).raise_for_status()
    answer = gateway.generate(model=name, prompt="a cat", response_format="b64_json")
    expected = ANSWERS.get((provider, case), (status, code))
    assert expected == (answer.status_code, answer.json()["error"]["code"]), answer.text
    if (provider, case) not in BLAMELESS:
        wait_until(lambda: states_of(gateway, name) != {"ready"}, f"{name} is not used", 10)


def states_of(gateway: Gateway, name: str) -> set[str]:
    """The states of an upstream, its account and its key."""
    [found] = [one for one in admin(gateway.url, "GET", "/pool").json()["data"] if one["name"] == name]
    [account] = found["accounts"]
    return {found["state"], account["state"], account["keys"][0]["state"]}


def test_each_part_of_a_grid_is_an_image_of_its_own(gateway: Gateway) -> None:
    answer = gateway.generate(
        model="midjourney-well", prompt="a cat", n=4, size="1792x1024", response_format="b64_json"
    ).json()
    parts = [base64.b64decode(image["b64_json"]) for image in answer["data"]]
    assert ["PNG (1456, 816)"] * 4 == [
        f"{image.format} {image.size}" for image in map(Image.open, map(io.BytesIO, parts))
    ]
    assert 4 == len(set(parts))


def test_a_flag_in_a_prompt_is_refused_and_nothing_is_sent(gateway: Gateway, twin: Simulator) -> None:
    twin.reset()
    answer = gateway.generate(model="midjourney-well", prompt="a cat --ar 16:9", response_format="b64_json")
    assert (400, "prompt", 0) == (
        *(answer.status_code, answer.json()["error"]["param"]),
        twin.invoice()["total"]["requests"],
    )
    assert "--ar" in answer.json()["error"]["message"]
