"""The whole gateway behind a proxy, at a provider with a certificate of a private authority."""

import base64
from pathlib import Path

import pytest

from gateway.domain.images import sniff
from tests.support.certificates import certify
from tests.support.harness import MakeGateway, Simulator, upstream
from tests.support.proxying import proxying, with_tls

NAME = "api.provider.example"


@pytest.mark.parametrize("provider", ["minimax", "302ai"])
def test_calls_downloads_and_key_checks_go_through_the_proxy(
    make_gateway: MakeGateway, simulator: Simulator, tmp_path: Path, provider: str
) -> None:
    files = certify(tmp_path, NAME)
    login = f"Basic {base64.b64encode(b'me:main-1').decode()}"
    with with_tls(simulator.url, files) as address, proxying({f"{NAME}:443": address}, login=login) as proxy:
        configured = upstream("sim", provider, f"https://{NAME}", hosts=(NAME,), base64_response=False) | {
            "proxy": proxy.url.replace("://", "://me@"),
            "proxy_password": {"env": "SECRET_MAIN_1"},
        }
        gateway = make_gateway(configured, requests={"ca_file": str(files.certificate)})
        response = gateway.generate(prompt="a lake", n=2, response_format="b64_json")
        probed = gateway.admin("POST", "/pool/sim/main/main-1/probe").json()
    assert 200 == response.status_code, response.text
    assert [True, True] == [sniff(base64.b64decode(one["b64_json"])) is not None for one in response.json()["data"]]
    assert probed["works"], probed
    assert {f"CONNECT {NAME}:443"} == set(proxy.requests)
    assert len(proxy.requests) >= 2  # a connection of calls, and one of downloads
    assert 2 == simulator.images_billed()
    paths = [request["path"] for request in simulator.requests()]
    assert paths
    assert not any("proxy-authorization" in request["headers"] for request in simulator.requests())
