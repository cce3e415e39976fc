"""What `imagegate check` says of `[alerts]`, and that it sends nothing."""

from pathlib import Path
from typing import Any

import pytest

from gateway.app.alerts_check import check_alerts
from gateway.config import from_document
from gateway.config.resolve import resolve
from tests.support.certificates import certify
from tests.support.harness import document, environment, upstream
from tests.support.mailing import WORD, Mailbox, mail_server
from tests.support.proxying import proxying, with_tls
from tests.support.receiving import receiving
from tests.support.servers import free_port

pytestmark = pytest.mark.anyio
REMEDY = "check its URL and DNS, and whether this network needs a proxy (HTTPS_PROXY)"
TRUSTED = "[alerts] trusted_origins"
HOST = "alerts.internal"
"""Makes the certificate's subject another one than that of SSL_CERT_FILE in tests."""


async def found(
    alerts: dict[str, Any], tenants: list[dict[str, Any]] | None = None, *, ca_file: str = "", proxy: str = ""
) -> list[str]:
    configured = document("redis://localhost", upstream("sim", "minimax", "http://127.0.0.1:1"), alerts=alerts)
    configured |= {"tenants": tenants or []} | ({"requests": {"ca_file": ca_file}} if ca_file else {})
    environ = environment(configured) | {"WORD": WORD, "WRONG": "wrong", "HTTPS_PROXY": proxy}
    config = resolve(from_document(configured, environ, "test.toml"), environ)
    return [f"{result}: {subject}: {text}" for subject, result, text in await check_alerts(config)]


def slack(name: str, url: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "url": url, "channel": "slack", **fields}


async def test_endpoints_are_reached_and_get_nothing(tmp_path: Path) -> None:
    files, port = certify(tmp_path, HOST), free_port()
    with receiving() as receiver, with_tls(receiver.url.removesuffix("/hook"), files) as address, proxying() as proxy:
        endpoints = [
            slack("plain", receiver.url),
            slack("encrypted", f"https://{address}/"),
            slack("closed", f"http://127.0.0.1:{port}/"),
            slack("named", "https://hooks.example.com/x"),
        ]
        assert [
            "ok: alerts plain: reachable",
            "ok: alerts encrypted: reachable",
            f"warning: alerts closed: 127.0.0.1:{port}: Connect call failed ('127.0.0.1', {port}); {REMEDY}",
            f"ok: alerts named: through the proxy {proxy.url.removeprefix('http://')} (HTTPS_PROXY)",
        ] == await found({"endpoints": endpoints}, ca_file=str(files.certificate), proxy=proxy.url)
        [untrusted] = await found({"endpoints": endpoints[1:2]})
    assert f"warning: alerts encrypted: {address}: its certificate is not trusted (self-signed" in untrusted
    assert ([], []) == (receiver.received, proxy.requests)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("WORD", "ok: alerts.smtp: 127.0.0.1:{port} accepts the gateway"),
        ("WRONG", "warning: alerts.smtp: 127.0.0.1:{port}: the mail server refused: 5.7.8 Authentication credentials"),
    ],
)
async def test_the_mail_server_is_logged_in_to_without_a_message(tmp_path: Path, word: str, expected: str) -> None:
    files, mailbox = certify(tmp_path, HOST), Mailbox()
    async with mail_server(mailbox, files, authenticator=mailbox.log_in, auth_required=True) as port:
        smtp = {"host": "127.0.0.1", "port": port, "from": "gate@example.com", "username": "gate"}
        smtp["password"] = {"env": word}
        endpoint = {"name": "jo", "url": "mailto:jo@example.com"}
        by_mail, server = await found({"smtp": smtp, "endpoints": [endpoint]}, ca_file=str(files.certificate))
    assert "ok: alerts jo: by e-mail" == by_mail
    assert expected.format(port=port) in server
    assert ({b"gate"}, []) == ({user for user, _ in mailbox.logins}, mailbox.messages)


async def test_addresses_that_get_nothing_are_named() -> None:
    to = ["mailto:jo@example.com", "http://chat.example.com/x", "https://10.0.0.1/x", "https://chat.example.com/x"]
    with receiving() as receiver:
        alerts = {"endpoints": [slack("ops", receiver.url, tenant="acmee"), slack("all", receiver.url, tenant="acme")]}
        assert [
            "ok: alerts ops: reachable",
            "ok: alerts all: reachable",
            "warning: alerts ops: no [[tenants]] entry is named 'acmee'; correct `tenant`, unless a command created it",
            "warning: tenant acme: alerts.to[0]: e-mail needs a mail server; set [alerts.smtp] host and from",
            f"warning: tenant acme: alerts.to[1]: plain http is refused; use https, or add the origin to {TRUSTED}",
            f"warning: tenant acme: alerts.to[2]: the address is not public; if it must be used, add it to {TRUSTED}",
        ] == await found(alerts, [{"name": "acme", "alerts": {"to": to}}])
