"""What never reached the provider is free, and retried."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.harness import Gateway, MakeGateway, serving, upstream
from tests.support.operators import Shows
from tests.support.proxying import proxying

CLOUDFLARE = {"cf-ray": "8f0c1d2e3a4b5c6d-FRA", "server": "cloudflare"}


def bill(gateway: Gateway) -> tuple[object, object]:
    total = gateway.admin("GET", "/usage").json()["total"]
    return total["usd"], total["unconfirmed"]


def edge(status: int, **headers: str) -> tuple[Starlette, list[str]]:
    """Returns an edge in front of an unreachable provider, and the paths of its calls."""
    calls = list[str]()

    async def answer(request: Request) -> Response:
        calls.append(request.url.path)
        return Response("<html><title>error</title></html>", status, headers, "text/html")

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])]), calls


@pytest.mark.parametrize(
    ("status", "is_free"), [(520, False), (521, True), (522, True), (523, True), (525, True), (526, True), (530, False)]
)
def test_cloudflare_s_codes_of_an_unreachable_origin_are_free_and_retried(
    make_gateway: MakeGateway, shows: Shows, status: int, is_free: bool
) -> None:
    app, calls = edge(status, **CLOUDFLARE)
    with serving(app) as url:
        gateway = make_gateway(upstream("sim", "minimax", url))
        error = gateway.generate(prompt="a lake").json()["error"]
    shows(5, f"HTTP {status} of Cloudflare", error["message"])
    assert (("0.00", 0) if is_free else ("0.0035", 1)) == bill(gateway)
    assert (2 if is_free else 1) == len(calls)


@pytest.mark.parametrize("status", [403, 407, 502, 503, 504])
def test_a_proxy_that_refuses_has_sent_nothing_and_blames_no_key(
    make_gateway: MakeGateway, shows: Shows, status: int
) -> None:
    with proxying(refusal=status) as proxy:
        configured = upstream("sim", "minimax", "https://api.provider.example") | {"proxy": proxy.url}
        gateway = make_gateway(configured)
        response = gateway.generate(prompt="a lake")
        [pool] = gateway.admin("GET", "/pool").json()["data"]
        probed = gateway.admin("POST", "/pool/sim/main/main-1/probe").json()
    shows(5, f"a proxy's {status} to CONNECT", probed["detail"].replace(proxy.url.partition("://")[2], "proxy:3128"))
    assert (503, "The image service is unreachable.") == (response.status_code, response.json()["error"]["message"])
    assert ("0.00", 0) == bill(gateway)
    assert {"ready"} == {key["state"] for account in pool["accounts"] for key in account["keys"]}
    assert (False, "connect_failed") == (probed["works"], probed["error_code"])
    assert f"refuses CONNECT to api.provider.example:443 with {status} Refused" in probed["detail"]
    assert "ready" == probed["key"]["state"]
    assert {"CONNECT api.provider.example:443"} == set(proxy.requests)
