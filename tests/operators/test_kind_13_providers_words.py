"""What providers say: Retry-After in both forms, and a quota page that refuses a key that works."""

from pathlib import Path

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.checking import check
from tests.support.harness import MakeGateway, serving, upstream
from tests.support.operators import Shows

REFUSED = {"base_resp": {"status_code": 2049, "status_msg": "invalid api key"}}
V2_REFUSED = {
    "type": "error",
    "error": {"type": "authorized_error", "message": "invalid api key (2049)", "http_code": "401"},
    "request_id": "r",
}
MODELS = {"object": "list", "data": [{"id": "MiniMax-M2.5", "object": "model"}]}


def provider(models: object, status: int = 200, quota: object = REFUSED) -> Starlette:
    """Returns MiniMax's free pages, of which the quota page refuses the key."""

    async def remains(_: Request) -> Response:
        return Response(msgspec.json.encode(quota), 200, media_type="application/json")

    async def listed(_: Request) -> Response:
        return Response(msgspec.json.encode(models), status, media_type="application/json")

    return Starlette(routes=[Route("/v1/token_plan/remains", remains), Route("/v1/models", listed)])


CASES = {
    "a pay-as-you-go key that works": (provider(MODELS), 0, "ok, balance unknown"),
    "a wrong key": (provider(REFUSED), 1, "invalid key"),
    "a wrong key, in the newer form": (provider(V2_REFUSED, 401), 1, "invalid key"),
    "no list of models": (provider({}, 404), 1, "cannot tell"),
    "a list of models that fails": (provider({}, 500), 1, "cannot tell"),
    "a list of models without a code": (provider({}, 401), 1, "cannot tell"),
}


@pytest.mark.parametrize("given", CASES)
def test_a_quota_page_alone_does_not_reject_a_key(tmp_path: Path, redis_url: str, shows: Shows, given: str) -> None:
    app, code, result = CASES[given]
    with serving(app) as url:
        found, message = check(tmp_path, redis_url, url)
    shows(13, f"MiniMax's quota page says 2049: {given}", message.replace(url, "http://provider"))
    assert (code, True) == (found, f" {result}" in message)


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ("a pay-as-you-go key that works", "ready"),
        ("no list of models", "ready"),
        ("a list of models without a code", "ready"),
        ("a wrong key", "quarantined"),
    ],
)
def test_a_probe_quarantines_only_a_key_that_two_pages_reject(
    make_gateway: MakeGateway, given: str, state: str
) -> None:
    with serving(CASES[given][0]) as url:
        gateway = make_gateway(upstream("sim", "minimax", url))
        probed = gateway.admin("POST", "/pool/sim/main/main-1/probe").json()
    assert state == probed["key"]["state"]


def test_a_date_in_retry_after_is_a_wait(make_gateway: MakeGateway, shows: Shows) -> None:
    async def busy(_: Request) -> Response:
        headers = {"retry-after": "Wed, 21 Oct 2026 07:28:42 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}
        body = {"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}
        return Response(msgspec.json.encode(body), 429, headers, "application/json")

    app = Starlette(routes=[Route("/v1/image_generation", busy, methods=["POST"])])
    with serving(app) as url:
        gateway = make_gateway(upstream("sim", "minimax", url) | {"max_wait_s": 0})
        gateway.generate(prompt="a lake")
        account = gateway.admin("GET", "/pool/sim/main").json()
    wait_s = account["until"] - account["since"]
    shows(13, "Retry-After: 42 s after the response's Date", f"cooldown of {wait_s} s")
    assert wait_s in {42, 43}
