"""Limits of one client connection, and the number of connections that fit within `ulimit -Hn`."""

import resource
import sys
from dataclasses import dataclass
from typing import Final

from gateway.config import Settings

_FILES: Final = 128
"""File descriptors for Redis (32 for calls, some for channels), listeners, the log, the journal and libraries."""
_FILES_PER_CALL: Final = 2
"""The connection of an upstream call, and that of an image download."""
_OPERATOR_CONNECTIONS: Final = 64
"""Connections on the port of the admin API, and on that of the metrics."""
_OPERATOR_PORTS: Final = 2


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of one connection."""

    max_header_bytes: int = 64 * 1024
    """Request line and headers together: OpenAI's own limit (reference/openai-images.md 6.2)."""
    header_timeout_s: float = 30.0
    write_timeout_s: float = 300.0
    """For a full write buffer to be read, and for the rest of it once the connection closes."""
    fields_max: int = 256
    """Header fields of one request. Browsers send about 20; each costs more memory than its bytes."""
    pipelined_max: int = 32
    """Requests sent before the response to the first one. Common clients do not pipeline (RFC 9112 section 9.3.2)."""


@dataclass(frozen=True, slots=True)
class Room:
    """Open files and connections of one process."""

    files: int
    """The hard limit, to which `allow_files` raises the soft one."""
    connections: int
    own_port_connections: int
    wanted_files: int
    """The limit that all configured connections fit within."""


def find_room(settings: Settings) -> Room:
    """Reserves files for Redis, upstream calls and operators' ports: at most half, so that clients are served too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    calls = sum(account.max_concurrency for upstream in settings.upstreams for account in upstream.accounts)
    wanted = _FILES + _OPERATOR_PORTS * _OPERATOR_CONNECTIONS + _FILES_PER_CALL * calls
    reserve = min(wanted, files // 2)
    limit = settings.server.max_connections
    return Room(
        files,
        max(min(limit, files - reserve), 1),
        max(min(_OPERATOR_CONNECTIONS, reserve // 4), 1),
        limit + min(wanted, limit),
    )


def allow_files(room: Room) -> None:
    """Raises the soft limit of this process and its children as far as needed; never lowers it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft not in {hard, resource.RLIM_INFINITY} and soft < room.wanted_files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(room.files, room.wanted_files), hard))
