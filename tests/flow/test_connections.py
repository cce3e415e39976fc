"""Strangers who open connections without end: bounded in all, by address, in bytes of heads, and below `ulimit -n`."""

import re
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.certificates import certify
from tests.support.connections import MANY, MB, STRANGER, TENANT, connect, is_served, over_bound, serves, started
from tests.support.harness import Gateway, Simulator, new_key, simulating, wait_until
from tests.support.processes import log_of, tls, write_configuration
from tests.support.servers import free_port
from tests.support.strangers import HEALTH, received, resident_mb

pytestmark = pytest.mark.slow

HALF_A_HEAD = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-half: "


@pytest.fixture
def configuration(tmp_path: Path, redis_url: str, simulator: Simulator) -> Path:
    return write_configuration(tmp_path, redis_url, simulator.url)


def begun(url: str, begin: bytes, source: str = STRANGER) -> socket.socket:
    """A connection on which this was sent, if the server took it."""
    client = connect(url, source)
    with suppress(ConnectionError):
        client.sendall(begin)
    return client


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed it by now. What it sent before is read away."""
    client.setblocking(False)
    try:
        while client.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    else:
        return True
    finally:
        client.settimeout(20)


def has_open(clients: list[socket.socket], count: int) -> bool:
    return open_count(clients) == count


def open_count(clients: list[socket.socket]) -> int:
    return sum(not is_closed(client) for client in clients)


def test_one_address_has_half_of_all_connections_and_the_tenant_is_served(configuration: Path) -> None:
    """Beyond it, its own oldest idle connections are closed, and no other's."""
    with started(configuration, max_connections=40) as (_, url), ExitStack() as stack:
        gateway = Gateway(url, new_key(url))
        tenant = stack.enter_context(connect(url, TENANT))
        assert is_served(tenant)
        idle = [stack.enter_context(connect(url)) for _ in range(100)]
        wait_until(lambda: open_count(idle) == 20, "the address has its share")
        assert [True] * 80 + [False] * 20 == [is_closed(client) for client in idle]
        assert is_served(tenant)
        assert serves(gateway)
        assert is_served(idle[-1])
        assert {("address", "closed"): 80.0} == over_bound(url)


def test_the_bound_by_address_is_a_setting(configuration: Path) -> None:
    with started(configuration, max_connections=40, max_connections_per_address=30) as (_, url), ExitStack() as stack:
        idle = [stack.enter_context(connect(url)) for _ in range(45)]
        wait_until(lambda: open_count(idle) == 30, "the address has what it may")


def test_a_trusted_proxy_may_have_all_connections(configuration: Path) -> None:
    with ExitStack() as stack:
        proxies = '["127.0.0.2/32"]'
        _, url = stack.enter_context(started(configuration, max_connections=40, trusted_proxies=proxies))
        clients = [stack.enter_context(begun(url, HEALTH)) for _ in range(60)]
        wait_until(lambda: open_count(clients) == 40, "the bound of all holds for it")


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"", id="silent", marks=pytest.mark.slow),
        pytest.param(HALF_A_HEAD, id="half a head", marks=pytest.mark.slow),
        pytest.param(HEALTH, id="kept"),
    ],
)
def test_connections_of_many_addresses_make_room(configuration: Path, begin: bytes) -> None:
    """For each other, and for a tenant that comes last."""
    with started(configuration, max_connections=40) as (_, url), ExitStack() as stack:
        gateway = Gateway(url, new_key(url))
        clients = [stack.enter_context(begun(url, begin, source)) for source in MANY]
        wait_until(lambda: open_count(clients) <= 40, "the bound holds")
        assert serves(gateway)
        counted = over_bound(url)
        assert {("process", "closed")} == counted.keys()
        assert counted["process", "closed"] >= 80


def test_requests_in_flight_are_never_cut_off_and_new_connections_are_refused(tmp_path: Path, redis_url: str) -> None:
    bounds = {"max_connections": 8, "max_connections_per_address": 6}
    with simulating(latency_s=3) as simulator, ExitStack() as stack:
        configuration = write_configuration(tmp_path, redis_url, simulator.url)
        _, url = stack.enter_context(started(configuration, **bounds))
        gateway = Gateway(url, new_key(url))
        at_work = stack.enter_context(ThreadPoolExecutor(6))
        asked = [at_work.submit(gateway.generate, prompt="a cat", response_format="url") for _ in range(6)]
        wait_until(lambda: len(simulator.requests()) == 6, "six are in flight")
        assert not is_served(stack.enter_context(connect(url, TENANT)))
        assert is_served(stack.enter_context(connect(url, STRANGER))), "two places are left for others"
        assert [200] * 6 == [one.result().status_code for one in asked]
        assert is_served(stack.enter_context(connect(url, TENANT)))
        assert {("address", "refused"): 1.0} == over_bound(url)
    problems = [line["problem"] for line in log_of(configuration) if line["event"] == "connections_rejected"]
    assert ["too many connections: address"] == problems


