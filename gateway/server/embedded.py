"""The embedded Redis of a gateway: started with it, and restarted when it dies."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from gateway.config import Settings
from gateway.redis.embedded import EmbeddedRedis, default_directory

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
    """Starts the server, restarts it when it dies, and stops it at the end. Raises: EmbeddedError."""
    is_over = threading.Event()
    watcher = threading.Thread(target=_watch, args=[embedded, is_over], daemon=True)
    try:
        embedded.start()
        watcher.start()
        yield
    finally:
        is_over.set()
        if watcher.ident:
            watcher.join()
        embedded.stop()


def _watch(embedded: EmbeddedRedis, is_over: threading.Event) -> None:
    """Restarts the server when it has died. Each failure is logged once."""
    is_down = is_logged = False
    while not is_over.wait(_POLL_S):
        try:
            if embedded.own() and not is_down:
                remedy = "it is restarted automatically; if that fails, see its redis.log"
                _LOG.warning("embedded_redis_exited", remedy=remedy)
                is_down = True
        except (OSError, subprocess.SubprocessError) as error:
            if not is_logged:
                _LOG.error("embedded_redis_start_failed", detail=str(error))
            is_logged = True
        if is_down and embedded.answers():
            _LOG.info("embedded_redis_recovered")
            is_down = is_logged = False
