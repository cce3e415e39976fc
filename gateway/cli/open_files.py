"""How many connections fit below the number of files that this process may open (`ulimit -Hn`)."""

import resource
import sys
from dataclasses import dataclass
from typing import Final

from gateway.settings import Settings

_FILES: Final = 128
"""Connections to Redis (32 for calls, some for channels), listeners, the log, the journal, libraries."""
_FILES_A_CALL: Final = 2
"""The connection of an upstream call, and of an image that its response links to."""
_OWN_PORT_CONNECTIONS: Final = 64
"""On the port of the admin API, and on that of the metrics."""
_OWN_PORTS: Final = 2


@dataclass(frozen=True, slots=True)
class Room:
    """Of one process."""

    files: int
    """The hard limit, to which `allow_files` raises the soft one."""
    connections: int
    own_port_connections: int
    wanted_files: int
    """The limit that all configured connections fit below."""


def find_room(settings: Settings) -> Room:
    """The reserve is for Redis, upstream calls and operators' ports; at most half, so that clients are served too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    calls = sum(account.max_concurrency for upstream in settings.upstreams for account in upstream.accounts)
    wanted = _FILES + _OWN_PORTS * _OWN_PORT_CONNECTIONS + _FILES_A_CALL * calls
    reserve = min(wanted, files // 2)
    most = settings.server.max_connections
    return Room(
        files,
        max(min(most, files - reserve), 1),
        max(min(_OWN_PORT_CONNECTIONS, reserve // 4), 1),
        most + min(wanted, most),
    )


def allow_files(room: Room) -> None:
    """Raises the soft limit of this process and its children as far as it is wanted; it never lowers it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in {hard, resource.RLIM_INFINITY} and soft < room.wanted_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(room.files, room.wanted_files), hard))
