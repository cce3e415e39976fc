"""The console's page and its files."""

import gzip
import re

import httpx
import pytest

from tests.support.harness import Gateway

pytestmark = pytest.mark.shares_gateway


def get(gateway: Gateway, path: str, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.get(gateway.url + path, headers=sent, verify=False)


def test_every_path_of_the_page_is_the_page(gateway: Gateway) -> None:
    pages = [get(gateway, path) for path in ("/console", "/console/", "/console/usage", "/console/requests/req_1")]
    assert [200] * 4 == [page.status_code for page in pages]
    assert 1 == len({page.text for page in pages})
    assert "text/html; charset=utf-8" == pages[0].headers["content-type"]
    assert "no-store" == pages[0].headers["cache-control"]
    assert "{hash}" not in pages[0].text


def test_an_unknown_route_of_data_is_no_page(gateway: Gateway) -> None:
    for path in ("/console/tenant/unknown", "/console/images/unknown", "/console/session/unknown"):
        answer = get(gateway, path)
        assert (404, "not_found") == (answer.status_code, answer.json()["error"]["code"])


def test_the_page_allows_no_script_but_its_own_files(gateway: Gateway) -> None:
    headers = get(gateway, "/console/").headers
    [policy] = headers.get_list("content-security-policy")
    assert {
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' blob: data:"),
        *("connect-src 'self'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'"),
        *("require-trusted-types-for 'script'", "trusted-types 'none'"),
    } == set(policy.split("; "))
    assert "same-origin" == headers["cross-origin-opener-policy"]
    assert "nosniff" == headers["x-content-type-options"]
    assert "no-referrer" == headers["referrer-policy"]


def test_files_are_kept_for_good_under_the_hash_of_all(gateway: Gateway) -> None:
    page = get(gateway, "/console/").text
    path = re.findall(r'src="(/console/static/[0-9a-f]{16}/main\.js)"', page)[0]
    file = get(gateway, path, accept_encoding="identity")
    assert ("text/javascript; charset=utf-8", "public, max-age=31536000, immutable") == (
        file.headers["content-type"],
        file.headers["cache-control"],
    )
    packed = get(gateway, path, accept_encoding="gzip")
    assert ("gzip", "accept-encoding") == (packed.headers["content-encoding"], packed.headers["vary"])
    assert file.content == packed.content
    assert int(packed.headers["content-length"]) == len(gzip.compress(file.content, mtime=0)) < len(file.content)
    known = get(gateway, path, if_none_match=file.headers["etag"])
    assert (304, b"") == (known.status_code, known.content)


@pytest.mark.parametrize("name", ["nothing.js", "../__init__.py", "%2e%2e/__init__.py", "__init__.py"])
def test_nothing_else_is_served(gateway: Gateway, name: str) -> None:
    page = get(gateway, "/console/").text
    place = re.findall(r"/console/static/[0-9a-f]{16}", page)[0]
    served = get(gateway, f"{place}/{name}")
    assert served.status_code == 404 or served.text == page
    assert 404 == get(gateway, "/console/static/0123456789abcdef/main.js").status_code
