"""One server, passwords and TLS."""

import asyncio
from pathlib import Path

import anyio
import pytest

from gateway.domain.accounts import make_secret
from gateway.domain.errors import GatewayError
from gateway.redis import PREFIX, Credentials, connect, execute, ping
from gateway.redis.call_guard import CALLS_MAX
from tests.support.asking import check_everything, connected, failure
from tests.support.harness import EACH_REDIS, REDIS_BINARIES
from tests.support.servers import Certificates, cluster_servers, find_tls_binary, make_certificates, tcp_server

pytestmark = pytest.mark.anyio

PASSWORD = "p@ss/w#rd"


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket."""
    return tmp_path_factory.mktemp("r")


@pytest.mark.parametrize("kind", EACH_REDIS)
@pytest.mark.parametrize("protocol", ["", "?protocol=2"])
async def test_one_server_does_everything(kind: str, directory: Path, protocol: str) -> None:
    with tcp_server(REDIS_BINARIES[kind], directory) as server:
        async with connected(server.url + protocol) as redis:
            await check_everything(redis)


@pytest.mark.parametrize("kind", EACH_REDIS)
async def test_the_password_comes_from_the_url_or_beside_it(kind: str, directory: Path) -> None:
    with tcp_server(REDIS_BINARIES[kind], directory, "--requirepass", PASSWORD) as server:
        for url, login in (
            (server.url, Credentials(None, make_secret(PASSWORD))),
            (server.url, Credentials("default", make_secret(PASSWORD))),
            (server.url.replace("//", "//:p%40ss%2Fw%23rd@"), Credentials()),
        ):
            async with connected(url, login) as redis:
                assert "" == await failure(redis)
        async with connected(server.url) as redis:
            assert "Authentication" in await failure(redis)


def test_two_passwords_are_refused() -> None:
    with pytest.raises(ValueError, match="use only one"):
        connect("redis://:hunter2@localhost", 1.0, Credentials(None, make_secret("hunter3")))


def test_a_password_for_sentinels_needs_sentinels() -> None:
    with pytest.raises(ValueError, match="sentinel"):
        connect("redis://localhost", 1.0, Credentials(sentinel_secret=make_secret("hunter3")))


@pytest.fixture(scope="module")
def tls_binary() -> str:
    found = find_tls_binary()
    if found is None:
        pytest.skip("no server here knows TLS: the packaged ones are built without it; install redis-server")
    return found


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("c"))


def test_a_certificate_that_cannot_be_read_is_told_at_once(certificates: Certificates) -> None:
    for path in ("/nowhere/ca.pem", certificates.key):
        with pytest.raises(ValueError, match="certificates"):
            connect(f"rediss://localhost?ssl_ca_certs={path}", 1.0)


async def test_a_server_with_tls_must_show_a_certificate_of_the_authority(
    tls_binary: str, directory: Path, certificates: Certificates
) -> None:
    with tcp_server(tls_binary, directory, *certificates.server_options) as server:
        url = f"rediss://localhost:{server.tls_port}/0"
        async with connected(f"{url}?ssl_ca_certs={certificates.authority}") as redis:
            await check_everything(redis)
        async with connected(url) as redis:
            assert "CERTIFICATE_VERIFY_FAILED" in await failure(redis)
        elsewhere = url.replace("localhost", "127.0.0.1")  # for which the certificate is not made out
        async with connected(f"{elsewhere}?ssl_ca_certs={certificates.authority}") as redis:
            assert "CERTIFICATE_VERIFY_FAILED" in await failure(redis)
        for option in ("ssl_check_hostname=no", "ssl_cert_reqs=none", "ssl_cert_reqs=CERT_NONE"):
            async with connected(f"{elsewhere}?ssl_ca_certs={certificates.authority}&{option}") as redis:
                assert "" == await failure(redis)


async def test_a_server_may_ask_the_gateway_for_a_certificate(
    tls_binary: str, directory: Path, certificates: Certificates
) -> None:
    with tcp_server(tls_binary, directory, *certificates.server_options, "--tls-auth-clients", "yes") as server:
        url = f"rediss://localhost:{server.tls_port}/0?ssl_ca_certs={certificates.authority}"
        async with connected(url) as redis:
            assert "" != await failure(redis)
        own = f"&ssl_certfile={certificates.certificate}&ssl_keyfile={certificates.key}"
        async with connected(url + own) as redis:
            assert "" == await failure(redis)


async def test_many_connections_with_tls_do_not_hold_up_the_program(
    tls_binary: str, directory: Path, certificates: Certificates
) -> None:
    """Certificates are read once: once for every connection, 32 of them would take more than the deadline."""
    with tcp_server(tls_binary, directory, *certificates.server_options) as server:
        authority = anyio.Path(directory / "authority.pem")
        await authority.write_bytes(await anyio.Path(certificates.authority).read_bytes())
        redis = connect(f"rediss://localhost:{server.tls_port}/0?ssl_ca_certs={authority}", 5.0)
        await authority.unlink()
        try:
            await asyncio.gather(*(ping(redis) for _ in range(200)))
        finally:
            await redis.aclose()


@pytest.mark.slow
async def test_a_cluster_with_tls_and_a_password_does_everything(
    tls_binary: str, directory: Path, certificates: Certificates
) -> None:
    options = (*certificates.server_options, "--tls-cluster", "yes", "--tls-replication", "yes")
    with cluster_servers(tls_binary, directory, *options, password=PASSWORD) as (_, nodes):
        url = f"rediss+cluster://localhost:{nodes[0].tls_port}?ssl_ca_certs={certificates.authority}"
        async with connected(f"{url}&ssl_check_hostname=no", Credentials(None, make_secret(PASSWORD))) as redis:
            await check_everything(redis)


@pytest.mark.parametrize("kind", EACH_REDIS)
async def test_a_master_that_is_demoted_is_left(kind: str, directory: Path) -> None:
    """Whoever stands behind its address next is connected to anew: idle connections lead to the old one."""
    with tcp_server(REDIS_BINARIES[kind], directory) as server:
        async with connected(server.url) as redis:
            await asyncio.gather(*(ping(redis) for _ in range(CALLS_MAX)))
            with server.client() as client:
                client.replicaof("127.0.0.1", 1)
                before = {int(each["id"]) for each in client.client_list(_type="normal")}
                with pytest.raises(GatewayError, match=r"READONLY|read only"):
                    await execute(redis, redis.sadd(f"{PREFIX}:tenants", "a"), int)
                await ping(redis)
                own = int(client.client_id())
                after = {int(each["id"]) for each in client.client_list(_type="normal")} - {own}
                client.replicaof("NO", "ONE")
            assert set() == after & before
            assert 1 == await execute(redis, redis.sadd(f"{PREFIX}:tenants", "a"), int)
