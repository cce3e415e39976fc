import pytest

from gateway.redis.client import Address, Topology, parse_address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", Address(Topology.SERVER, False, (("localhost", 6379),))),
        ("redis://localhost:6380/3", Address(Topology.SERVER, False, (("localhost", 6380),), db=3)),
        ("redis://h?db=4", Address(Topology.SERVER, False, (("h", 6379),), db=4)),
        ("redis://[::1]:6380", Address(Topology.SERVER, False, (("::1", 6380),))),
        ("redis://[::1]", Address(Topology.SERVER, False, (("::1", 6379),))),
        ("redis://:p%40ss@h", Address(Topology.SERVER, False, (("h", 6379),), password="p@ss")),
        ("redis://me:a:b@h", Address(Topology.SERVER, False, (("h", 6379),), username="me", password="a:b")),
        ("redis://h?protocol=2", Address(Topology.SERVER, False, (("h", 6379),), options={"protocol": "2"})),
        ("rediss://h", Address(Topology.SERVER, True, (("h", 6379),))),
        (
            "rediss://h:1/0?ssl_ca_certs=/a/b.pem",
            Address(Topology.SERVER, True, (("h", 1),), options={"ssl_ca_certs": "/a/b.pem"}),
        ),
        ("unix:///run/redis.sock", Address(Topology.SOCKET, False, path="/run/redis.sock")),
        ("unix:///run/a%20b?db=2", Address(Topology.SOCKET, False, path="/run/a b", db=2)),
        ("unix://me:x@/run/r", Address(Topology.SOCKET, False, path="/run/r", username="me", password="x")),
        ("redis+sentinel://a,b:1/m", Address(Topology.SENTINEL, False, (("a", 26379), ("b", 1)), master="m")),
        ("rediss+sentinel://a/m/2", Address(Topology.SENTINEL, True, (("a", 26379),), master="m", db=2)),
        ("redis+cluster://a,[::1]:7002", Address(Topology.CLUSTER, False, (("a", 6379), ("::1", 7002)))),
        ("rediss+cluster://a/0", Address(Topology.CLUSTER, True, (("a", 6379),))),
    ],
)
def test_a_url_is_taken_apart(url: str, expected: Address) -> None:
    assert expected == parse_address(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "unknown scheme"),
        ("localhost:6379", "unknown scheme"),
        ("http://hunter2", "unknown scheme"),
        ("redis:hunter2", "unknown scheme"),
        ("rediss+unix:///hunter2", "unknown scheme"),
        ("redis://", "no host"),
        ("redis:///0", "no host"),
        ("redis://:hunter2@", "no host"),
        ("redis://a,,b", "several hosts|no host"),
        ("redis://a,b", "several hosts"),
        ("redis+cluster://a,,b", "no host"),
        ("redis://localhost:hunter2/0", "a port"),
        ("redis://localhost:0", "a port"),
        ("redis://localhost:65536", "a port"),
        ("redis://:hunter2/x@localhost", "%2F"),
        ("redis://:hunter2?x@localhost", "%3F"),
        ("redis://me:12#hunter2@localhost", "%23"),
        ("redis://[hunter2", "well-formed"),
        ("redis://h/hunter2", "database"),
        ("redis://h/0/1", "database"),
        ("redis://h?db=-1", "database"),
        ("unix://", "path"),
        ("redis+sentinel://hunter2", "master"),
        ("redis+sentinel://a/m/hunter2", "database"),
        ("redis+cluster://a/1", "only the database 0"),
        ("redis://h?password=hunter2", "the only options"),
        ("redis://h?socket_timeout=60", "the only options"),
        ("redis://h?ssl_ca_certs=/hunter2", "rediss://"),
        ("redis://h?protocol=hunter2", "2 or 3"),
    ],
)
def test_what_is_wrong_with_a_url_is_told_without_repeating_it(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        parse_address(url)
    assert "hunter2" not in str(caught.value)


def test_a_password_is_not_printed() -> None:
    assert "hunter2" not in repr(parse_address("redis://:hunter2@h"))
