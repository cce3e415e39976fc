"""Gateways whose bounds on connections are small, and clients that hold connections open."""

import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.harness import Gateway
from tests.support.processes import start_gateway
from tests.support.strangers import HEALTH

MANY = [f"127.0.1.{number}" for number in range(1, 121)]
"""Addresses, as of a network of machines."""


STRANGER, TENANT = "127.0.0.2", "127.0.0.1"
MB = 1024 * 1024


@contextmanager
def started(
    configuration: Path, *options: str, files: object = 0, **settings: object
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A gateway with settings from the environment, by default of [server], and with so many open files."""
    launcher = ("/bin/sh", "-c", f'ulimit -n {files}; exec "$@"', "sh") if files else ()
    names = {name: name if "__" in name else f"SERVER__{name.upper()}" for name in settings}
    secrets = {f"IMAGEGATE_{names[name]}": str(value) for name, value in settings.items()}
    process, url = start_gateway(configuration, *options, secrets=secrets, launcher=launcher)
    try:
        yield process, url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def connect(url: str, source: str = STRANGER) -> socket.socket:
    host, _, port = url.partition("://")[2].partition(":")
    return socket.create_connection((host, int(port)), timeout=20, source_address=(source, 0))


def is_served(client: socket.socket) -> bool:
    """Whether a request on a connection is answered."""
    try:
        client.sendall(HEALTH)
        return client.recv(65536).startswith(b"HTTP/1.1 200")
    except ConnectionError:
        return False


def over_bound(url: str) -> dict[tuple[str, str], float]:
    """What was counted at each bound, and how."""
    text = httpx.get(f"{url}/metrics", verify=False).text
    found = re.findall(r'imagegate_connections_over_bound_total{action="(\w+)",bound="(\w+)"} (\S+)', text)
    return {(bound, action): float(count) for action, bound, count in found}


def serves(gateway: Gateway) -> bool:
    return 200 == gateway.generate(prompt="a cat", response_format="url").status_code
