"""`[alerts]`: what is accepted, and what each mistake is told."""

from pathlib import Path
from typing import Any

import pytest

from gateway.config import SettingsError, from_document
from gateway.config.alerts import AlertConfig
from gateway.config.resolve import read_config, resolve
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
        ({"endpoints": [SIGNED, SIGNED]}, "alerts.endpoints[1].name: duplicate name 'ops'"),
        ({"endpoints": [{"name": "x", "url": HOOK}]}, "alerts.endpoints[0]: a webhook needs a secret that signs it"),
        ({"endpoints": [SIGNED | {"channel": "slack"}]}, "alerts.endpoints[0]: only a webhook is signed"),
        ({"endpoints": [SIGNED | {"secret": {"env": "WORD"}}]}, "[0].secret: expected 'whsec_' and 24 to 64 bytes"),
        ({"endpoints": [SIGNED | {"secret": {"env": "NONE"}}]}, "the environment variable NONE is not set"),
        (
            {"endpoints": [SIGNED | {"events": ["quotas.*"]}]},
            "[0].events: no event matches 'quotas.*'; see docs/events.md",
        ),
        ({"endpoints": [SIGNED | {"events": []}]}, "alerts.endpoints[0].events"),
        ({"endpoints": [SIGNED | {"url": "https://a:b@hooks.example.com/"}]}, "[0].url: expected an https:// URL"),
        ({"endpoints": [SIGNED | {"url": "ftp://hooks.example.com/"}]}, "[0].url: expected an https:// URL"),
        ({"endpoints": [SIGNED | {"channel": "email"}]}, "[0].url: an e-mail address is mailto:NAME@HOST"),
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


def test_all_mistakes_are_reported_at_once_each_with_its_line(tmp_path: Path) -> None:
    text = """\
[redis]
url = "redis://localhost"
[[upstreams]]
name = "sim"
provider = "minimax"
base_url = "http://127.0.0.1:1"
accounts = [{ name = "main", keys = [{ name = "one", secret = { env = "KEY" } }] }]
[[models]]
id = "image-01"
price_per_image_usd = "0.01"
targets = [{ upstream = "sim", model = "image-01" }]
[alerts.smtp]
host = "smtp.example.com"
from = "gate"
[[alerts.endpoints]]
name = "broken"
url = { env = "CHAT", envv = "x" }
channel = "slack"
[[alerts.endpoints]]
name = "ops"
url = "mailto:jo@example.com"
events = ["quotas.*"]
[[alerts.endpoints]]
name = "ops"
url = "https://hooks.example.com/x"
"""
    path = tmp_path / "imagegate.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_config(str(path), {"KEY": "a-provider-key", "CHAT": HOOK})
    found = str(caught.value).replace(f"{path}:", "").splitlines()
    assert [
        '14: alerts.smtp.from: expected an address, as "Gateway <imagegate@example.com>"',
        "17: alerts.endpoints[0].url: unknown setting; did you mean `env`?",
        "22: alerts.endpoints[1].events: no event matches 'quotas.*'; see docs/events.md",
        "23: alerts.endpoints[2]: a webhook needs a secret that signs it; set secret = { env = ... }, or channel",
        "24: alerts.endpoints[2].name: duplicate name 'ops', as alerts.endpoints[1].name has; each name must be unique",
    ] == found


def test_variables_set_what_is_inside_alerts() -> None:
    configured = document("redis://localhost", upstream("sim", "minimax", "http://127.0.0.1:1"))
    configured["alerts"] = {"smtp": SMTP, "endpoints": [{"name": "chat", "channel": "slack"}]}
    environ = environment(configured) | {
        "IMAGEGATE_ALERTS__SMTP__FROM": "other@example.com",
        "IMAGEGATE_ALERTS__ENDPOINTS__0__URL__ENV": "CHAT",
        "CHAT": f"{HOOK}/T0/B0\n",
    }
    found = resolve(from_document(configured, environ, "test.toml"), environ).alerts
    assert [f"{HOOK}/T0/B0"] == [endpoint.url for endpoint in found.endpoints]
    assert found.mail is not None
    assert "other@example.com" == found.mail.sender


def test_a_proxy_that_cannot_be_used_is_refused_with_the_endpoint_that_needs_it() -> None:
    configured = document("redis://localhost", upstream("sim", "minimax", "http://127.0.0.1:1"))
    configured["alerts"] = {"endpoints": [{"name": "chat", "url": HOOK, "channel": "slack"}]}
    environ = environment(configured) | {"HTTPS_PROXY": "socks5://proxy:1080"}
    with pytest.raises(SettingsError, match=r"alerts\.endpoints\[0\]\.url: HTTPS_PROXY: socks5:// proxies are not"):
        resolve(from_document(configured, environ, "test.toml"), environ)
    environ["NO_PROXY"] = "example.com"
    assert 1 == len(resolve(from_document(configured, environ, "test.toml"), environ).alerts.endpoints)
