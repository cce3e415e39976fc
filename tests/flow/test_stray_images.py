"""A provider that shows images beside a refusal, or in another place than expected, is not paid twice."""

from contextlib import ExitStack
from typing import Any

import pytest

from tests.flow.captured.provider import Provider, Scripted
from tests.support.harness import document, gatewaying, serving, upstream

PHOTO = "/9j/4AAQSkZJRg=="
LINK = "http://upstream/pictures/0.jpg"


def stated(code: int, **more: object) -> dict[str, object]:
    return {"base_resp": {"status_code": code, "status_msg": "no", **more}}


SHOWN = [
    Scripted("images, code 0", {"images": [PHOTO]} | stated(0)),
    Scripted("images, code 1004", {"images": [PHOTO]} | stated(1004)),
    Scripted("Data, code 1000", {"Data": {"image_urls": [LINK]}} | stated(1000)),
    Scripted("DATA, code 1002", {"DATA": {"IMAGE_BASE64": [PHOTO]}} | stated(1002)),
    Scripted("metadata, code 1004", {"metadata": {"image_urls": [LINK]}} | stated(1004)),
    Scripted("base_resp, code 1000", stated(1000, image_urls=[LINK])),
    Scripted("error", {"error": {"err_code": -10001, "image_urls": [LINK]}}, 401),
    Scripted("AVIF, code 1004", {"data": {"images": ["AAAAIGZ0eXBhdmlm"]}} | stated(1004)),
    Scripted("counted, code 1004", {"metadata": {"success_count": "2"}} | stated(1004)),
    Scripted("HTTP 429", {"output": {"image_urls": [LINK]}}, 429),
    Scripted("HTTP 429 and a file", "RIFF\x08\0\0\0WEBPVP8 ", 429, {"content-type": "image/webp"}),
    Scripted("HTTP 429, cut", '{"image_urls":["https://x.org/1"],"image_urls":[', 429),
]


@pytest.mark.parametrize("spoken", ["minimax", "302ai"])
def test_what_shows_images_is_bought_once_and_charged_and_blames_no_key(
    redis_url: str, stack: ExitStack, spoken: str
) -> None:
    provider = Provider()
    url = stack.enter_context(serving(provider.app))
    names = [f"case-{at}" for at in range(len(SHOWN))]
    provider.scripts = dict(zip(names, SHOWN, strict=True))
    keys = ("one:captured-1", "two:captured-2", "three:captured-3")
    configured: dict[str, Any] = document(
        redis_url, *(upstream(name, spoken, f"{url}/{name}", *keys, hosts=(url,)) for name in names)
    )
    configured["models"] = [
        {"id": name, "price_per_image_usd": "0.0035", "targets": [{"upstream": name, "model": "image-01"}]}
        for name in names
    ]
    configured["billing"] = {"charge_unknown_outcomes": True}
    gateway = stack.enter_context(gatewaying(configured))
    for at, name in enumerate(names, 1):
        answer = gateway.generate(model=name, prompt="a cat with image_urls and image_base64")
        total = gateway.admin("GET", "/usage").json()["total"]
        seen = (answer.status_code, len(provider.take_calls(name)), total["images"], total["unconfirmed"])
        assert (SHOWN[at - 1].name, 502, 1, 0, at) == (SHOWN[at - 1].name, *seen)
        assert float(total["usd"]) == pytest.approx(0.0035 * at)
    pools = gateway.admin("GET", "/pool").json()["data"]
    accounts = [account for pool in pools for account in pool["accounts"]]
    assert {"ready"} == {entry["state"] for account in accounts for entry in (account, *account["keys"])}
