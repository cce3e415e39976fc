"""Where the gateway listens: TLS of its own, ports for administrators and for Prometheus, and proxies before it."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from tests.support.certificates import PASSPHRASE, Files, certify
from tests.support.harness import ADMIN_KEY, Simulator, new_key, wait_until
from tests.support.processes import EACH_OPTIONS, Generating, log_of, started, tls, workers_of, write_configuration
from tests.support.servers import free_port

HOP = "203.0.113.7"
"""Of the addresses that are for documents (RFC 5737)."""


@pytest.fixture
def configuration(tmp_path: Path, redis_url: str, simulator: Simulator) -> Path:
    return write_configuration(tmp_path, redis_url, simulator.url, 5, "[server]\nshutdown_delay_s = 0\n")


def events(configuration: Path) -> list[object]:
    return [line["event"] for line in log_of(configuration)]


def served_serial(url: str) -> int:
    """The serial number of the certificate that a new connection is shown."""
    host, port = url.removeprefix("https://").split(":")
    shown = ssl.get_server_certificate((host, int(port)))
    return x509.load_pem_x509_certificate(shown.encode()).serial_number


def refused(configuration: Path, **settings: str) -> str:
    """What `imagegate check` and `imagegate serve` say, which both refuse to go on."""
    environ = {"PATH": "", "KEY": "main-1", "ADMIN_KEY": ADMIN_KEY} | {f"IMAGEGATE_{k}": v for k, v in settings.items()}
    said = set()
    for command in ("check", "serve"):
        options = ["--no-upstreams"] if command == "check" else []
        line = [sys.executable, "-m", "gateway", command, *options, "--config", str(configuration)]
        ended = subprocess.run(
            line, env=environ, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=False
        )
        assert 1 == ended.returncode, ended
        said.add(ended.stderr)
    assert 1 == len(said), said
    return said.pop().replace(str(configuration), "FILE")


def test_it_speaks_tls_on_every_port(configuration: Path) -> None:
    files, ports = certify(configuration.parent), (free_port(), free_port())
    settings = tls(files) | {"ADMIN__PORT": str(ports[0]), "METRICS__PORT": str(ports[1])}
    with started(configuration, **settings) as (_, url):
        assert url.startswith("https://")
        with httpx.Client(verify=files.trusted) as client:
            found = [
                client.get(f"{url}/healthz").status_code,
                client.get(f"https://127.0.0.1:{ports[0]}/admin/v1/tenants", headers=bearer()).status_code,
                client.get(f"https://127.0.0.1:{ports[1]}/metrics").status_code,
            ]
            told = client.get(f"{url}/healthz").headers
        assert [200, 200, 200] == found
        assert "max-age=31536000" == told["strict-transport-security"]
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(url.replace("https", "http") + "/healthz")


@pytest.mark.slow
def test_old_versions_of_tls_are_not_spoken(configuration: Path) -> None:
    with started(configuration, **tls(certify(configuration.parent))) as (_, url):
        host, port = url.removeprefix("https://").split(":")
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        client.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection((host, int(port)), 10) as connection, pytest.raises(ssl.SSLError):
            client.wrap_socket(connection)


@pytest.mark.slow
@pytest.mark.parametrize(("cipher", "is_spoken"), [("AES128-GCM-SHA256", True), ("AES128-SHA256", False)])
def test_only_authenticated_ciphers_are_spoken(configuration: Path, cipher: str, *, is_spoken: bool) -> None:
    with started(configuration, **tls(certify(configuration.parent))) as (_, url):
        host, port = url.removeprefix("https://").split(":")
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(f"ECDHE-ECDSA-{cipher}:ECDHE-RSA-{cipher}")
        with socket.create_connection((host, int(port)), 10) as connection:
            if is_spoken:
                with client.wrap_socket(connection) as spoken:
                    assert spoken.version() == "TLSv1.2"
            else:
                with pytest.raises(ssl.SSLError):
                    client.wrap_socket(connection)


@pytest.mark.slow
@EACH_OPTIONS
def test_a_renewed_certificate_is_taken_over_without_a_restart(configuration: Path, options: tuple[str, ...]) -> None:
    """In every worker; a connection that is open goes on."""
    files = certify(configuration.parent)
    client = httpx.Client(verify=files.trusted, limits=httpx.Limits(keepalive_expiry=None))
    with started(configuration, *options, **tls(files)) as (_, url), client as kept:
        kept.get(f"{url}/healthz")
        files = certify(configuration.parent)
        wait_until(lambda: {files.serial} == {served_serial(url) for _ in range(16)}, "it is taken over", 60)
        wait_until(lambda: "certificate_reloaded" in events(configuration), "it is logged")
        assert 200 == kept.get(f"{url}/healthz").status_code


@pytest.mark.slow
def test_a_wrong_certificate_leaves_the_old_one_in_force(configuration: Path) -> None:
    files = certify(configuration.parent)
    serial = files.serial
    with started(configuration, **tls(files)) as (_, url):
        files.certificate.write_text("no certificate\n")
        wait_until(lambda: "certificate_reload_rejected" in events(configuration), "it is refused", 60)
        assert serial == served_serial(url)


@pytest.mark.slow
def test_a_worker_that_is_replaced_while_the_files_are_wrong_begins_with_the_old_ones(configuration: Path) -> None:
    files = certify(configuration.parent)
    serial = files.serial
    with started(configuration, "--workers", "2", **tls(files)) as (process, url):
        files.certificate.unlink()
        victim = min(workers_of(process))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in (now := workers_of(process)) and len(now) == 2, "it is replaced", 60)
        told = "the one that stayed tells, and the new one"
        wait_until(lambda: events(configuration).count("certificate_reload_rejected") >= 2, told, 60)
        assert {serial} == {served_serial(url) for _ in range(8)}
        assert process.poll() is None


@pytest.mark.slow
def test_a_certificate_that_is_about_to_end_is_told(configuration: Path) -> None:
    files = certify(configuration.parent, days=3)
    with started(configuration, "--workers", "2", **tls(files)):
        assert 1 == events(configuration).count("certificate_expiring")


@pytest.mark.slow
def test_a_hangup_while_it_starts_does_not_end_it(configuration: Path) -> None:
    line = [sys.executable, "-m", "gateway", "serve", "--config", str(configuration), "--port", "0"]
    environ = {"PATH": os.environ["PATH"], "KEY": "main-1", "ADMIN_KEY": ADMIN_KEY}
    environ |= {"IMAGEGATE_ADMIN__PORT": "0", "IMAGEGATE_METRICS__PORT": "0"}
    log = configuration.parent / "starting.log"
    with log.open("w") as written, subprocess.Popen(line, env=environ, stderr=written) as process:
        wait_until(lambda: ignores_hangups(process.pid), "it has begun")
        while "listening" not in log.read_text():
            process.send_signal(signal.SIGHUP)
            time.sleep(0.02)
            assert process.poll() is None
        listening = next(line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "listening")
        wait_until(lambda: answers(listening["url"]), "it serves, and so minds SIGTERM")
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(30)


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def ignores_hangups(pid: int) -> bool:
    """Or has something that is called at one."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigIgn", "SigCgt"))]
    return any(mask & 1 << (signal.SIGHUP - 1) for mask in masks)


