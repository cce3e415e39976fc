"""base_url, redirects, and web pages in the place of the provider."""

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.checking import check
from tests.support.harness import Gateway, MakeGateway, serving, upstream
from tests.support.operators import Shows

PAGE = "<!DOCTYPE html>\n<html><head><title>{title}</title></head><body>Please log in.</body></html>"
PAGES = {
    200: ("Guest network", "wrong host"),
    400: ("400 The plain HTTP request was sent to HTTPS port", "wrong host"),
    401: ("Login required", "cannot tell"),
    403: ("Blocked by policy", "cannot tell"),
    404: ("Not found", "wrong host"),
    407: ("Proxy login", "unreachable"),
    502: ("502 Bad Gateway", "wrong host"),
}

BASE_URLS = {
    ("minimax", "/v1"): "/v1",
    ("minimax", "/v1/"): "/v1",
    ("minimax", "/V1"): "/v1",
    ("minimax", "/proxy/v1//"): "/v1",
    ("minimax", "/v1/image_generation"): "/v1/image_generation",
    ("minimax", "/v1/token_plan/remains"): "/v1/token_plan/remains",
    ("302ai", "/v1"): "/v1",
    ("302ai", "/v1/models"): "/v1/models",
    ("302ai", "/minimaxi"): "/minimaxi",
    ("302ai", "/minimaxi/v1/"): "/minimaxi/v1",
    ("302ai", "/minimaxi/v1/image_generation"): "/minimaxi/v1/image_generation",
}


@pytest.mark.parametrize(("provider", "path"), BASE_URLS)
def test_a_base_url_with_the_api_s_own_path_is_refused_with_the_right_one(
    tmp_path: Path, redis_url: str, shows: Shows, provider: str, path: str
) -> None:
    given, ending = f"https://api.example{path}", BASE_URLS[provider, path]
    code, message = check(tmp_path, redis_url, given, provider=provider)
    shows(4, f'base_url = "{given}" ({provider})', message)
    right = f"https://api.example{path.rstrip('/')[: -len(ending)]}".rstrip("/")
    expected = f"'{given}' ends in {ending}, which the gateway appends itself. Use '{right}'"
    assert (1, True) == (code, f"base_url: {expected}" in message)


@pytest.mark.parametrize("path", ["", "/", "/v1/minimax", "/v10", "/av1", "/v1-eu"])
def test_another_path_before_the_api_s_own_is_accepted(tmp_path: Path, redis_url: str, path: str) -> None:
    code, message = check(tmp_path, redis_url, f"http://127.0.0.1:1{path}")
    assert (1, True) == (code, "refuses the connection" in message)


def answering(body: str, status: int = 200, **headers: str) -> Starlette:
    async def answer(_: Request) -> Response:
        return Response(body, status, {name.replace("_", "-"): value for name, value in headers.items()}, "text/html")

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


@pytest.mark.parametrize("status", PAGES)
def test_a_web_page_is_named_with_its_title_and_the_url(
    tmp_path: Path, redis_url: str, shows: Shows, status: int
) -> None:
    title, result = PAGES[status]
    with serving(answering(PAGE.format(title=title), status)) as url:
        code, message = check(tmp_path, redis_url, url)
    shows(4, f"a page of HTTP {status}", message.replace(url, "http://provider"))
    assert (1, True) == (code, f" {result}: HTTP {status} from {url}/v1/token_plan/remains, " in message)
    assert f'a web page titled "{title}", not the provider: a proxy, a captive portal or a wrong base_url' in message


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://api.provider.example/v1/x?token=canary", " to https://api.provider.example/v1/x,"),
        ("https://me:canary@login.example/", " to https://login.example/,"),
        ("/login?next=canary", " to /login,"),
        ("", ","),
        ("https://[bad", ","),
    ],
)
@pytest.mark.parametrize("status", [302, 308])
def test_the_target_of_a_redirect_is_shown_without_secrets(
    tmp_path: Path, redis_url: str, shows: Shows, status: int, location: str, shown: str
) -> None:
    with serving(answering("", status, location=location)) as url:
        code, message = check(tmp_path, redis_url, url)
    shows(4, f"HTTP {status}, Location: {location}", message.replace(url, "http://provider"))
    assert (1, True) == (code, f"HTTP {status} from {url}/v1/token_plan/remains{shown}" in message)
    assert "canary" not in message


def billed(gateway: Gateway) -> tuple[object, object]:
    total = gateway.admin("GET", "/usage").json()["total"]
    return total["usd"], total["unconfirmed"]


@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 407])
def test_a_web_page_is_no_image_and_no_verdict_on_a_key(make_gateway: MakeGateway, shows: Shows, status: int) -> None:
    with serving(answering(PAGE.format(title="x"), status)) as url:
        gateway = make_gateway(upstream("sim", "minimax", url))
        error = gateway.generate(prompt="a lake").json()["error"]
        [pool] = gateway.admin("GET", "/pool").json()["data"]
    shows(4, f"a page of HTTP {status} for an image", error["message"])
    assert ("0.00", 0) == billed(gateway)
    assert ["ready"] == [account["state"] for account in pool["accounts"]]
    assert ["ready"] == [key["state"] for account in pool["accounts"] for key in account["keys"]]
