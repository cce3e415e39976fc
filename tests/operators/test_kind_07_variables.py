"""What is said of environment variables that set nothing, or nothing valid."""

import tomllib

import pytest

from gateway.config import Settings, SettingsError, from_document, misspelled_variables
from tests.support.commands import CONFIG
from tests.support.operators import Shows

DOCUMENT = tomllib.loads(CONFIG.format(redis_url="redis://h"))


def read(**variables: str) -> Settings:
    return from_document(DOCUMENT, {f"IMAGEGATE_{name}": value for name, value in variables.items()}, "imagegate.toml")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("REDIS_URL", "REDIS__URL"),
        ("SERVER_PORT", "SERVER__PORT"),
        ("SERVER_HOST", "SERVER__HOST"),
        ("REDIS_TIMEOUT_MS", "REDIS__TIMEOUT_MS"),
        ("UPSTREAMS_0_BASE_URL", "UPSTREAMS__0__BASE_URL"),
        ("UPSTREAMS_1_ACCOUNTS_12_NAME", "UPSTREAMS__1__ACCOUNTS__12__NAME"),
        ("_SERVER_PORT", "SERVER__PORT"),
        ("ADMIN_HOST", "ADMIN__HOST"),
        ("ADMIN_KEY_FILE", "ADMIN__KEY__FILE"),
        ("STORAGE_KEEP_HOUR", "STORAGE__KEEP_HOURS"),
        ("REQUESTS_DEADLINE_S", "REQUESTS__DEADLINE_S"),
        ("PORT", "SERVER__PORT"),
        ("TIMEOUT_MS", "REDIS__TIMEOUT_MS"),
    ],
)
def test_a_variable_with_one_underscore_is_warned_of(variable: str, meant: str, shows: Shows) -> None:
    [(name, found)] = misspelled_variables(read(), {f"IMAGEGATE_{variable}": "x", "PATH": "/bin"})
    shows(7, f"{name}=x", f"this variable sets nothing; did you mean {found}?")
    assert (f"IMAGEGATE_{variable}", f"IMAGEGATE_{meant}") == (name, found)


def test_a_variable_in_lower_case_is_warned_of() -> None:
    assert [("imagegate_server__port", "IMAGEGATE_SERVER__PORT")] == list(
        misspelled_variables(read(), {"imagegate_server__port": "1"})
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SERVICE_HOST", "10.0.0.1"),
        ("SERVICE_PORT", "8080"),
        ("SERVICE_PORT_HTTP", "8080"),
        ("PORT", "tcp://10.0.0.1:8080"),
        ("PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("SERVER_PORT", "tcp://10.0.0.1:8080"),
        ("METRICS_PORT", "tcp://10.0.0.1:9464"),
        ("METRICS_PORT_9464_TCP_PORT", "9464"),
        ("REDIS_SERVICE_HOST", "10.0.0.2"),
        ("REDIS_PORT_6379_TCP_PROTO", "tcp"),
        ("CONFIG", "x"),
        ("URL", "x"),
        ("ADMIN_KEY", "x"),
        ("CONFORMANCE_KEY", "x"),
        ("IMAGE_TAG", "1.2"),
        ("VERSION", "1.2"),
        ("SERVER__PORT", "8080"),
    ],
)
def test_variables_of_kubernetes_and_of_commands_are_not_warned_of(variable: str, value: str) -> None:
    assert [] == list(misspelled_variables(read(), {f"IMAGEGATE_{variable}": value}))


def test_a_variable_that_the_configuration_names_is_not_warned_of() -> None:
    settings = read(ADMIN__KEY__ENV="IMAGEGATE_ADMIN_KEY_ENV")
    assert [] == list(misspelled_variables(settings, {"IMAGEGATE_ADMIN_KEY_ENV": "x"}))


@pytest.mark.parametrize(
    "variable", ["ADMIN__HOST", "SERVER__HOST", "SERVER__PORT", "REDIS__URL", "ADMIN__KEY", "TENANTS"]
)
def test_an_empty_variable_is_no_value(variable: str) -> None:
    assert read() == read(**{variable: ""})


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SERVER__HOST", " ", "an address or a name without port"),
        ("ADMIN__HOST", "127.0.0.1:8081", "an address or a name without port"),
        ("METRICS__HOST", "http://0.0.0.0", "an address or a name without port"),
        ("SERVER__HOST", "*", "an address or a name without port"),
        ("SERVER__HOST", "[::]", "an address or a name without port"),
        ("SERVER__PORT", "80 80", "expected a port, 0 to 65535"),
        ("SERVER__PROT", "8080", "did you mean `port`?"),
        ("SEVER__PORT", "8080", "did you mean `server`?"),
        ("SERVER___PORT", "8080", "did you mean `port`?"),
        ("SERVER", "8080", "expected a table"),
        ("SERVER", "a b", "expected a TOML list or table"),
        ("ADMIN__KEY", "hunter2", "set IMAGEGATE_ADMIN__KEY__ENV or IMAGEGATE_ADMIN__KEY__FILE instead"),
        ("MODELS__7__ID", "x", "has no entry '7' to override"),
    ],
)
def test_a_value_that_is_none_is_refused(variable: str, value: str, words: str, shows: Shows) -> None:
    with pytest.raises(SettingsError) as caught:
        read(**{variable: value})
    shows(7, f"IMAGEGATE_{variable}={value!r}", str(caught.value))
    assert str(caught.value).startswith(f"IMAGEGATE_{variable}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "fe80::1%eth0", "localhost", "gate.example.org", "my_host"])
def test_hosts_that_can_be_listened_on_are_taken(host: str) -> None:
    assert host == read(SERVER__HOST=host).server.host


def test_all_variables_are_judged_at_once_and_in_the_environment_first_by_name() -> None:
    with pytest.raises(SettingsError) as caught:
        read(SERVER__PROT="1", REDIS__TIMEOUT_MS="soon", MODELS__7__ID="x")
    assert ["IMAGEGATE_MODELS__7__ID", "IMAGEGATE_REDIS__TIMEOUT_MS", "IMAGEGATE_SERVER__PROT"] == [
        line.partition(":")[0] for line in str(caught.value).splitlines()
    ]
