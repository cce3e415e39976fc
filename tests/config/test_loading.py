import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.config import (
    SecretSource,
    Settings,
    SettingsError,
    from_document,
    load,
    locate,
)
from gateway.config.secrets import read_key, read_secret
from gateway.domain.accounts import make_secret

FILE = """
[server]
port = 8080
[redis]
url = "redis://localhost:6379/0"
[admin]
key = { env = "IMAGEGATE_ADMIN_KEY" }
[[upstreams]]
name = "302ai"
provider = "302ai"
base_url = "https://api.302.ai"
  [[upstreams.accounts]]
  name = "design"
    [[upstreams.accounts.keys]]
    name = "design-1"
    secret = { env = "AI302_API_KEY" }
    [[upstreams.accounts.keys]]
    name = "design-2"
    secret = { env = "AI302_API_KEY" }
[[models]]
id = "image-01"
aliases = ["dall-e-2"]
price_per_image_usd = "0.0035"
  [[models.targets]]
  upstream = "302ai"
  model = "minimaxi-image-01"
"""


def document() -> dict[str, Any]:
    key = {"name": "design-1", "secret": {"env": "AI302_API_KEY"}}
    account = {"name": "design", "keys": [key, key | {"name": "design-2"}]}
    upstream = {"name": "302ai", "provider": "302ai", "base_url": "https://api.302.ai", "accounts": [account]}
    target = {"upstream": "302ai", "model": "minimaxi-image-01"}
    model = {"id": "image-01", "aliases": ["dall-e-2"], "price_per_image_usd": "0.0035", "targets": [target]}
    return {"upstreams": [upstream], "models": [model]}


def read(environ: dict[str, str] | None = None, **tables: object) -> Settings:
    return from_document(document() | tables, environ or {}, "gate.toml")


def changed(path: str, value: object) -> dict[str, Any]:
    """The document with one setting changed; steps are names or numbers."""
    made = document()
    holder: Any = made
    *steps, last = path.split(".")
    for step in steps:
        holder = holder[int(step)] if isinstance(holder, list) else holder.setdefault(step, {})
    if isinstance(holder, list):
        holder[int(last)] = value
    else:
        holder[last] = value
    return made


def error_of(made: dict[str, Any], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        from_document(made, environ or {}, "gate.toml")
    return str(caught.value)


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(FILE)
    settings = load(str(path), {})
    assert from_document(document() | {"admin": {"key": {"env": "IMAGEGATE_ADMIN_KEY"}}}, {}, "x") == settings
    assert settings == load(None, {"IMAGEGATE_CONFIG": str(path)})
    assert "0.0035" == settings.models[0].price_per_image_usd


def test_a_named_file_goes_before_the_environment_s(tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text(FILE)
    (tmp_path / "two.toml").write_text(FILE.replace("8080", "9090"))
    assert 8080 == load(str(tmp_path / "one.toml"), {"IMAGEGATE_CONFIG": str(tmp_path / "two.toml")}).server.port


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), (b"[server", "invalid TOML"), (b"\xff\xfe", "invalid TOML"), (b"", "upstreams")],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "gate.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(str(path), {})
    assert re.match(rf"{path}(:1)?: ", str(caught.value))
    assert says in str(caught.value)


