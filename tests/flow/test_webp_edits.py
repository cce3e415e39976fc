"""Edits of WebP images, which MiniMax does not take: the gateway converts them."""

import io
import random
from base64 import b64encode

import pytest
from PIL import Image

from tests.support.forms import EDITS, PROMPT, WEBP, edit, form, image, reference, send
from tests.support.harness import Gateway, Simulator, wait_until
from tests.support.memory import held


@pytest.mark.shares_gateway
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("sends", ["a form", "json"])
def test_webp_reaches_the_upstream_as_png(gateway: Gateway, simulator: Simulator, sends: str, mode: str) -> None:
    file = io.BytesIO()
    shown = Image.new(mode, (40, 30), "#0040ff80" if mode == "RGBA" else "#0040ff")
    shown.save(file, "WEBP", lossless=True)
    if sends == "json":
        link = f"data:image/webp;base64,{b64encode(file.getvalue()).decode()}"
        answer = gateway.post(EDITS, {"prompt": "x", "image": link, "response_format": "b64_json", "n": 2})
    else:
        answer = edit(gateway, [("image", file.getvalue())], prompt="x", response_format="b64_json", n="2")
    assert (200, 2) == (answer.status_code, len(answer.json()["data"]))
    kind, content = reference(simulator)
    with Image.open(io.BytesIO(content)) as sent:
        assert ("data:image/png", "PNG", mode) == (kind, sent.format, sent.mode)
        assert shown.tobytes() == sent.tobytes()
    wait_until(lambda: held(gateway) == 0, "all is given back")


@pytest.mark.shares_gateway
def test_webp_that_is_too_large_as_png_is_refused_and_buys_nothing(gateway: Gateway, simulator: Simulator) -> None:
    """Of 1.4 MB, and 10.8 MB as PNG."""
    file, side = io.BytesIO(), 1900
    shown = Image.frombytes("RGB", (side, side), random.Random(1).randbytes(3 * side * side))
    shown.save(file, "WEBP", quality=20, method=0)
    answer = edit(gateway, [("image", file.getvalue())], prompt="x")
    error = answer.json()["error"]
    assert (400, "invalid_value", "image") == (answer.status_code, error["code"], error["param"])
    assert "as PNG" in error["message"]
    assert 0 == simulator.images_billed()
    wait_until(lambda: held(gateway) == 0, "all is given back")


@pytest.mark.shares_gateway
def test_a_repeated_edit_of_webp_is_one_order(gateway: Gateway, simulator: Simulator) -> None:
    first, second = (send(gateway, form(PROMPT, image(WEBP)), idempotency_key="k") for _ in range(2))
    assert (200, 200, "true") == (first.status_code, second.status_code, second.headers["x-imagegate-replayed"])
    assert 1 == simulator.images_billed()
