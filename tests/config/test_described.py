"""What administrators see of the settings in force: all of them, where each comes from, and no secret."""

import json
from typing import Any, Final

import msgspec

from gateway.app.reload import RELOADED
from gateway.config import from_document
from gateway.config.described import ConfigInForce
from gateway.config.resolve import Config, resolve
from tests.support.commands import run
from tests.support.harness import ADMIN_KEY, Gateway, document, environment, upstream
from tests.support.openapi import SCHEMAS, conform

SECRETS: Final = {
    "REDIS": "canary-of-redis",
    "PEPPER": "0123456789canarypepper",
    "SMTP": "canary-of-smtp",
    "ONE": "0123456789abcdefcanary0123456789",
    "HOOK": "https://hooks.slack.com/services/canaryhook",
    "ADMIN_TWO": "canary-second-admin-9a7b5c",
}


def configured(environ: dict[str, str], **tables: object) -> Config:
    described: dict[str, Any] = document(
        "rediss://user:canary%2Fpw@localhost:1/0", upstream("a", "minimax", "http://127.0.0.1:1")
    )
    described |= tables
    held = environment(described) | SECRETS | environ
    return resolve(from_document(described, held, "gate.toml"), held)


def shown(config: Config, latest: Config | None = None) -> dict[str, dict[str, Any]]:
    in_force = ConfigInForce(config, frozenset(RELOADED), latest)
    return {str(row["setting"]): row for row in json.loads(msgspec.json.encode(in_force.describe()))}


def test_every_setting_has_its_value_its_default_and_what_set_it() -> None:
    environ = {"IMAGEGATE_SERVER__PORT": "9090", "IMAGEGATE_UPSTREAMS__0__MAX_WAIT_S": "7", "IMAGEGATE_LOGS__LEVEL": ""}
    found = shown(configured(environ, requests={"deadline_s": 100}))
    port = found["server.port"]
    assert (9090, 8080, "environment", "IMAGEGATE_SERVER__PORT", True) == tuple(
        port[name] for name in ("value", "default", "source", "variable", "needs_restart")
    )
    wait = found["upstreams[0].max_wait_s"]
    assert (7, "environment", False) == (wait["value"], wait["source"], wait["needs_restart"])
    assert (100, "file") == (found["requests.deadline_s"]["value"], found["requests.deadline_s"]["source"])
    assert ("info", "default") == (found["logs.level"]["value"], found["logs.level"]["source"])
    assert ("a", None, "file") == tuple(found["upstreams[0].name"][name] for name in ("value", "default", "source"))
    assert "models[0].targets[0].upstream" in found


def test_no_secret_is_shown() -> None:
    config = configured(
        {},
        api_keys={"hash_pepper": {"env": "PEPPER"}},
        storage={"url": "file:///tmp/x", "signing_keys": [{"env": "ONE"}]},
        admin={"key": {"env": "ADMIN_KEY"}, "keys": [{"name": "two", "secret": {"env": "ADMIN_TWO"}}]},
        alerts={
            "smtp": {"host": "h", "from": "a@b.c", "username": "u", "password": {"env": "SMTP"}},
            "endpoints": [
                {
                    "name": "slack",
                    "url": "https://hooks.slack.com/services/canaryplain",
                    "events": ["*"],
                    "channel": "slack",
                },
                {"name": "other", "url": {"env": "HOOK"}, "events": ["*"], "channel": "slack"},
            ],
        },
    )
    found = shown(config)
    assert "canary" not in json.dumps(found)
    assert "rediss://***@localhost:1/0" == found["redis.url"]["value"]
    assert "https://hooks.slack.com/***" == found["alerts.endpoints[0].url"]["value"]
    assert {"env": "HOOK"} == found["alerts.endpoints[1].url"]["value"]
    [key] = config.upstreams.pools[0].accounts[0].keys
    secret = found["upstreams[0].accounts[0].keys[0].secret"]["value"]
    assert key.secret.fingerprint == secret["fingerprint"]
    assert {"env": "PEPPER"}.items() < found["api_keys.hash_pepper"]["value"].items()
    assert {"env", "fingerprint"} == set(found["storage.signing_keys[0]"]["value"])
    assert {"env": "ADMIN_TWO"} == found["admin.keys[0].secret"]["value"]
    assert {"env": "SMTP"} == found["alerts.smtp.password"]["value"]


def test_after_a_reload_only_what_it_applies_is_new() -> None:
    started = configured({})
    latest = configured({"IMAGEGATE_UPSTREAMS__0__MAX_WAIT_S": "9"}, requests={"deadline_s": 100})
    found = shown(started, latest)
    assert (9, 300) == (found["upstreams[0].max_wait_s"]["value"], found["requests.deadline_s"]["value"])


def test_only_an_administrator_reads_it(gateway: Gateway) -> None:
    answer = gateway.admin("GET", "/configuration").json()
    conform(answer, SCHEMAS["Configuration"], "Configuration")
    printed = run(
        "config", "show", "--changed", "--setting", "upstreams", "--url", gateway.url, "--admin-key", ADMIN_KEY
    )
    assert "upstreams[0].base_url" in printed.stdout
    assert "server.host" not in printed.stdout
