"""The embedded Redis of a gateway: started with it, and restarted when it dies."""

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from gateway.settings import Settings
from gateway.stores.embedded import EmbeddedRedis, default_directory

_LOG = structlog.get_logger("imagegate.embedded")
_POLL_S: Final = 0.2
"""Requests are refused while the embedded server is down."""


def embedded_of(settings: Settings) -> EmbeddedRedis | None:
    """The embedded server of a configuration, not yet started; None if Redis is elsewhere."""
    if settings.redis.url != "embedded":
        return None
    directory = settings.redis.embedded_dir
    return EmbeddedRedis(Path(directory).expanduser().resolve() if directory else data_directory())


def data_directory() -> Path:
    """The directory of this user's data."""
    return default_directory(os.environ.get("HOME"), os.environ.get("XDG_DATA_HOME"))


@contextmanager
def running(embedded: EmbeddedRedis) -> Iterator[None]:
    """Starts the server and stops it at the end. Raises: EmbeddedError."""
    try:
        embedded.start()
        yield
    finally:
        embedded.stop()


class _Restarter:
    """Restarts the server when it has died. Each failure is logged once."""

    def __init__(self, embedded: EmbeddedRedis) -> None:
        self._embedded = embedded
        self._is_down = False
        self._is_logged = False

    def restart(self) -> None:
        try:
            if self._embedded.own() and not self._is_down:
                _LOG.warning(
                    "embedded_redis_died", remedy="it is started again; if it does not come, see its redis.log"
                )
                self._is_down = True
        except (OSError, subprocess.SubprocessError) as error:
            if not self._is_logged:
                _LOG.error("embedded_redis_cannot_be_started", detail=str(error))
            self._is_logged = True

    def check(self) -> None:
        """Blocks."""
        if self._is_down and self._embedded.answers():
            _LOG.info("embedded_redis_back")
            self._is_down = self._is_logged = False


async def watch_embedded(embedded: EmbeddedRedis) -> None:
    """Keeps the server of a single process running; runs until it is cancelled."""
    restarter = _Restarter(embedded)
    while True:
        await asyncio.sleep(_POLL_S)
        restarter.restart()  # not in a thread, which could start a server after the gateway has stopped it
        await asyncio.to_thread(restarter.check)


@contextmanager
def supervised(embedded: EmbeddedRedis) -> Iterator[None]:
    """Keeps the server of a supervisor running, which has no event loop."""
    is_over = threading.Event()

    def supervise() -> None:
        restarter = _Restarter(embedded)
        while not is_over.wait(_POLL_S):
            restarter.restart()
            restarter.check()

    thread = threading.Thread(target=supervise, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
