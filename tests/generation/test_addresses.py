"""Every range of IANA's special-purpose registries, and what else leads inside, is refused on every Python."""

from ipaddress import ip_network

import pytest

from gateway.generation.transport.addresses import is_public_address, is_public_name

SPECIAL = """
0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.0.0/29
192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24
192.88.99.0/24 192.88.99.2/32 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4
255.255.255.255/32
::1/128 ::/128 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32 2001:1::1/128 2001:1::2/128 2001:1::3/128
2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28 2001:30::/28 2001:db8::/32 2002::/16
2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10
"""
"""IANA's registries; ::ffff:0:0/96 and 64:ff9b::/96 are judged by what they hold."""
OTHERS = """
168.63.129.16/32 192.0.0.192/32 100.100.100.200/32 169.254.169.254/32 224.0.0.0/4 239.255.255.255/32
fd00:ec2::254/128 fec0::/10 ff00::/8 ::/96 ::ffff:0:0:0/96 4000::/3 6000::/3 8000::/1
"""
"""Metadata and agents of clouds, multicast, old forms, what IANA has not given out."""


@pytest.mark.parametrize("line", (SPECIAL + OTHERS).split())
def test_a_special_range_is_refused_from_its_first_address_to_its_last(line: str) -> None:
    network = ip_network(line)
    for address in (network[0], network[network.num_addresses // 2], network[-1]):
        assert not is_public_address(str(address))
        assert not is_public_name(str(address))


@pytest.mark.parametrize("inner", ["127.0.0.1", "10.0.0.1", "192.0.0.192", "168.63.129.16", "169.254.169.254"])
@pytest.mark.parametrize(
    "form", ["::ffff:{}", "::ffff:0:{}", "::{}", "64:ff9b::{}", "64:ff9b:1::{}", "2002:{6to4}::1", "2001:0:{6to4}::1"]
)
def test_an_address_that_holds_a_special_one_is_refused(form: str, inner: str) -> None:
    first, second, third, fourth = map(int, inner.split("."))
    halves = f"{first << 8 | second:x}:{third << 8 | fourth:x}"
    assert not is_public_address(form.replace("{6to4}", halves).replace("{}", inner))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "47.88.1.2",
        "100.63.255.255",
        "100.128.0.0",
        "168.63.129.15",
        "168.63.129.17",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2003::1",
        "2400:3200::1",
        "2606:4700::1111",
        "2620:4f:8001::1",
        "3ffe:ffff::1",
        "2001:4860:4860::8888%eth0",
    ],
)
def test_an_address_beside_the_special_ranges_is_public(address: str) -> None:
    assert is_public_address(address)


def test_a_name_is_judged_when_it_resolves() -> None:
    assert is_public_name("localhost")
