"""`[alerts]`: what is accepted, and what each mistake is told."""

from pathlib import Path
from typing import Any

import pytest

from gateway.config import SettingsError, from_document
from gateway.config.alerts import AlertConfig
from gateway.config.resolve import resolve
from gateway.events.endpoints import Channel
from tests.support.harness import document, environment, upstream
from tests.support.receiving import SECRET

HOOK = "https://hooks.example.com/x"
SIGNED = {"name": "ops", "url": HOOK, "secret": {"env": "HOOK_SECRET"}}
SMTP = {"host": "smtp.example.com", "from": "Gateway <gate@example.com>"}


def resolved(**alerts: Any) -> AlertConfig:
    configured = document("redis://localhost", upstream("sim", "minimax", "http://127.0.0.1:1"), alerts=alerts)
    environ = environment(configured) | {"HOOK_SECRET": SECRET, "CHAT": f"{HOOK}/T0/B0", "WORD": "hunter-2-hunter"}
    return resolve(from_document(configured, environ, "test.toml"), environ).alerts


def test_endpoints_of_each_channel_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("a-password")
    found = resolved(
        smtp=SMTP | {"username": "gate", "password": {"file": str(tmp_path / "word")}, "port": 465},
        endpoints=[
            SIGNED | {"events": ["batch.*"], "tenant": "acme"},
            {"name": "chat", "url": {"env": "CHAT"}, "channel": "slack"},
            {"name": "mail", "url": "mailto:jo@example.com"},
            {"name": "inside", "url": "http://10.0.0.1:8065/h", "channel": "slack"},
        ],
        trusted_origins=["http://chat.internal:8065"],
    )
    assert [Channel.WEBHOOK, Channel.SLACK, Channel.EMAIL, Channel.SLACK] == [one.channel for one in found.endpoints]
    ops, chat, _, inside = found.endpoints
    assert ("ops", "acme", ("batch.*",), [SECRET]) == (ops.id, ops.tenant, ops.event_types, ops.secrets(0))
    assert ("https://hooks.example.com/...", True) == (chat.shown_url, found.rules.check(inside.url))
    assert found.rules.check("http://chat.internal:8065/x")
    assert found.mail is not None
    assert ("Gateway <gate@example.com>", 465) == (found.mail.sender, found.mail.port)
    assert not any(secret in repr(found) for secret in (SECRET, "T0/B0", "a-password"))


@pytest.mark.parametrize(
    ("alerts", "message"),
    [
        ({"endpoints": [SIGNED, SIGNED]}, "alerts.endpoints: duplicate name 'ops'"),
        ({"endpoints": [{"name": "x", "url": HOOK}]}, "alerts.endpoints 'x': a webhook needs a secret that signs it"),
        ({"endpoints": [SIGNED | {"channel": "slack"}]}, "alerts.endpoints 'ops': only a webhook is signed"),
        ({"endpoints": [SIGNED | {"secret": {"env": "WORD"}}]}, "'ops': secret: expected 'whsec_' and 24 to 64 bytes"),
        ({"endpoints": [SIGNED | {"secret": {"env": "NONE"}}]}, "the environment variable NONE is not set"),
        ({"endpoints": [SIGNED | {"events": ["quotas.*"]}]}, "events: no event matches 'quotas.*'; see docs/events.md"),
        ({"endpoints": [SIGNED | {"events": []}]}, "alerts.endpoints[0].events"),
        ({"endpoints": [SIGNED | {"url": "https://a:b@hooks.example.com/"}]}, "'ops': url: expected an https:// URL"),
        ({"endpoints": [SIGNED | {"url": "ftp://hooks.example.com/"}]}, "'ops': url: expected an https:// URL"),
        ({"endpoints": [SIGNED | {"channel": "email"}]}, "'ops': url: an e-mail address is mailto:NAME@HOST"),
        ({"endpoints": [SIGNED | {"chanel": "slack"}]}, "unknown setting `chanel`; did you mean `channel`?"),
        ({"endpoints": [SIGNED | {"channel": "sms"}]}, "expected one of webhook, slack, email"),
        ({"endpoints": [SIGNED | {"url": 5}]}, "alerts.endpoints[0].url"),
        (
            {"endpoints": [{"name": "m", "url": "mailto:jo@example.com"}]},
            "e-mail needs a mail server; set [alerts.smtp]",
        ),
        ({"smtp": SMTP | {"username": "x"}}, "alerts.smtp: give username and password, or neither"),
        ({"smtp": {"host": "smtp.example.com"}}, "alerts.smtp: missing required field `from`"),
        ({"smtp": SMTP | {"from": "gate"}}, "alerts.smtp.from: expected an address"),
        (
            {"smtp": SMTP | {"username": "x", "password": {"env": "WORD"}, "starttls": False}},
            "alerts.smtp.starttls: false would send the password unencrypted",
        ),
        ({"smtp": SMTP | {"password": "hunter-2"}}, "never write the secret itself here"),
    ],
)
def test_each_mistake_names_its_place_and_remedy(alerts: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolved(**alerts)
    assert message in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("hunter-2", "a:b@"))
