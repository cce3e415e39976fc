"""A real HAProxy with the file of deploy/, in front of the test's gateways."""

import csv
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "deploy/haproxy/haproxy.cfg"
HAPROXY = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
"""Debian installs it outside of a user's path."""

needs_haproxy = pytest.mark.skipif(
    HAPROXY is None or sys.platform != "linux", reason="haproxy is not on this machine, or this machine is not Linux"
)
NAMES = ("one", "two", "three")


@dataclass(frozen=True)
class HAProxy:
    """A running HAProxy."""

    url: str
    _control: tuple[str, int]

    def tell(self, command: str) -> str:
        """Sends a command to its control socket and returns the reply."""
        with socket.create_connection(self._control) as connection:
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    def is_up(self, name: str) -> bool:
        """Returns True if it routes requests to this gateway."""
        rows = csv.DictReader(self.tell("show stat").removeprefix("# ").splitlines())
        return "UP" in [row["status"] for row in rows if (row["pxname"], row["svname"]) == ("gateways", name)]


@contextmanager
def haproxy(folder: Path, gateways: list[str]) -> Iterator[HAProxy]:
    """Runs in front of one gateway or three. Its listeners are created here, so that no port is guessed."""
    with ExitStack() as stack:
        clients, control = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        path = folder / "haproxy.cfg"
        path.write_text(_configuration(gateways, clients.fileno(), control.fileno()))
        log = stack.enter_context((folder / "haproxy.txt").open("w"))
        descriptors = (clients.fileno(), control.fileno())
        command = [str(HAPROXY), "-db", "-f", str(path)]
        process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=descriptors)
        try:
            yield HAProxy(f"http://127.0.0.1:{clients.getsockname()[1]}", control.getsockname())
        finally:
            process.kill()
            process.wait()


def _configuration(gateways: list[str], clients: int, control: int) -> str:
    """Returns the file with replaced addresses."""
    text = FILE.read_text("utf-8")
    for pattern, given in (
        (r"bind :8080", f"bind fd@{clients}"),
        (r"stats socket .*", f"stats socket fd@{control} level admin"),
        (r"log /dev/log local0", "log stderr format raw local0"),
        *(_server(name, gateways[index : index + 1]) for index, name in enumerate(NAMES)),
    ):
        text, count = re.subn(pattern, given, text)
        assert count == 1, pattern
    return text


def _server(name: str, urls: list[str]) -> tuple[str, str]:
    return rf"    server {name} .*\n", "".join(f"    server {name} {url.removeprefix('http://')}\n" for url in urls)
