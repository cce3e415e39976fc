"""`[[tenants]]` in the whole program: there when it serves, taken over at SIGHUP, back when Redis lost its memory."""

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from gateway.domain.tenants import digest, key_id
from gateway.tenants.authentication import generate_api_key
from tests.support.harness import Simulator, admin, wait_until
from tests.support.processes import EACH_OPTIONS, started, write_configuration

pytestmark = pytest.mark.slow

FIRST, SECOND = generate_api_key(), generate_api_key()


def tenant(*secrets: str, more: str = "") -> str:
    keys = [f'[[tenants.keys]]\nhash = "{key_id(secret)}.{digest(secret)}"\n' for secret in secrets]
    return f'\n[[tenants]]\nname = "acme"\n{more}\n{"".join(keys)}'


def status_of(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code


def events(configuration: Path) -> list[dict[str, Any]]:
    """What every gateway of a configuration has logged."""
    text = "".join(log.read_text() for log in configuration.parent.glob("*.log"))
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def told(configuration: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in events(configuration) if line["event"] == event]


@pytest.fixture
def configuration(tmp_path: Path, redis_url: str, simulator: Simulator) -> Path:
    return write_configuration(tmp_path, redis_url, simulator.url, more=tenant(FIRST))


def rewrite(configuration: Path, old: str, new: str) -> None:
    text = configuration.read_text()
    assert old in text
    configuration.write_text(text.replace(old, new))


@EACH_OPTIONS
def test_a_declared_key_works_and_a_reload_changes_it(configuration: Path, options: tuple[str, ...]) -> None:
    with started(configuration, *options) as (process, url):
        assert [200, 401] == [status_of(url, key) for key in (FIRST, SECOND)]
        admin(url, "POST", "/tenants", {"name": "by-hand"})
        rewrite(configuration, tenant(FIRST), tenant(SECOND, more="limits = { requests_per_minute = 0 }"))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: [status_of(url, key) for key in (FIRST, SECOND)] == [401, 200], "it is taken over")
        body = {"prompt": "x"}
        refused = httpx.post(f"{url}/v1/images/generations", json=body, headers={"authorization": f"Bearer {SECOND}"})
        assert 429 == refused.status_code
        entries = admin(url, "GET", "/audit").json()["data"]
        assert ["key.revoke", "key.create", "tenant.update", "tenant.create", "key.create", "tenant.create"] == [
            entry["action"] for entry in entries
        ]
        assert {"configuration", "admin"} == {entry["actor"] for entry in entries}
        wait_until(lambda: len(told(configuration, "config_reloaded")) == 1, "the log tells it")
    assert [] == told(configuration, "settings_require_restart")


@EACH_OPTIONS
def test_a_wrong_file_is_logged_and_the_old_stays(configuration: Path, options: tuple[str, ...]) -> None:
    before = configuration.read_text()
    with started(configuration, *options) as (process, url):
        for number, (old, new, words) in enumerate(
            (
                ("[[tenants]]", "[[tenants]", ("TOML",)),
                ('name = "acme"', 'name = "acme"\nmodels = ["nope"]', ("tenants[0].models[0]", "nope")),
                ('hash = "', 'hash = "x', ("hash", "imagegate key hash")),
            )
        ):
            configuration.write_text(before)
            rewrite(configuration, old, new)
            process.send_signal(signal.SIGHUP)
            refused = wait_for(configuration, "config_reload_rejected", number + 1)
            assert [] == [word for word in (str(configuration), *words) if word not in refused["detail"]]
            assert 200 == status_of(url, FIRST)
        configuration.write_text(before)
        rewrite(configuration, tenant(FIRST), tenant(FIRST, SECOND))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: status_of(url, SECOND) == 200, "the mended file is taken over")


def wait_for(configuration: Path, event: str, count: int) -> dict[str, Any]:
    wait_until(lambda: len(told(configuration, event)) == count, f"{event} is logged")
    return told(configuration, event)[-1]


@EACH_OPTIONS
def test_the_log_says_which_settings_need_a_restart(configuration: Path, options: tuple[str, ...]) -> None:
    with started(configuration, *options) as (process, _):
        configuration.write_text(
            "[server]\nbody_timeout_s = 7\n[logs]\nformat = 'json'\nlevel = 'debug'\n" + configuration.read_text()
        )
        process.send_signal(signal.SIGHUP)
        assert ["server", "logs"] == wait_for(configuration, "settings_require_restart", 1)["settings"]


def test_declared_tenants_come_back_when_redis_lost_its_memory(configuration: Path, redis_url: str) -> None:
    with started(configuration) as (_, here), started(configuration) as (_, there):
        made = admin(here, "POST", "/tenants/acme/keys", {}).json()["key"]
        assert [200, 200] == [status_of(there, key) for key in (FIRST, made)]
        with redis.Redis.from_url(redis_url) as client:
            client.flushall()
        wait_until(lambda: status_of(here, FIRST) == status_of(there, FIRST) == 200, "the declared key works again")
        wait_until(lambda: status_of(there, made) == 401, "the other is gone")
        lost = wait_for(
            configuration, "redis_data_loss_detected", len(told(configuration, "redis_data_loss_detected")) or 1
        )
    assert "error" == lost["level"]
    assert [] == [word for word in ("admin API", "counters", "ledger") if word not in lost["lost"]]


def test_a_gateway_that_started_without_redis_declares_its_tenants_later(
    tmp_path: Path, simulator: Simulator, redis_url: str
) -> None:
    """The address leads nowhere at first: a link to the socket is put there while the gateway runs."""
    link = tmp_path / "later.sock"
    configuration = write_configuration(tmp_path, f"unix://{link}", simulator.url, more=tenant(FIRST))
    with started(configuration) as (_, url):
        assert 503 == status_of(url, FIRST)
        link.symlink_to(redis_url.removeprefix("unix://"))
        wait_until(lambda: status_of(url, FIRST) == 200, "the tenant is declared")
