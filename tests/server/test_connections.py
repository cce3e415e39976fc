"""Which connection is refused and which closed, on real sockets."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network

import pytest

from gateway.server.config import Bounds
from gateway.server.connections import Action, Bound, Connection, Connections


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def accept(sockets: ExitStack, connections: Connections, address: str) -> tuple[Connection | None, socket.socket]:
    """A connection from an address, and its client."""
    client, accepted = socket.socketpair()
    for one in (client, accepted):
        sockets.enter_context(one)
    client.setblocking(False)
    return connections.admit(accepted, address), client


def is_open(client: socket.socket) -> bool:
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True


def test_ipv6_addresses_count_by_network_and_mapped_ones_as_ipv4(sockets: ExitStack) -> None:
    connections = Connections(Bounds(in_all=10, per_address=1))
    addresses = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.1", "192.0.2.1"]
    clients = [accept(sockets, connections, address)[1] for address in addresses]
    assert [False, True, True, False, True] == [is_open(client) for client in clients]


@pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1"])
def test_exempt_networks_are_bounded_in_all_alone(sockets: ExitStack, address: str) -> None:
    connections = Connections(Bounds(in_all=3, per_address=1, proxies=(ip_network("192.0.2.0/24"),)))
    clients = [accept(sockets, connections, address)[1] for _ in range(4)]
    assert [False, True, True, True] == [is_open(client) for client in clients]


def test_a_place_is_given_back_once(sockets: ExitStack) -> None:
    noted: list[tuple[Bound, Action]] = []
    connections = Connections(Bounds(in_all=1), lambda bound, action: noted.append((bound, action)))
    first, _ = accept(sockets, connections, "192.0.2.1")
    assert first
    first.update(is_idle=False, is_unread=False)
    refused, client = accept(sockets, connections, "192.0.2.2")
    assert (None, False) == (refused, is_open(client))
    first.close()
    first.close()
    second, _ = accept(sockets, connections, "192.0.2.2")
    assert second
    second.update(is_idle=False, is_unread=False)
    first.update(is_idle=True, is_unread=False)
    first.update(is_idle=True, is_unread=False, held_bytes=5000)
    assert None is accept(sockets, connections, "192.0.2.1")[0]
    assert [("process", "refused")] * 2 == noted


def test_of_unfinished_heads_the_oldest_are_closed_and_small_ones_not_counted(sockets: ExitStack) -> None:
    connections = Connections(Bounds(head_bytes=10_000))
    opened = [accept(sockets, connections, f"192.0.2.{number}") for number in range(4)]
    for connection, _ in opened:
        assert connection
        held_bytes = 1000 if connection is opened[0][0] else 4000
        connection.update(is_idle=True, is_unread=False, held_bytes=held_bytes)
    assert [True, False, True, True] == [is_open(client) for _, client in opened]