@pytest.mark.slow
def test_a_certificate_that_is_missing_is_named(configuration: Path) -> None:
    said = refused(configuration, SERVER__TLS__CERTIFICATE="/nowhere/tls.crt", SERVER__TLS__KEY="/nowhere/tls.key")
    reason = "/nowhere/tls.crt cannot be read (No such file or directory)"
    assert f"imagegate: IMAGEGATE_SERVER__TLS__CERTIFICATE: {reason}\n" == said


@pytest.mark.slow
def test_a_key_with_a_passphrase_is_refused_and_not_asked_for(configuration: Path) -> None:
    files = certify(configuration.parent, passphrase=PASSPHRASE)
    said = refused(configuration, **tls(files))
    assert re.sub(r"FILE:\d+", "FILE", said).startswith(
        f"imagegate: FILE: server.tls: cannot load {files.certificate} and {files.key} ("
    )
    assert said.endswith("use PEM files of a certificate and its key, without a passphrase\n")


@pytest.mark.slow
def test_a_key_of_another_certificate_is_refused(configuration: Path) -> None:
    (configuration.parent / "other").mkdir()
    files, other = certify(configuration.parent), certify(configuration.parent / "other")
    assert "(key values mismatch)" in refused(configuration, **tls(Files(files.certificate, other.key)))


def bearer() -> dict[str, str]:
    return {"authorization": f"Bearer {ADMIN_KEY}"}


def test_the_admin_api_is_on_its_own_port_alone(configuration: Path) -> None:
    port = free_port()
    own = f"http://127.0.0.1:{port}"
    with started(configuration, ADMIN__PORT=str(port)) as (_, url):
        paths = ("/admin/v1/tenants", "/v1/models", "/metrics", "/readyz", "/openapi.json", "/healthz")
        repaired = ("/models", "//v1/models", "//admin/v1/tenants", "/admin/v1/tenants/", "/v1/admin/v1/tenants")
        found = {path: (status(url, path), status(own, path)) for path in (*paths, *repaired)}
        asked = {"origin": "https://app.example", "access-control-request-method": "GET"}
        answers = [httpx.request(method, f"{own}/admin/v1/x", headers=asked) for method in ("GET", "OPTIONS")]
        answers.append(httpx.options(f"{own}/v1/models", headers=asked))
    assert [] == [name for answer in answers for name in answer.headers if name.startswith("access-control-")]
    assert {
        "/admin/v1/tenants": (404, 200),
        "/v1/models": (401, 404),
        "/metrics": (200, 404),
        "/readyz": (200, 200),
        "/openapi.json": (200, 404),
        "/healthz": (200, 200),
        "/models": (401, 404),
        "//v1/models": (401, 404),
        "//admin/v1/tenants": (404, 404),
        "/admin/v1/tenants/": (404, 404),
        "/v1/admin/v1/tenants": (404, 404),
    } == found