def test_the_ports_of_operators_are_bounded_apart(configuration: Path) -> None:
    """Whoever fills one of them fills no other."""
    admin, metrics = free_port(), free_port()
    ports = {"ADMIN__PORT": admin, "METRICS__PORT": metrics}
    with started(configuration, max_connections=500, **ports) as (_, url), ExitStack() as stack:
        gateway = Gateway(url, new_key(f"http://127.0.0.1:{admin}"))
        for port in (admin, metrics):
            idle = [stack.enter_context(connect(f"http://127.0.0.1:{port}", source)) for source in MANY]
            wait_until(partial(has_open, idle, 64), "the port has its share")
        public = [stack.enter_context(connect(url)) for _ in range(200)]
        assert serves(gateway)
        assert 200 == open_count(public)
        assert over_bound(f"http://127.0.0.1:{metrics}")["process", "closed"] >= 112


def test_every_worker_has_bounds_of_its_own(configuration: Path) -> None:
    with started(configuration, "--workers", "2", max_connections=20) as (_, url), ExitStack() as stack:
        gateway = Gateway(url, new_key(url))
        idle = [stack.enter_context(connect(url)) for _ in range(60)]
        wait_until(lambda: 10 <= open_count(idle) <= 20, "the address has its share of each")
        assert serves(gateway)


def test_a_soft_limit_of_open_files_is_raised_as_far_as_it_must(configuration: Path) -> None:
    with started(configuration, files="-S 256", max_connections=300) as (process, url), ExitStack() as stack:
        clients = [stack.enter_context(begun(url, HEALTH, MANY[number % 3])) for number in range(300)]
        assert all(client.recv(65536).startswith(b"HTTP/1.1 200") for client in clients)
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    (line,) = [line for line in log_of(configuration) if line["event"] == "connections_bounded"]
    assert ("info", 300) == (line["level"], line["max_connections"])
    assert 300 < int(re.search(r"Max open files +(\d+)", limits)[1]) < 1000  # type: ignore[index]


def test_redis_and_upstreams_are_reached_at_the_limit_of_open_files(configuration: Path) -> None:
    """Half of a small limit is theirs; the operator reads what limit would do."""
    with started(configuration, files=256) as (process, url), ExitStack() as stack:
        gateway = Gateway(url, new_key(url))
        idle = [stack.enter_context(begun(url, HEALTH, MANY[number % 3])) for number in range(400)]
        wait_until(lambda: open_count(idle) <= 128, "the bound holds")
        assert [200] * 5 == [gateway.get("/readyz").status_code for _ in range(5)]
        with ThreadPoolExecutor(10) as at_work:
            assert [True] * 40 == list(at_work.map(lambda _: serves(gateway), range(40)))
        assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < 256
    (line,) = [line for line in log_of(configuration) if line["event"] == "connections_bounded"]
    assert ("warning", 128, 8192, 256) == (
        line["level"],
        line["max_connections"],
        line["configured"],
        line["open_files_max"],
    )


HELD = {
    "one long value": HALF_A_HEAD + b"y" * 60_000,
    "many short fields": b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a:b\r\n" * 250,
}


@pytest.mark.parametrize("kind", list(HELD))
def test_unfinished_heads_are_bounded_in_bytes_over_all_connections(configuration: Path, kind: str) -> None:
    """The oldest unfinished heads are closed; whole requests and idle connections are not."""
    with started(configuration, max_memory_bytes=16 * MB) as (process, url), ExitStack() as stack:
        gateway = Gateway(url, new_key(url))
        kept = stack.enter_context(connect(url))
        assert is_served(kept)
        before_mb = resident_mb(process.pid)
        clients = [stack.enter_context(begun(url, HELD[kind])) for _ in range(400)]
        wait_until(lambda: open_count(clients) <= 70, "2 MiB of heads are left")
        assert serves(gateway)
        assert is_served(kept)
        assert over_bound(url)["heads", "closed"] >= 330
        assert resident_mb(process.pid) - before_mb < 20


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"", id="silent", marks=pytest.mark.slow),
        pytest.param(b"\x16\x03\x01\x02\x00\x01", id="half a hello"),
    ],
)
def test_a_tls_handshake_ends_with_the_time_of_a_head_and_counts_until_then(
    configuration: Path, tmp_path: Path, begin: bytes
) -> None:
    files = certify(tmp_path)
    with (
        started(configuration, max_connections=40, header_timeout_s=3, **dict[str, object](tls(files))) as (_, url),
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(begun(url, begin)) for _ in range(30)]
        wait_until(lambda: open_count(clients) <= 20, "they are bounded by address")
        secure = stack.enter_context(files.trusted.wrap_socket(connect(url, TENANT), server_hostname="127.0.0.1"))
        assert is_served(secure)
        assert [b""] * 30 == [received(client) for client in clients]
        wait_until(lambda: connections(url) <= 2, "they are counted no more")


def connections(url: str) -> int:
    """How many are open, the one that asks included."""
    text = httpx.get(f"{url}/metrics", verify=False).text
    (found,) = re.findall(r"^imagegate_connections (\S+)", text, re.MULTILINE)
    return int(float(found))
