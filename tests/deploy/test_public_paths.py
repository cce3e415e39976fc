"""What the proxies of deploy/ let through, by the real programs before a server that answers everything with 200."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.deploy.files import DEPLOY, read_yaml
from tests.support.balancing import FILE, HAPROXY, haproxy, needs_haproxy
from tests.support.harness import serving, wait_until
from tests.support.servers import free_port
from tests.support.strangers import head, talk

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not on this machine")

PUBLIC = (
    *("/v1/images/generations", "/v1/models", "/v1/models/org%2Fname", "/v1/image_generation", "/v1/usage?last=30d"),
    *("/minimaxi/v1/image_generation", "/healthz", "/readyz"),
    *("/v1/files", "/v1/files/file-0/content", "/openai/files?api-version=1"),
    f"/files/{'0' * 40}.jpg?expires=1&kid=2&signature=x",
    *(
        "/openai/deployments/m/images/generations?api-version=1",
        "/openai/v1/models",
        "/deployments/m/images/generations",
    ),
    *("/images/generations", "/models", "/models/m", "/image_generation", "//v1/models", "/v1//images/generations/"),
)
CLOSED = (
    *("/admin/v1/tenants", "/%61dmin/v1/tenants", "/admin%2fv1/pool", "/%61%64%6d%69%6e%2fv1/pool", "/ADMIN/v1/pool"),
    *(
        "/metrics",
        "/%6detrics",
        "/metric%73",
        "/metrics?a=/v1/",
        "/metrics/",
        "/openapi.json",
        "/console",
        "/",
        "/v2/x",
    ),
    *(
        "//metrics",
        "//admin/v1/tenants",
        "/v1x/models",
        "/openai%2f..%2fmetrics",
        "/images/../metrics",
        "/./metrics",
        "/healthz/x",
        "/healthz%2f..%2fmetrics",
        "/files/../metrics",
        "/readyz/../metrics",
    ),
    *("/v1/../metrics", "/v1/%2e%2e/metrics", "/v1/..%2fmetrics", "/v1/%2E%2E%2Fadmin/v1/pool", "/v1%2f..%2fmetrics"),
    *("/minimaxi/../admin/v1/pool", "/minimaxi/%2e%2e/admin/v1/pool"),
)


def everything() -> Starlette:
    async def answer(_: Request) -> Response:
        return PlainTextResponse("reached")

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


def status(url: str, path: str, host: str = "x") -> int:
    request = head(f"GET {path}".encode()).replace(b"host: x", b"host: " + host.encode())
    return int(talk(url, request).split(b" ")[1])


@pytest.fixture(scope="module")
def balancer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(everything()) as url, haproxy(tmp_path_factory.mktemp("h"), [url]) as started:
        wait_until(lambda: started.is_up("one"), "it is up")
        yield started.url


@needs_haproxy
def test_the_file_of_haproxy_is_right() -> None:
    done = subprocess.run([str(HAPROXY), "-c", "-f", str(FILE)], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr


@needs_haproxy
@pytest.mark.parametrize("path", PUBLIC)
def test_haproxy_lets_through_what_clients_need(balancer: str, path: str) -> None:
    assert 200 == status(balancer, path)


@needs_haproxy
@pytest.mark.parametrize("path", [*CLOSED, "http://x/metrics", "http://x/%6detrics", "http://x/v1/%2e%2e/metrics"])
def test_haproxy_lets_nothing_else_through_however_it_is_encoded(balancer: str, path: str) -> None:
    assert 404 == status(balancer, path)


def locations() -> str:
    """The rules of the ingress, as ingress-nginx writes them."""
    (rule,) = read_yaml(DEPLOY / "kubernetes/ingress.yaml")["spec"]["rules"]
    match = {"Prefix": "", "Exact": "= "}
    return "".join(
        f"location {match[path['pathType']]}{path['path']} {{ proxy_pass http://gateway; }}\n"
        for path in rule["http"]["paths"]
    )


@contextmanager
def nginx(folder: Path, backend: str) -> Iterator[str]:
    port = free_port()
    temporary = "".join(
        f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;\nevents {{}}\n"
        f"http {{ access_log off; {temporary}upstream gateway {{ server {backend.removeprefix('http://')}; }}\n"
        f"server {{ listen 127.0.0.1:{port}; {locations()}location / {{ return 404; }} }} }}\n"
    )
    command = [str(NGINX), "-p", str(folder), "-e", f"{folder}/log", "-c", f"{folder}/nginx.conf"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: _accepts(port), "nginx listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def ingress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(everything()) as url, nginx(tmp_path_factory.mktemp("n"), url) as started:
        yield started


@needs_nginx
@pytest.mark.parametrize("path", PUBLIC)
def test_the_ingress_lets_through_what_clients_need(ingress: str, path: str) -> None:
    assert 200 == status(ingress, path)


@needs_nginx
@pytest.mark.parametrize("path", CLOSED)
def test_the_ingress_lets_nothing_else_through_however_it_is_encoded(ingress: str, path: str) -> None:
    assert 404 == status(ingress, path)
