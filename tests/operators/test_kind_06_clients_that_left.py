"""A client that left is not logged as served."""

import json
import re
import socket
import time
from typing import Final

import httpx
import pytest

from tests.support.harness import Gateway, Simulator, wait_until
from tests.support.operators import Shows

REQUEST: Final[dict[str, dict[str, object]]] = {
    "the image": {"prompt": "x [delay=1]"},
    "a stream": {"prompt": "x [delay=1]", "stream": True},
    "an error": {"prompt": "x [delay=1] [code=1026]"},
}


def send_and_leave(gateway: Gateway, body: dict[str, object]) -> None:
    url, content = httpx.URL(gateway.url), json.dumps(body).encode()
    head = f"POST /v1/images/generations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(head.encode() + content)
        time.sleep(0.3)  # the call is in flight


@pytest.mark.parametrize(
    ("left_before", "status", "code"),
    [("the image", 499, "client_disconnected"), ("a stream", 499, "client_disconnected"), ("an error", 499, "")],
)
def test_a_client_that_left_is_logged_with_the_moment(
    gateway: Gateway,
    simulator: Simulator,
    capsys: pytest.CaptureFixture[str],
    shows: Shows,
    left_before: str,
    status: int,
    code: str,
) -> None:
    send_and_leave(gateway, REQUEST[left_before])
    logged = ""

    def is_logged() -> bool:
        nonlocal logged
        logged += capsys.readouterr().out
        return "route=/v1/images/generations" in logged

    wait_until(is_logged, "the request is logged")
    [line] = [line for line in logged.splitlines() if "route=/v1/images/generations" in line]
    shows(6, f"a client that leaves before {left_before}", line.partition("request ")[2].strip())
    assert f"status={status}" in line
    moment = re.search(r"left_ms=(\d+)", line)
    assert moment
    assert 200 <= int(moment[1]) < 60_000
    assert not code or f"error_code={code}" in line
    assert 1 == len(simulator.requests())
    if left_before == "the image":
        assert "usd=0.0035" in line
        counted = f'status="{status}",tenant="acme"'
        assert counted in httpx.get(f"{gateway.url}/metrics").text


def test_a_client_that_got_its_response_did_not_leave(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert 200 == gateway.generate(prompt="x").status_code
    assert "left_ms" not in capsys.readouterr().out
