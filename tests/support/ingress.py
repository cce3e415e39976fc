"""Real proxies with keep-alive connections: nginx with the lines of ingress-nginx, and HAProxy."""

import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.balancing import HAPROXY
from tests.support.harness import wait_until

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
"""Debian installs it outside of a user's path."""

needs_nginx = pytest.mark.skipif(
    NGINX is None or sys.platform != "linux", reason="nginx is not on this machine, or this machine is not Linux"
)
_CONFIGURATION: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/bodies;
    proxy_temp_path {folder}/proxied;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 128m;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream gateway {{ server {server}; keepalive 320; }}
    proxy_http_version 1.1;
    proxy_request_buffering {buffering};
    proxy_set_header Host $http_host;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_set_header X-Forwarded-For $remote_addr;
    server {{
        listen {address};
        location / {{ proxy_pass http://gateway; }}
        location /admin/ {{ return 404; }}
        location = /metrics {{ return 404; }}
    }}
}}
"""


_HAPROXY: Final = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    http-reuse always
frontend clients
    bind {address}
    default_backend gateway
backend gateway
    server one {server}
"""


_HOSTS: Final = itertools.count(1)


def _own_address() -> str:
    """Returns a loopback address on which no other process listens."""
    return f"127.{1 + (os.getpid() >> 8) % 250}.{os.getpid() % 256}.{next(_HOSTS)}:8080"


@contextmanager
def _proxy(command: list[str], address: str, log: Path) -> Iterator[str]:
    host, _, port = address.partition(":")
    with log.open("w") as written, subprocess.Popen(command, stdout=written, stderr=written) as process:
        try:
            wait_until(lambda: process.poll() is not None or _listens(host, int(port)), "the proxy starts")
            assert process.poll() is None, log.read_text()
            yield f"http://{address}"
        finally:
            process.kill()


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


@contextmanager
def nginx(folder: Path, server_url: str, *, buffering: bool = True) -> Iterator[str]:
    """Yields its address."""
    address = _own_address()
    path, server, spelt = folder / "nginx.conf", server_url.removeprefix("http://"), "on" if buffering else "off"
    path.write_text(_CONFIGURATION.format(folder=folder, server=server, address=address, buffering=spelt))
    command = [str(NGINX), "-p", str(folder), "-e", "stderr", "-c", str(path)]
    with _proxy(command, address, folder / "nginx.txt") as url:
        yield url


@contextmanager
def keeping_haproxy(folder: Path, server_url: str) -> Iterator[str]:
    """Yields its address. The file of deploy/ does not reuse connections."""
    path, address = folder / "keeping.cfg", _own_address()
    path.write_text(_HAPROXY.format(address=address, server=server_url.removeprefix("http://")))
    with _proxy([str(HAPROXY), "-db", "-f", str(path)], address, folder / "haproxy.txt") as url:
        yield url
