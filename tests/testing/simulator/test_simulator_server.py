"""What only a real connection shows: a cut body, an answer that never comes, and a server that survives both."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from typing import Literal

import httpx
import pytest
import uvicorn

from gateway.testing.simulator import create_simulator
from tests.support.harness import wait_until


@pytest.fixture(params=["h11", "httptools"])
def server(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """A server's base URL; it must have logged no stack trace by the end."""
    implementation: Literal["h11", "httptools"] = request.param
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_simulator(latency_s=0), http=implementation, ws="none", lifespan="off", log_config=None
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    with caplog.at_level(logging.INFO):
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        running.should_exit = True
        thread.join(timeout=10)
    assert not thread.is_alive()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def answered(client: socket.socket) -> bytes:
    answer = b""
    while b"base_resp" not in answer:
        answer += client.recv(65536)
    return answer


def exchange(client: socket.socket, prompt: str) -> bytes:
    client.sendall(order(prompt))
    return answered(client)


def order(prompt: str) -> bytes:
    body = json.dumps({"model": "image-01", "prompt": prompt, "response_format": "url"}).encode()
    head = "POST /v1/image_generation HTTP/1.1\r\nhost: x\r\nauthorization: Bearer design-1"
    return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("words", ["[hang]", "[delay=60]"])
def test_a_call_whose_client_has_gone_is_over_before_the_next_request_counts(words: str) -> None:
    """Both are read in the same turn of a busy event loop."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_simulator(latency_s=0, max_concurrency=1), ws="none", lifespan="off", log_config=None
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        for _ in range(5):
            with (
                socket.create_connection(listener.getsockname()) as hanging,
                socket.create_connection(listener.getsockname()) as client,
            ):
                hanging.sendall(order(words))
                wait_until(lambda: b'"status_code":1041' in exchange(client, "a fox"), "the call hangs")
                running.servers[0].get_loop().call_soon_threadsafe(time.sleep, 0.2)
                time.sleep(0.05)
                hanging.close()
                assert b'"status_code":0' in exchange(client, "a cat")
    finally:
        running.should_exit = True
        thread.join(timeout=10)


def ask(client: httpx.Client, prompt: str, **fields: object) -> httpx.Response:
    body = {"model": "image-01", "prompt": prompt} | fields
    return client.post("/v1/image_generation", json=body, headers={"Authorization": "Bearer design-1"})


def drain(answer: httpx.Response, received: bytearray) -> None:
    for part in answer.iter_raw():
        received.extend(part)


@pytest.mark.parametrize("wanted", ["url", "base64"])
def test_cut_word_ends_the_connection_in_mid_body_and_is_billed(server: str, wanted: str) -> None:
    body = {"model": "image-01", "prompt": "[cut]", "n": 2, "response_format": wanted}
    headers = {"Authorization": "Bearer design-1"}
    with httpx.Client(base_url=server) as client:
        with client.stream("POST", "/v1/image_generation", json=body, headers=headers) as answer:
            received = bytearray()
            with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
                drain(answer, received)
        assert answer.status_code == 200
        assert int(answer.headers["content-length"]) // 2 == len(received)
        assert received.startswith(b'{"id":"')
        assert ask(client, "a fox").json()["base_resp"]["status_code"] == 0
        assert client.get("/simulator/invoice").json()["total"]["images"] == 3


def test_hang_word_never_answers_and_is_billed(server: str) -> None:
    with httpx.Client(base_url=server) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(
                "/v1/image_generation",
                json={"model": "image-01", "prompt": "[hang]", "n": 3},
                headers={"Authorization": "Bearer hung-1"},
                timeout=0.2,
            )
        expected = {
            "requests": 1,
            "images": 3,
            "withheld": 0,
            "refusals": {},
            "peak_concurrency": 1,
            "peak_per_minute": 1,
        }
        assert expected == client.get("/simulator/invoice").json()["accounts"]["hung"]


def test_links_lead_to_the_server_that_gave_them(server: str) -> None:
    with httpx.Client(base_url=server) as client:
        url = ask(client, "a fox").json()["data"]["image_urls"][0]
        assert url.startswith(f"{server}/simulator/images/")
        assert client.get(url).content.startswith(b"\xff\xd8\xff")


def test_outage_that_hangs_bills_what_it_let_in_and_the_next_request_after_its_end_works(server: str) -> None:
    with httpx.Client(base_url=server) as client:
        assert client.put("/simulator/outage", json={"kind": "hang", "seconds": 60}).status_code == 200
        with pytest.raises(httpx.ReadTimeout):
            client.post(
                "/v1/image_generation",
                json={"model": "image-01", "prompt": "a fox", "n": 3},
                headers={"Authorization": "Bearer design-1"},
                timeout=0.2,
            )
        assert client.delete("/simulator/outage").status_code == 204
        assert ask(client, "a fox").json()["base_resp"]["status_code"] == 0
        assert client.get("/simulator/invoice").json()["total"] == {"requests": 2, "images": 4}


def test_outage_that_cuts_ends_the_connection_in_mid_body_whatever_the_prompt_s_words(server: str) -> None:
    with httpx.Client(base_url=server) as client:
        client.put("/simulator/outage", json={"kind": "cut", "seconds": 60})
        with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
            ask(client, "[code=1026]", n=2)
        assert client.get("/simulator/invoice").json()["total"] == {"requests": 1, "images": 2}