def test_a_missing_file_says_how_to_name_another(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--config.*IMAGEGATE_CONFIG"):
        load(str(tmp_path / "none.toml"), {})


@pytest.mark.parametrize(
    ("path", "value", "where", "why"),
    [
        ("server.prot", 1, "server", "unknown setting `prot`"),
        ("sever", {}, "", "unknown setting `sever`"),
        ("upstreams.0.accounts.0.keys.0.name_", "x", "upstreams[0].accounts[0].keys[0]", "unknown setting `name_`"),
        ("server.port", "8080", "server.port", "expected a port, 0 to 65535, got a string in quotes"),
        ("server.port", 65536, "server.port", "<= 65535"),
        ("server.port", True, "server.port", "got true or false"),
        ("server.max_body_bytes", 0, "server.max_body_bytes", ">= 1"),
        ("redis.timeout_ms", 9, "redis.timeout_ms", ">= 10"),
        *(
            ("redis.key_prefix", prefix, "redis.key_prefix", "expected 1 to 32 characters of A-Z, a-z, 0-9")
            for prefix in ("", "a" * 33, "a b", "{a}", "a*", "a:b", "ig3\n", "ü")
        ),
        ("requests.deadline_s", 0, "requests.deadline_s", "> 0"),
        ("requests.deadline_s", float("nan"), "requests.deadline_s", ""),
        ("requests.deadline_s", float("inf"), "requests.deadline_s", "<= 3600"),
        ("requests.max_attempts", 11, "requests.max_attempts", "<= 10"),
        ("images.size_policy", "closest", "images.size_policy", "Invalid enum value"),
        ("logs.level", "loud", "logs.level", "Invalid enum value"),
        ("upstreams", [], "upstreams", "length >= 1"),
        ("upstreams.0.provider", "openay", "upstreams[0].provider", "Invalid enum value"),
        ("upstreams.0.name", "Has Space", "upstreams[0].name", "characters of a-z"),
        ("upstreams.0.name", "302ai\n", "upstreams[0].name", "characters of a-z"),
        ("upstreams.0.base_url", "api.302.ai", "upstreams[0].base_url", "http:// or https://"),
        ("upstreams.0.base_url", "https://api.302.ai/?x=1", "upstreams[0].base_url", "http:// or https://"),
        ("upstreams.0.base_url", "https://api.302.ai\n", "upstreams[0].base_url", "http:// or https://"),
        ("upstreams.0.accounts", [], "upstreams[0].accounts", "length >= 1"),
        ("upstreams.0.accounts.0.keys", [], "upstreams[0].accounts[0].keys", "length >= 1"),
        ("upstreams.0.accounts.0.requests_per_minute", 0, "upstreams[0].accounts[0].requests_per_minute", ">= 1"),
        ("upstreams.0.capabilities.max_images_per_call", 10, "upstreams[0].capabilities.max_images_per_call", "<= 9"),
        ("models", [], "models", "expected a list of length >= 1"),
        ("server.prot", 1, "server", "; did you mean `port`?"),
        ("tenants", [{"name": "a", "limits": {"images_per_day": 1}}], "tenants[0].limits", "it belongs to quotas"),
        ("tenants", [{"name": "a", "quotas": {"concurrency": 1}}], "tenants[0].quotas", "it belongs to limits"),
        (
            "requests.reservation_lease_s",
            "ten",
            "requests.reservation_lease_s",
            "expected a number of seconds, got a string in quotes",
        ),
        ("requests.reservation_lease_s", 0, "requests.reservation_lease_s", "expected a number of seconds >= 1"),
        ("requests.max_attempts", 1.5, "requests.max_attempts", "expected a whole number, got a decimal number"),
        (
            "billing.charge_moderated",
            "no",
            "billing.charge_moderated",
            "expected true or false, got a string in quotes",
        ),
        ("models.0.price_per_image_usd", "0.00350001", "models[0].price_per_image_usd", "at most 6 decimals"),
        ("models.0.price_per_image_usd", "-1", "models[0].price_per_image_usd", "non-negative"),
        ("models.0.targets", [], "models[0].targets", "length >= 1"),
        ("models.0.price_per_image_usd", "-1", "models[0].price_per_image_usd", "decimal with at most 6 decimals"),
        (
            "models.0.price_per_image_usd",
            "0.0000001",
            "models[0].price_per_image_usd",
            "decimal with at most 6 decimals",
        ),
        ("models.0.targets.0.upstream", "nobody", "models[0].targets[0].upstream", "expected one of 302ai"),
        ("models.0.aliases", ["image-01"], "models", "duplicate name 'image-01'"),
        ("upstreams.0.accounts.0.keys.1.name", "design-1", "keys[1].name", "duplicate name 'design-1'"),
        ("tenants", [{"name": "deleted-x"}], "tenants[0].name", "choose another"),
        ("server.cors_origins", ["app.example.org"], "server.cors_origins", "https://app.example.org"),
        ("server.cors_origins", ["https://app.example.org/"], "server.cors_origins", "https://app.example.org"),
    ],
)
def test_an_error_names_the_file_the_path_and_the_reason(path: str, value: object, where: str, why: str) -> None:
    told = error_of(changed(path, value))
    assert told.startswith("gate.toml: ")
    assert where in told
    assert why in told


def test_two_prices_from_one_moment_are_told_as_moments() -> None:
    change = {"since": "2027-01-01T00:00:00Z", "price_per_image_usd": "1"}
    told = error_of(changed("models.0.price_changes", [change, change]))
    assert "duplicate date '2027-01-01T00:00:00+00:00', as models[0].price_changes[0].since has" in told


def _twice(name: str) -> dict[str, Any]:
    made = document()
    made[name].append(made[name][0])
    return made


@pytest.mark.parametrize("name", ["upstreams", "models"])
def test_two_entries_of_one_name_are_refused(name: str) -> None:
    assert "duplicate " in error_of(_twice(name))


def test_two_accounts_of_one_name_are_refused() -> None:
    made = document()
    made["upstreams"][0]["accounts"] *= 2
    assert "upstreams[0].accounts[1].name: duplicate name 'design'" in error_of(made)


@pytest.mark.parametrize("missing", ["upstreams", "models"])
def test_a_missing_table_is_named(missing: str) -> None:
    made = document()
    del made[missing]
    assert f"gate.toml: missing required field `{missing}`" == error_of(made)


@pytest.mark.parametrize("path", ["upstreams.0.accounts.0.keys.0.secret", "admin.key", "api_keys.hash_pepper"])
def test_a_secret_in_the_file_is_refused_without_repeating_it(path: str) -> None:
    told = error_of(changed(path, "sk-hunter2"))
    assert 'use { env = "VARIABLE" } or { file = "/path" }' in told
    assert "hunter2" not in told


OVERLAYS: list[tuple[str, str, Callable[[Settings], object], object]] = [
    ("SERVER__PORT", "9090", lambda s: s.server.port, 9090),
    ("SERVER__HOST", "0.0.0.0", lambda s: s.server.host, "0.0.0.0"),
    (
        "SERVER__CORS_ORIGINS",
        '["https://a.example", "https://b.example"]',
        lambda s: s.server.cors_origins[1],
        "https://b.example",
    ),
    ("REDIS__URL", "embedded", lambda s: s.redis.url, "embedded"),
    ("REDIS__EMBEDDED_DIR", "/data", lambda s: s.redis.embedded_dir, "/data"),
    ("REQUESTS__DEADLINE_S", "12.5", lambda s: s.requests.deadline_s, 12.5),
    ("LOGS__FORMAT", "console", lambda s: s.logs.format, "console"),
    ("ADMIN__KEY__ENV", "OTHER", lambda s: s.admin.key, SecretSource(env="OTHER")),
    ("ADMIN__KEY", '{ file = "/run/x" }', lambda s: s.admin.key, SecretSource(file="/run/x")),
    ("API_KEYS__HASH_PEPPER__FILE", "/run/p", lambda s: s.api_keys.hash_pepper, SecretSource(file="/run/p")),
    ("MODELS__0__ID", "other", lambda s: s.models[0].id, "other"),
    ("MODELS__0__ALIASES", '["x"]', lambda s: s.models[0].aliases, ("x",)),
    ("MODELS__0__ALIASES__0", "y", lambda s: s.models[0].aliases, ("y",)),
    ("MODELS__0__PRICE_PER_IMAGE_USD", "0.5", lambda s: s.models[0].price_per_image_usd, "0.5"),
    ("MODELS__0__TARGETS", '[{ upstream = "302ai", model = "q" }]', lambda s: s.models[0].targets[0].model, "q"),
    ("MODELS__0__TARGETS__0__MODEL", "z", lambda s: s.models[0].targets[0].model, "z"),
    ("UPSTREAMS__0__BASE_URL", "http://h:1", lambda s: s.upstreams[0].base_url, "http://h:1"),
    ("UPSTREAMS__0__RESULT_HOSTS", '["h"]', lambda s: s.upstreams[0].result_hosts, ("h",)),
    (
        "UPSTREAMS__0__CAPABILITIES__BASE64_RESPONSE",
        "true",
        lambda s: s.upstreams[0].capabilities.base64_response,
        True,
    ),
    ("UPSTREAMS__0__CAPABILITIES__SEED", "false", lambda s: s.upstreams[0].capabilities.seed, False),
    ("UPSTREAMS__0__ACCOUNTS__0__MAX_CONCURRENCY", "3", lambda s: s.upstreams[0].accounts[0].max_concurrency, 3),
    (
        "UPSTREAMS__0__ACCOUNTS__0__KEYS__1__SECRET__ENV",
        "OTHER",
        lambda s: s.upstreams[0].accounts[0].keys[1].secret,
        SecretSource(env="OTHER"),
    ),
]


@pytest.mark.parametrize(("variable", "text", "get", "expected"), OVERLAYS, ids=[line[0] for line in OVERLAYS])
def test_every_kind_of_setting_can_be_set_from_the_environment(
    variable: str, text: str, get: Callable[[Settings], object], expected: object
) -> None:
    assert expected == get(read({f"IMAGEGATE_{variable}": text}))


@pytest.mark.parametrize(
    ("variable", "text", "why"),
    [
        ("SERVER__PROT", "1", "unknown setting"),
        ("SEVER__PORT", "1", "unknown setting"),
        ("SERVER__PORT__X", "1", "unknown setting"),
        ("SERVER__PORT", "many", "invalid value 'many'; expected a port"),
        ("SERVER__PORT", "70000", "expected a port, 0 to 65535"),
        ("SERVER__CORS_ORIGINS", "https://a.example", "TOML list"),
        ("MODELS__1__ID", "x", "no entry '1'"),
        ("MODELS__X__ID", "x", "unknown setting"),
        ("MODELS__-1__ID", "x", "unknown setting"),
        ("UPSTREAMS__0__CAPABILITIES__SEED", "maybe", "expected true or false"),
        ("REQUESTS__RESERVATION_LEASE_S", "ten", "expected a number of seconds"),
        ("SERVER__PROT", "1", "did you mean `port`?"),
        ("REQUESTS__DEADLINE_S", "nan", "expected"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(variable: str, text: str, why: str) -> None:
    told = error_of(document(), {f"IMAGEGATE_{variable}": text})
    assert f"IMAGEGATE_{variable}" in told
    assert why in told


def test_a_value_that_cannot_be_used_is_named_by_its_variable_or_else_by_its_file() -> None:
    environ = {"IMAGEGATE_STORAGE__SIGNING_KEYS": "x", "IMAGEGATE_STORAGE__URL": "x"}
    for problem, told in (
        ("storage.url: no place", "IMAGEGATE_STORAGE__URL: no place"),
        ("storage.signing_keys[0]: short", "IMAGEGATE_STORAGE__SIGNING_KEYS: storage.signing_keys[0]: short"),
        ("storage.redirect: no", "gate.toml: storage.redirect: no"),
        ("models 'storage.url': links", "gate.toml: models 'storage.url': links"),
    ):
        assert told == str(locate(SettingsError(problem), environ, "gate.toml"))
    told = error_of(document(), {"IMAGEGATE_SERVER__CORS_ORIGINS": '["x"]'})
    assert told.startswith("IMAGEGATE_SERVER__CORS_ORIGINS: server.cors_origins[0]: each item must be")


def test_a_secret_in_a_variable_of_the_configuration_is_not_repeated() -> None:
    for text in ("sk-hunter2", '"sk-hunter2"'):
        assert "hunter2" not in error_of(document(), {"IMAGEGATE_UPSTREAMS__0__ACCOUNTS__0__KEYS__0__SECRET": text})


@pytest.mark.parametrize("variable", ["IMAGEGATE_ADMIN_KEY", "IMAGEGATE_CONFIG", "IMAGEGATE_PORT", "OTHER__PORT"])
def test_variables_that_are_no_settings_are_left_alone(variable: str) -> None:
    assert read() == read({variable: "tcp://10.0.0.1:80"})


def test_a_secret_comes_from_the_environment_or_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("  sk-hunter2\n")
    assert "sk-hunter2" == read_secret(SecretSource(env="KEY"), {"KEY": " sk-hunter2 "}, "x").plaintext
    assert "sk-hunter2" == read_secret(SecretSource(file=str(tmp_path / "secret")), {}, "x").plaintext


@pytest.mark.parametrize(
    ("source", "environ", "why"),
    [
        (SecretSource(), {}, "give either"),
        (SecretSource(env="KEY", file="/x"), {"KEY": "x"}, "give either"),
        (SecretSource(env="KEY"), {}, "KEY is not set"),
        (SecretSource(env="KEY"), {"KEY": " "}, "KEY is empty"),
        (SecretSource(file="/nowhere/secret"), {}, "/nowhere/secret is missing"),
        (SecretSource(file="/"), {}, "the file / is a directory"),
        (SecretSource(env="KEY"), {"KEY": "hunter2-ä"}, "no HTTP header can carry"),
        (SecretSource(env="KEY"), {"KEY": "hunter2\nx"}, "has 2 lines"),
    ],
)
def test_a_secret_that_cannot_be_had_is_named_and_never_printed(
    source: SecretSource, environ: dict[str, str], why: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_key(source, environ, "upstreams.a.b.c.secret")
    assert str(caught.value).startswith("upstreams.a.b.c.secret: ")
    assert why in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_secret_prints_as_its_fingerprint() -> None:
    secret = make_secret("sk-hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    assert make_secret("sk-hunter2").fingerprint == secret.fingerprint != make_secret("sk-hunter3").fingerprint


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "deep.toml").write_text("x = " + "[" * 5000)
    with pytest.raises(SettingsError, match="nested too deeply"):
        load(str(file), {})