def status(url: str, path: str) -> int:
    return httpx.get(f"{url}{path}", headers=bearer()).status_code


def test_a_host_header_does_not_lead_to_the_admin_port(configuration: Path) -> None:
    port = free_port()
    with started(configuration, ADMIN__PORT=str(port)) as (_, url):
        headers = bearer() | {"host": f"127.0.0.1:{port}", "x-forwarded-port": str(port)}
        assert 404 == httpx.get(f"{url}/admin/v1/tenants", headers=headers).status_code


@pytest.mark.slow
def test_a_command_says_when_the_admin_api_is_elsewhere(configuration: Path) -> None:
    with started(configuration, ADMIN__PORT=str(free_port())) as (_, url):
        line = [sys.executable, "-m", "gateway", "tenant", "list", "--url", url, "--admin-key", ADMIN_KEY]
        ended = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    hint = f"{url} has no admin API; use the port of [admin] port in --url"
    assert (1, f"imagegate: {hint}\n") == (ended.returncode, ended.stderr)


@pytest.mark.slow
def test_two_listeners_on_one_port_are_refused(configuration: Path) -> None:
    said = refused(configuration, ADMIN__PORT="9464", METRICS__PORT="9464")
    assert "imagegate: IMAGEGATE_ADMIN__PORT: 9464 is already metrics.port; choose another\n" == said


@pytest.mark.slow
@pytest.mark.parametrize("table", ["admin", "metrics"])
def test_the_gateway_s_own_port_is_refused_for_another_listener(configuration: Path, table: str) -> None:
    said = refused(configuration, SERVER__PORT="9470", **{f"{table.upper()}__PORT": "9470"})
    reason = "9470 is already server.port; choose another, or 0 to share it"
    assert f"imagegate: IMAGEGATE_{table.upper()}__PORT: {reason}\n" == said


@pytest.mark.slow
def test_metrics_are_told_until_the_last_request_is_done(
    tmp_path: Path, redis_url: str, slow_simulator: Simulator
) -> None:
    """Whoever is draining still counts."""
    port = free_port()
    configuration = write_configuration(tmp_path, redis_url, slow_simulator.url, 5, "[server]\nshutdown_delay_s = 0\n")
    with started(configuration, METRICS__PORT=str(port)) as (process, url):
        running = Generating(url, new_key(url))
        wait_until(lambda: in_flight(port) == 1, "the request is under way")
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_open(url), "nobody new gets in")
        assert 1 == in_flight(port)
        assert 200 == running.answer().status_code


def in_flight(port: int) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("imagegate_upstream_calls_in_flight{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def is_open(url: str) -> bool:
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), 10).close()
    except OSError:
        return False
    return True


def client_of(configuration: Path, forwarded: Mapping[str, str], **settings: str) -> object:
    """The address that the log gives a request."""
    with started(configuration, LOGS__CLIENT_ADDRESS="true", **settings) as (_, url):
        httpx.get(f"{url}/v1/models", headers=forwarded)
    return next(line["client"] for line in log_of(configuration) if line.get("route") == "/v1/models")


def test_a_forwarded_address_is_not_believed_by_default(configuration: Path) -> None:
    assert "127.0.0.1" == client_of(configuration, {"x-forwarded-for": HOP})


def test_a_trusted_proxy_is_believed(configuration: Path) -> None:
    given = {"x-forwarded-for": HOP}
    assert HOP == client_of(configuration, given, SERVER__TRUSTED_PROXIES='["127.0.0.0/8"]')


def test_what_a_client_forges_before_a_trusted_proxy_is_not_believed(configuration: Path) -> None:
    """Each proxy adds at the end whom it saw: the last one that is not ours is the client."""
    given = {"x-forwarded-for": f"198.51.100.1, {HOP}, 10.1.2.3"}
    trusted = '["127.0.0.1", "10.0.0.0/8"]'
    assert HOP == client_of(configuration, given, SERVER__TRUSTED_PROXIES=trusted)


@pytest.mark.slow
def test_a_network_that_is_none_is_named(configuration: Path) -> None:
    said = refused(configuration, SERVER__TRUSTED_PROXIES='["10.0.0.1/8"]')
    reason = "10.0.0.1/8 has host bits set; expected addresses or networks, as '10.0.0.0/8'"
    assert f"imagegate: IMAGEGATE_SERVER__TRUSTED_PROXIES: server.trusted_proxies[0]: {reason}\n" == said
