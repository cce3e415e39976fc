"""Pictures that hold several images: what a client gets after its request has ended."""

from dataclasses import replace

import pytest

from gateway.providers import PROVIDERS
from gateway.providers.protocol import TaskProvider
from tests.support.harness import Simulator, document, gatewaying, upstream, wait_until


def test_a_grid_that_is_late_is_cut_for_the_request_that_is_repeated(
    redis_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.reset()
    provider = PROVIDERS["midjourney"]
    assert isinstance(provider, TaskProvider)
    monkeypatch.setattr(provider, "rhythm", replace(provider.rhythm, first_s=0.3, interval_s=0.3, longest_s=0.3))
    grids = upstream("mj", "midjourney", f"{simulator.url}/mj", hosts=(simulator.url,))
    with gatewaying(document(redis_url, grids, requests={"deadline_s": 1})) as late:
        body = {"model": "image-01", "prompt": "a cat [delay=2]", "n": 3, "response_format": "b64_json"}
        first = late.post("/v1/images/generations", body, idempotency_key="one")
        assert 504 == first.status_code, first.text
        wait_until(lambda: late.admin("GET", "/usage?tenant=acme").json()["total"]["images"] == 3, "the truth", 30)
        again = late.post("/v1/images/generations", body, idempotency_key="one")
        assert (200, "0.00") == (again.status_code, again.headers["x-imagegate-cost-usd"])
        assert 3 == len({image["b64_json"] for image in again.json()["data"]})
        verified = late.admin("GET", "/usage/verify?tenant=acme").json()
    assert ([], 4) == (verified["differences"], simulator.images_billed())
