"""Company egress: proxies and certificate authorities."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.certificates import Files, certify
from tests.support.checking import check
from tests.support.commands import check_refused, run
from tests.support.harness import ADMIN_KEY, Gateway, Simulator
from tests.support.operators import Shows
from tests.support.proxying import HttpProxy, alerting, proxying, with_tls
from tests.support.servers import black_hole, free_port

NAME = "api.provider.example"
URL = f"https://{NAME}"


@dataclass
class Network:
    """A provider with a certificate of a private authority, which only a proxy can reach by name."""

    proxy: HttpProxy
    files: Files
    tls: str
    """Host and port of the provider."""
    plain: str

    @property
    def trusted(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self.files.certificate)}


@pytest.fixture
def network(tmp_path: Path, simulator: Simulator) -> Iterator[Network]:
    files = certify(tmp_path, NAME)
    with ExitStack() as stack:
        tls = stack.enter_context(with_tls(simulator.url, files))
        proxy = stack.enter_context(proxying({f"{NAME}:443": tls, f"{NAME}:80": simulator.url.removeprefix("http://")}))
        yield Network(proxy, files, tls, simulator.url.removeprefix("http://"))


WAYS = {
    "HTTPS_PROXY=http://PROXY": ({"HTTPS_PROXY": "http://PROXY"}, ""),
    "https_proxy=http://PROXY": ({"https_proxy": "http://PROXY"}, ""),
    "HTTPS_PROXY=PROXY": ({"HTTPS_PROXY": "PROXY"}, ""),
    "ALL_PROXY=http://PROXY": ({"ALL_PROXY": "http://PROXY"}, ""),
    "all_proxy=http://PROXY/": ({"all_proxy": "http://PROXY/"}, ""),
    "HTTPS_PROXY=http://PROXY NO_PROXY=other.example,10.0.0.0/8": (
        {"HTTPS_PROXY": "http://PROXY", "NO_PROXY": "other.example,10.0.0.0/8"},
        "",
    ),
    "HTTPS_PROXY=http://PROXY ALL_PROXY=socks5://127.0.0.1:1": (
        {"HTTPS_PROXY": "http://PROXY", "ALL_PROXY": "socks5://127.0.0.1:1"},
        "",
    ),
    'proxy = "http://PROXY"': ({}, 'proxy = "http://PROXY"'),
    'proxy = "http://PROXY" HTTPS_PROXY=http://127.0.0.1:1 NO_PROXY=*': (
        {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "*"},
        'proxy = "http://PROXY"',
    ),
}


@pytest.mark.parametrize("given", WAYS)
def test_key_checks_go_through_the_proxy(
    tmp_path: Path, redis_url: str, network: Network, shows: Shows, given: str
) -> None:
    variables, settings = WAYS[given]
    address = network.proxy.url.removeprefix("http://")
    variables = {name: value.replace("PROXY", address) for name, value in variables.items()}
    code, message = check(tmp_path, redis_url, URL, settings.replace("PROXY", address), **network.trusted, **variables)
    shows(1, given, message)
    assert (0, True) == (code, message.endswith(" ok"))
    assert [f"CONNECT {NAME}:443"] == network.proxy.requests


@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        ({"HTTPS_PROXY": "http://me:p%40ss@PROXY"}, ""),
        ({"SECRET": "p@ss"}, 'proxy = "http://me@PROXY"\nproxy_password = { env = "SECRET" }'),
    ],
    ids=["in the variable", "by a secret"],
)
def test_a_proxy_s_password_is_sent_and_never_printed(
    tmp_path: Path, redis_url: str, network: Network, variables: dict[str, str], settings: str
) -> None:
    address = network.proxy.url.removeprefix("http://")
    network.proxy.login = "Basic bWU6cEBzcw=="
    right = {name: value.replace("PROXY", address) for name, value in variables.items()}
    wrong = {name: value.replace("p%40ss", "wr0ng").replace("p@ss", "wr0ng") for name, value in right.items()}
    found = [
        check(tmp_path, redis_url, URL, settings.replace("PROXY", address), **network.trusted, **given)
        for given in (right, wrong)
    ]
    assert [0, 1] == [code for code, _ in found]
    assert "check its user and password" in found[1][1]
    assert "wr0ng" not in found[1][1]


AUTHORITY = (
    "if a proxy of this network or a private authority signs it, set SSL_CERT_FILE or [requests] ca_file to the "
    "authority's PEM file"
)
REASONS = {
    "HTTPS_PROXY=... NO_PROXY=provider.example": (
        (URL, "", {"HTTPS_PROXY": "PROXY", "NO_PROXY": "provider.example"}),
        f"the name of {NAME}:443 is not resolved (",
    ),
    'HTTPS_PROXY=... proxy = "none"': (
        (URL, 'proxy = "none"', {"HTTPS_PROXY": "PROXY"}),
        f"the name of {NAME}:443 is not resolved (",
    ),
    "no proxy": ((URL, "", {}), "; check base_url and DNS, and if this network needs a proxy (HTTPS_PROXY)"),
    "a proxy's 407": (
        (URL, "", {"HTTPS_PROXY": "REFUSING407"}),
        "with 407 Refused; check its user and password (the gateway sends Basic; the proxy accepts Negotiate, Basic)",
    ),
    "a proxy's 403": (
        (URL, "", {"HTTPS_PROXY": "REFUSING403"}),
        "with 403 Refused; ask its operators to allow this host",
    ),
    "a proxy's 502": (
        (URL, "", {"HTTPS_PROXY": "REFUSING502"}),
        "with 502 Refused; check base_url, and that the proxy can reach this host",
    ),
    "a proxy that is not there": (
        (URL, "", {"HTTPS_PROXY": "127.0.0.1:FREE"}),
        "(HTTPS_PROXY) refuses the connection; check host and port in HTTPS_PROXY",
    ),
    "an untrusted certificate": (
        (URL, "", {"HTTPS_PROXY": "PROXY"}),
        f"the certificate of {NAME}:443 is not trusted (self-signed certificate); {AUTHORITY}",
    ),
    "a certificate of another name": (
        ("https://localhost:TLS", "", {"SSL_CERT_FILE": "FILE"}),
        "is not trusted (Hostname mismatch, certificate is not valid for 'localhost'.); check the host in base_url",
    ),
    "a refused port": (
        ("https://127.0.0.1:FREE", "", {}),
        "refuses the connection; check host and port in base_url, and the firewall",
    ),
    "https to a plain port": (
        ("https://127.0.0.1:PLAIN", "", {}),
        "does not speak TLS on this port; use http:// or another port in base_url",
    ),
    "http to a TLS port": (("http://127.0.0.1:ALERTS", "", {}), "expects TLS on this port; use https:// in base_url"),
}


@pytest.mark.parametrize("given", REASONS)
def test_the_reasons_of_an_unreachable_provider_are_told_apart(
    tmp_path: Path, redis_url: str, network: Network, stack: ExitStack, shows: Shows, given: str
) -> None:
    (base_url, settings, variables), expected = REASONS[given]
    refusing = {str(status): stack.enter_context(proxying(refusal=status)).url for status in (407, 403, 502)}
    places = {f"REFUSING{status}": url for status, url in refusing.items()} | {
        "PROXY": network.proxy.url,
        "TLS": network.tls.rpartition(":")[2],
        "PLAIN": network.plain.rpartition(":")[2],
        "FREE": str(free_port()),
        "ALERTS": str(stack.enter_context(alerting())),
        "FILE": str(network.files.certificate),
    }
    variables = {name: places.get(value, value.replace("FREE", places["FREE"])) for name, value in variables.items()}
    for name in ("TLS", "PLAIN", "FREE", "ALERTS"):
        base_url = base_url.replace(name, places[name])
    code, message = check(tmp_path, redis_url, base_url, settings, **variables)
    shows(1, given, message)
    assert (1, True) == (code, "unreachable" in message)
    assert expected in message


def test_an_expired_certificate_is_told_as_such(
    tmp_path: Path, redis_url: str, simulator: Simulator, shows: Shows
) -> None:
    files = certify(tmp_path, NAME, days=-1)
    with with_tls(simulator.url, files) as address:
        code, message = check(tmp_path, redis_url, f"https://{address}", SSL_CERT_FILE=str(files.certificate))
    shows(1, "an expired certificate", message)
    assert (1, True) == (code, "(certificate has expired); check this machine's clock; the owner" in message)


@pytest.mark.slow  # waits for the time-out
def test_a_firewall_that_drops_is_a_time_out(tmp_path: Path, redis_url: str, shows: Shows) -> None:
    with black_hole() as port:
        code, message = check(tmp_path, redis_url, f"http://127.0.0.1:{port}")
    shows(1, "a dropping firewall", message)
    assert 1 == code
    assert "in time; a firewall may drop it, or this network needs a proxy (HTTPS_PROXY)" in message


def test_the_private_authority_may_be_a_setting(tmp_path: Path, redis_url: str, network: Network) -> None:
    head = f'[requests]\nca_file = "{network.files.certificate}"'
    code, message = check(tmp_path, redis_url, f"https://{network.tls}", head=head)
    assert (0, True) == (code, message.endswith(" ok"))


REFUSED = {
    "ALL_PROXY=socks5://proxy:1080": "ALL_PROXY: socks5:// proxies are not supported. Use an HTTP "
    'proxy (http://HOST:PORT), or connect directly by NO_PROXY, or by proxy = "none" in [[upstreams]]',
    "https_proxy=socks4a://proxy": "https_proxy: socks4a:// proxies are not supported",
    "HTTPS_PROXY=http://me:se#cret@proxy:3128": "HTTPS_PROXY: not a proxy's URL; expected http://HOST:PORT or "
    "http://USER@HOST:PORT, with special characters percent-encoded",
    'proxy = "socks5://proxy:1080"': "proxy: socks5:// proxies are not supported",
    'proxy = "proxy:port"': "proxy: not a proxy's URL",
    'proxy = ""': "proxy: not a proxy's URL",
    'proxy = "http://me:secret@proxy:3128"': "proxy: never write the password here; use proxy_password "
    '= { env = "VARIABLE" } or { file = "/path" }',
    'proxy = "http://proxy:3128" proxy_password = { env = "SECRET" }': "proxy_password: proxy has no "
    'user; write proxy = "http://USER@HOST:PORT"',
    'proxy_password = { env = "SECRET" }': 'proxy_password: needs proxy = "http://USER@HOST:PORT"',
    'proxy = "http://me@proxy:3128" proxy_password = { env = "MISSING" }': "proxy_password",
}


@pytest.mark.parametrize("given", REFUSED)
def test_an_unusable_proxy_is_refused_in_one_line(tmp_path: Path, redis_url: str, shows: Shows, given: str) -> None:
    name, _, value = given.partition("=")
    is_setting = name.islower() and " " in name
    variables = {} if is_setting else {name: value}
    settings = given.replace(" proxy_password", "\nproxy_password") if is_setting else ""
    code, message = check(tmp_path, redis_url, URL, settings, SECRET="canary-secret", **variables)
    shows(1, given, message)
    assert (1, True) == (code, message.startswith("imagegate: "))
    assert REFUSED[given] in message
    assert "cret" not in message.replace("SECRET", "")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("", "holds no certificate in PEM format"),
        ("-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", "holds no certificate in PEM format"),
    ],
)
def test_a_useless_ca_file_is_refused(
    tmp_path: Path, redis_url: str, shows: Shows, content: str | None, problem: str
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    code, message = check(tmp_path, redis_url, URL, head=f'[requests]\nca_file = "{path}"')
    shows(1, f"ca_file: {content!r}", message.replace(str(path), "ca.pem"))
    assert (1, True) == (code, f"requests.ca_file: {path} {problem}" in message)


def test_this_machine_s_addresses_need_no_exception(tmp_path: Path, redis_url: str, network: Network) -> None:
    nowhere = {name: f"http://127.0.0.1:{free_port()}" for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
    for host in ("127.0.0.1", "localhost"):
        base_url = f"http://{host}:{network.plain.rpartition(':')[2]}"
        assert 0 == check(tmp_path, redis_url, base_url, **nowhere)[0]
    assert socket.gethostbyname("localhost") == "127.0.0.1"


SOCKS = (
    "the environment names a SOCKS proxy, which is not supported. Name an HTTP proxy in HTTPS_PROXY and HTTP_PROXY, "
    "and unset ALL_PROXY"
)


@pytest.mark.parametrize("value", ["socks5://127.0.0.1:1", "socks5h://127.0.0.1:1"])
def test_commands_refuse_a_socks_proxy_in_one_line(shows: Shows, value: str) -> None:
    variables = {"ALL_PROXY": value, "IMAGEGATE_ADMIN_KEY": ADMIN_KEY, "IMAGEGATE_CONFORMANCE_KEY": "sk-x"}
    done = run("tenant", "list", "--url", "http://gateway.example:8081", **variables)
    shows(1, f"ALL_PROXY={value} imagegate tenant list", done.stderr.strip())
    check_refused(done, SOCKS)
    done = run("conformance", "http://gateway.example:8080/v1", **variables)
    assert (2, True) == (done.returncode, done.stderr.endswith(f"imagegate: {SOCKS}\n")), done.stderr


def test_commands_reach_a_gateway_on_this_machine_without_the_proxy(gateway: Gateway) -> None:
    nowhere = {name: f"http://127.0.0.1:{free_port()}" for name in ("HTTP_PROXY", "ALL_PROXY")}
    port = gateway.url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        url = f"http://{host}:{port}"
        done = run("tenant", "list", IMAGEGATE_URL=url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY, **nowhere)
        assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_variable_that_names_no_authorities_is_warned_of(
    tmp_path: Path, redis_url: str, network: Network, name: str
) -> None:
    path = tmp_path / "missing"
    with_file = {"SSL_CERT_FILE": str(network.files.certificate)} | {name: str(path)}
    path_of_config = tmp_path / "imagegate.toml"
    check(tmp_path, redis_url, f"http://{network.plain}", **with_file)
    done = run("check", IMAGEGATE_CONFIG=str(path_of_config), **with_file)
    assert f"{name}: {path} cannot be read" in " ".join(done.stdout.split())
