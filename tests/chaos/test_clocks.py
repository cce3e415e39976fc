"""The stepped clock, on a real server under libfaketime."""

import time
from pathlib import Path
from typing import Any

import pytest
import redis

from chaos.clocks import SteppedClock
from chaos.environment import RedisServer

pytestmark = pytest.mark.anyio


async def test_the_scripts_of_a_server_see_each_step(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    if not server.clock.is_available:
        pytest.skip("libfaketime is not installed")
    await server.start()
    try:
        with redis.Redis(unix_socket_path=str(server.socket)) as client:
            for offset_s in (90, -90, 2, 0):
                server.clock.step(offset_s)
                deadline_s = time.monotonic() + 30
                while abs(_offset_s(client) - offset_s) > 1 and time.monotonic() < deadline_s:
                    pass
                assert offset_s == pytest.approx(_offset_s(client), abs=1)
    finally:
        server.kill()


def _offset_s(client: "redis.Redis") -> float:
    """What a script sees, less the real time."""
    seconds: Any = client.eval(
        "local now = redis.call('TIME') return now[1] .. '.' .. string.format('%06d', now[2])", 0
    )
    return float(seconds) - time.time()


def test_without_libfaketime_the_environment_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chaos.clocks._FOLDERS", (str(tmp_path),))
    clock = SteppedClock(tmp_path)
    assert not clock.is_available
    assert {} == clock.environ
