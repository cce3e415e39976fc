"""What must not take the gateway, or pictures that are paid, with it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.demo import demo_command, process, ready_line
from tests.support.harness import Gateway, MakeGateway, Simulator, serving, upstream, wait_until
from tests.support.hostile import Plan, hostile

pytestmark = pytest.mark.slow

PICTURE = "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBD"


def test_a_message_that_is_no_text_does_not_stop_the_gateway(gateway: Gateway, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(3):
            client.publish("ig3:revoked", b"\xff\xfe")
            time.sleep(0.05)
    statuses = [gateway.generate(prompt="a cat").status_code for _ in range(3)]

    assert [200, 200, 200] == statuses


@pytest.mark.parametrize("kind", ["minimax", "302ai"])
def test_a_complete_reply_is_delivered_whatever_its_provider_sends_behind_it(
    make_gateway: MakeGateway, kind: str
) -> None:
    """Its images are paid for. The connection is not used again, as what follows would answer another request."""
    body = b'{"data":{"image_urls":["https://file.302ai.cn/x.jpg"]},"base_resp":{"status_code":0}}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    with hostile() as provider:
        provider.begin(Plan((head + body + b"x" * 5000, "hang")))
        gateway = make_gateway(upstream("sim", kind, provider.url))
        answers = [gateway.generate(prompt="a cat", response_format="url") for _ in range(3)]
        assert [200] * 3 == [answer.status_code for answer in answers]
        assert (3, 3) == (provider.requests, provider.connections)
    [sums] = gateway.admin("GET", "/usage").json()["data"]
    assert 3 == sums["images"]


BAD_LINKS = [
    "https://a..bj.bcebos.com/x",
    "http://xn--a.bj.bcebos.com/x",
    f"https://{'a' * 64}.bj.bcebos.com/x",
    "http://[/",
]


@pytest.mark.parametrize("bad", BAD_LINKS)
def test_a_broken_link_costs_no_more_than_its_own_picture(make_gateway: MakeGateway, bad: str) -> None:
    """Two calls of one picture each: one answers a picture, the other a link that is none."""
    calls: list[bytes] = []

    async def generate(request: Request) -> Response:
        calls.append(await request.body())
        data = {"image_base64": [PICTURE]} if len(calls) == 1 else {"image_urls": [bad]}
        return Response(json.dumps({"data": data, "base_resp": {"status_code": 0}}), media_type="application/json")

    with serving(Starlette(routes=[Route("/v1/image_generation", generate, methods=["POST"])])) as url:
        hosts = ("*.bj.bcebos.com",)
        gateway = make_gateway(upstream("sim", "minimax", url, "a:a-1", "b:b-1", hosts=hosts, max_images_per_call=1))
        answer = gateway.generate(prompt="a cat", n=2, response_format="b64_json")

    assert (200, [{"b64_json": PICTURE}]) == (answer.status_code, answer.json()["data"])
    assert "1" == answer.headers["x-imagegate-missing"]
    assert 2 == len(calls)


def test_a_signed_link_that_fails_is_not_written_to_the_log(
    make_gateway: MakeGateway, capfd: pytest.CaptureFixture[str]
) -> None:
    async def generate(request: Request) -> Response:
        link = f"http://{request.headers['host']}/broken?Signature=planted-signature"
        body = {"data": {"image_urls": [link]}, "base_resp": {"status_code": 0}}
        return Response(json.dumps(body), media_type="application/json")

    async def broken(request: Request) -> Response:
        return Response("no picture", headers={"content-length": "3", "transfer-encoding": "chunked"})

    routes = [Route("/v1/image_generation", generate, methods=["POST"]), Route("/broken", broken)]
    with serving(Starlette(routes=routes)) as url:
        gateway = make_gateway(upstream("sim", "minimax", url))
        answer = gateway.generate(prompt="a cat", response_format="b64_json")

    assert (502, "false") == (answer.status_code, answer.headers["x-should-retry"])
    written = capfd.readouterr()
    assert "download_attempt_failed" in written.out + written.err
    assert "planted-signature" not in written.out + written.err


def test_a_request_cut_by_the_shutdown_must_not_be_sent_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("h")
    with process(demo_command("--json"), home) as started:
        ready = ready_line(started)
        script = (
            "import httpx, sys\n"
            f"answer = httpx.post('{ready['base_url']}/images/generations', json={{'prompt': '[delay=20]'}},"
            f" headers={{'authorization': 'Bearer {ready['api_key']}'}}, timeout=60)\n"
            "print(answer.status_code, answer.headers['x-should-retry'], answer.json()['error']['code'])\n"
        )
        asking = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        invoice = f"{ready['simulator_url']}/simulator/invoice"
        wait_until(lambda: httpx.get(invoice).json()["total"]["images"] == 1, "the call is under way")
        started.send_signal(signal.SIGTERM)
        told, _ = asking.communicate(timeout=30)

    assert "500 false internal_error\n" == told


def write_configuration(folder: Path, redis_url: str, upstream_url: str) -> Path:
    path = folder / "imagegate.toml"
    path.write_text(
        f'[redis]\nurl = "{redis_url}"\nembedded_dir = "{folder}/r"\n'
        f'[[upstreams]]\nname = "sim"\nprovider = "minimax"\nbase_url = "{upstream_url}"\n'
        '[[upstreams.accounts]]\nname = "main"\n'
        '[[upstreams.accounts.keys]]\nname = "main-1"\nsecret = { env = "KEY" }\n'
        '[[models]]\nid = "image-01"\nprice_per_image_usd = "0.0035"\n'
        '[[models.targets]]\nupstream = "sim"\nmodel = "image-01"\n'
    )
    return path


@contextmanager
def gateway_process(configuration: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`imagegate serve`, and its address."""
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(configuration), "--port", "0", *options]
    environ = {"PATH": os.environ["PATH"], "KEY": "main-1"}
    environ |= {"IMAGEGATE_ADMIN__PORT": "0", "IMAGEGATE_METRICS__PORT": "0"}
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as started:
        try:
            assert started.stderr is not None
            yield started, json.loads(started.stderr.readline())["url"]
        finally:
            started.kill()


