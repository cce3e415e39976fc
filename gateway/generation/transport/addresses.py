"""Public addresses, by a table of this file: Python's `ipaddress` changes from version to version.

Sources: IANA's special-purpose registries of IPv4 and IPv6
(https://www.iana.org/assignments/iana-ipv4-special-registry,
https://www.iana.org/assignments/iana-ipv6-special-registry), read in 2025. All their ranges are refused, including
globally reachable ones: none holds a web server.
"""

import errno
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

from aiohttp import ThreadedResolver
from aiohttp.abc import ResolveResult

_IPV4_REFUSED: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this network
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' NAT, Alibaba's metadata
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's host agent, in no registry
            "169.254.0.0/16",  # link-local, metadata of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments, Oracle's metadata
            "192.0.2.0/24",  # documentation
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "192.175.48.0/24",  # AS112
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, broadcast
        ),
    )
)
_IPV6_GLOBAL: Final = IPv6Network("2000::/3")
"""Global unicast. Outside: loopback, local, multicast, 64:ff9b:1::/48, 5f00::/16, ::a.b.c.d, ::ffff:0:a.b.c.d."""
_IPV6_REFUSED: Final = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocol assignments, among them Teredo, benchmarks and ORCHID
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "2620:4f:8000::/48",  # AS112
            "3fff::/20",  # documentation
        ),
    )
)
_EMBEDDING: Final = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
"""IPv4-mapped and NAT64's well-known prefix: packets go to the IPv4 address in the last 32 bits."""


def is_public_name(host: str) -> bool:
    """Returns False for literal addresses that are not public. Names are checked when they resolve."""
    try:
        ip_address(host)
    except ValueError:
        return True
    return is_public_address(host)


def is_public_address(address: str) -> bool:
    """Raises: ValueError for an invalid address."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if not any(ip in network for network in _EMBEDDING):
            return ip in _IPV6_GLOBAL and not any(ip in network for network in _IPV6_REFUSED)
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    return not any(ip in network for network in _IPV4_REFUSED)


class PublicResolver(ThreadedResolver):
    """Resolves names to public addresses only, at the time of each connection."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        try:
            found = await super().resolve(host, port, family)
        except UnicodeError as error:
            raise OSError(f"{host[:80]} is not a host name") from error
        public = [result for result in found if is_public_address(result["host"])]
        if not public:
            raise OSError(errno.EADDRNOTAVAIL, f"{host} has no public address")  # aiohttp shows the second
        return public
