"""Requests inside the bodies of others, through real proxies that keep their connections to the gateway."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.balancing import needs_haproxy
from tests.support.framings import FRAMINGS, JAVA, TRAILERS, Request, echo, exchange, read_reply
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, Simulator, new_key, serving
from tests.support.ingress import keeping_haproxy, needs_nginx, nginx
from tests.support.strangers import connected

pytestmark = pytest.mark.slow

SPLITS = (0, 4_000, 40_000, 60_000)
"""Bytes before a request inside a body. A body above 16 KiB leaves nginx apart from its head."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("nginx", marks=needs_nginx),
        pytest.param("nginx, unbuffered", marks=needs_nginx),
        pytest.param("haproxy", marks=needs_haproxy),
    ],
)
def proxied(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The echo behind a proxy."""
    folder = tmp_path_factory.mktemp("proxy")
    with ExitStack() as stack:
        url = stack.enter_context(serving(echo))
        if request.param == "haproxy":
            yield stack.enter_context(keeping_haproxy(folder, url))
        else:
            yield stack.enter_context(nginx(folder, url, buffering=request.param == "nginx"))


@pytest.mark.parametrize("padding", SPLITS)
@pytest.mark.parametrize("framing", list(FRAMINGS))
def test_a_body_behind_a_proxy_is_no_request(proxied: str, framing: str, padding: int) -> None:
    request = FRAMINGS[framing].padded(padding)
    pieces = (request.head, request.sent[len(request.head) :])
    with connected(proxied) as client:
        assert [request.echoed] * 3 == [exchange(client, *pieces) for _ in range(3)]


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_a_request_may_be_cut_anywhere_before_a_proxy(proxied: str, framing: str) -> None:
    """On one connection of the client's."""
    request = FRAMINGS[framing]
    with connected(proxied) as client:
        for cut in range(1, len(request.sent)):
            assert request.echoed == exchange(client, request.sent[:cut], request.sent[cut:]), f"cut at {cut}"


@pytest.mark.parametrize("trailer", list(TRAILERS))
def test_a_trailer_behind_a_proxy_costs_no_other_client_its_answer(proxied: str, trailer: str) -> None:
    carried, plain = FRAMINGS["chunks"], FRAMINGS["GET with a length"]
    sent = carried.sent.removesuffix(b"\r\n") + TRAILERS[trailer] + b"\r\n\r\n"
    with connected(proxied) as other:
        for _ in range(5):
            with connected(proxied) as stranger:
                stranger.sendall(sent)
                assert read_reply(stranger).status in {200, 400}
            assert plain.echoed == exchange(other, plain.sent)


def order(key: str, prompt: str, **fields: object) -> Request:
    named = "".join(f', "{name}": {value}' for name, value in fields.items())
    body = f'{{"prompt": "{prompt}", "response_format": "url"{named}}}'.encode()
    return Request(
        path=b"/v1/images/generations", body=body, offer=(b"host: x", b"authorization: Bearer " + key.encode())
    )


def carrier(inside: Request, padding: int) -> Request:
    return Request(b"GET", b"/healthz", inside.sent).padded(padding)


@needs_nginx
@pytest.mark.parametrize("padding", SPLITS)
def test_a_smuggled_order_does_not_get_another_tenants_image(
    make_gateway: MakeGateway, simulator: Simulator, tmp_path: Path, padding: int
) -> None:
    """mallory's slow order would be answered to alice, and alice's images to mallory's next request."""
    gateway = make_gateway()
    mallory = new_key(gateway.url, "mallory")
    with nginx(tmp_path, gateway.url) as url, connected(url) as stranger:
        for _ in range(3):
            stranger.sendall(carrier(order(mallory, "of mallory [delay=0.5]"), padding).sent)
            assert {"status": "ok"} == read_reply(stranger).document
            alices = Gateway(url, gateway.api_key).generate(prompt="of alice", n=2, response_format="url")
            assert (200, 2) == (alices.status_code, len(alices.json()["data"]))
            stranger.sendall(Request(b"GET", b"/healthz", None).sent)
            assert {"status": "ok"} == read_reply(stranger).document
    assert ["of alice"] * 3 == [seen["body"]["prompt"] for seen in simulator.requests() if "prompt" in seen["body"]]
    assert 6 == simulator.images_billed()


HIDDEN = {
    "metrics": Request(b"GET", b"/metrics", None, offer=(b"host: x",)),
    "admin": Request(
        b"GET", b"/admin/v1/tenants", None, offer=(b"host: x", b"authorization: Bearer " + ADMIN_KEY.encode())
    ),
}


@needs_nginx
@pytest.mark.parametrize("hidden", list(HIDDEN))
def test_what_a_proxy_denies_is_not_read_through_another_request(gateway: Gateway, tmp_path: Path, hidden: str) -> None:
    """Without a key: each reply is the one of its own request, also to the tenant on the same kept connection."""
    with nginx(tmp_path, gateway.url) as url, connected(url) as stranger:
        stranger.sendall(HIDDEN[hidden].sent)
        assert 404 == read_reply(stranger).status
        for padding in SPLITS * 5:
            stranger.sendall(carrier(HIDDEN[hidden], padding).sent)
            assert {"status": "ok"} == read_reply(stranger).document
            models = Gateway(url, gateway.api_key).get("/v1/models")
            assert "image-01" in [model["id"] for model in models.json()["data"]]


@needs_nginx
def test_javas_offers_are_served_on_each_request_behind_a_proxy(gateway: Gateway, tmp_path: Path) -> None:
    request = order(gateway.api_key, "a cat")
    key = b"authorization: Bearer " + gateway.api_key.encode()
    sent = Request(path=request.path, body=request.body, offer=(*JAVA, key)).sent
    with nginx(tmp_path, gateway.url) as url, connected(url) as client:
        for _ in range(3):
            client.sendall(sent)
            assert 200 == read_reply(client).status