def test_workers_end_with_their_supervisor(simulator: Simulator, redis_url: str, tmp_path: Path) -> None:
    configuration = write_configuration(tmp_path, redis_url, simulator.url)
    with gateway_process(configuration, "--workers", "2") as (supervisor, url):
        wait_until(lambda: _answers(url), "the workers start")
        supervisor.kill()
        supervisor.wait()
        wait_until(lambda: not _answers(url), "the workers end")


def test_serve_stops_its_redis_in_order_and_ends_well(
    simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("h")
    with gateway_process(write_configuration(folder, "embedded", simulator.url)) as (started, url):
        wait_until(lambda: _answers(url), "it starts")
        started.send_signal(signal.SIGTERM)
        code = started.wait(20)

    assert 0 == code
    assert "bye bye" in (folder / "r" / "redis.log").read_text()


def embedded_pid(folder: Path) -> int | None:
    """The process of the embedded server; None while it does not answer."""
    try:
        with redis.Redis(unix_socket_path=str(folder / "r" / "redis.sock"), socket_timeout=5) as client:
            return int(client.info("server")["process_id"])
    except redis.RedisError:
        return None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_redis_that_crashed_is_started_again_for_as_long_as_the_gateway_lives(
    simulator: Simulator, tmp_path_factory: pytest.TempPathFactory, workers: int
) -> None:
    """New workers for a changed configuration must not take away what the old ones used."""
    folder = tmp_path_factory.mktemp("h")
    configuration = write_configuration(folder, "embedded", simulator.url)
    with gateway_process(configuration, "--workers", str(workers)) as (started, url):
        lines = told(started)
        wait_until(lambda: is_ready(url), "it is ready")
        before = embedded_pid(folder)
        assert before is not None
        os.kill(before, signal.SIGKILL)
        wait_until(lambda: embedded_pid(folder) not in {None, before} and is_ready(url), "it is ready again")
        crashed = embedded_pid(folder)
        wait_until(lambda: "embedded_redis_recovered" in "".join(lines), "it says so")
        started.send_signal(signal.SIGHUP)
        wait_until(lambda: "config_reloaded" in "".join(lines), "it reads the configuration again")
        for _ in range(30):
            assert is_ready(url)
            assert crashed == embedded_pid(folder)
            time.sleep(0.1)
        started.send_signal(signal.SIGTERM)
        assert 0 == started.wait(30)
    assert 1 == "".join(lines).count("embedded_redis_exited")
    assert "bye bye" in (folder / "r" / "redis.log").read_text()


def told(started: subprocess.Popen[str]) -> list[str]:
    """The lines that it logs from now on, as they come."""
    lines: list[str] = []

    def collect() -> None:
        assert started.stderr is not None
        for line in started.stderr:
            lines.append(line)  # noqa: PERF402 - each is to be seen at once

    threading.Thread(target=collect, daemon=True).start()
    return lines


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("host", ["::1", "0.0.0.0", "127.0.0.1"])
def test_the_demo_runs_on_every_kind_of_address_and_past_every_proxy(
    tmp_path_factory: pytest.TempPathFactory, host: str
) -> None:
    command = ["env", "HTTP_PROXY=http://127.0.0.1:9", *demo_command("--json", "--host", host)]
    with process(command, tmp_path_factory.mktemp("h")) as started:
        ready = ready_line(started)
        answer = httpx.get(f"{ready['base_url']}/models", headers={"authorization": f"Bearer {ready['api_key']}"})

    assert 200 == answer.status_code


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False
