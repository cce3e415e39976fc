"""Listening sockets and their addresses."""

import socket
from typing import Final

from gateway.config import Admin, Metrics, Settings
from gateway.server import StartError

_KERNEL_UNSENT_BYTES: Final = 256 * 1024
"""Limit on response bytes that the kernel buffers beyond those in flight: enough to send at any speed."""


def url_of(host: str, port: int, scheme: str = "http") -> str:
    """The URL at which this machine reaches a listener."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared
    return f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"


def bind(host: str, port: int, hint: str = "", option: str = "--port") -> socket.socket:
    """A bound socket. `hint` explains how to set `option`. Raises: StartError."""
    try:
        return listen(host, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", error)
        message = f"cannot listen on {host}:{port} ({reason}); choose another with {option} {hint}"
        raise StartError(message.rstrip()) from error


def bind_own_ports(settings: Settings, public_port: int) -> list[socket.socket]:
    """Binds the ports of the admin API and the metrics, which every worker serves. Raises: StartError."""
    listeners = []
    for name, table in own_ports(settings).items():
        if table.port == public_port:
            raise StartError(f"{name}.port: {table.port} is already server.port; choose another, or 0 to share it")
        hint = f"or IMAGEGATE_{name.upper()}__PORT; 0 shares the gateway's own port"
        listeners.append(bind(table.host, table.port, hint, f"`port` in [{name}]"))
    return listeners


def own_ports(settings: Settings) -> dict[str, Admin | Metrics]:
    """The settings tables that have a port of their own, by name."""
    tables: dict[str, Admin | Metrics] = {"admin": settings.admin, "metrics": settings.metrics}
    return {name: table for name, table in tables.items() if table.port}


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises: OSError, OverflowError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit it. Without it a response waits 40 ms between its head and its body (Nagle's
    # algorithm against delayed acknowledgements): event loops set it only on sockets that they create themselves.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Inherited too. The kernel would buffer up to 4 MB of responses for each client that reads none, which no limit of
    # the process counts.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _KERNEL_UNSENT_BYTES)
    try:
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener
