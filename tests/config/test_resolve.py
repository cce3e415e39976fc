"""What the configuration and its secrets resolve to, and the messages of wrong ones."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import pytest

from gateway.api.admin import Role
from gateway.config import Settings, SettingsError, from_document
from gateway.config.resolve import Config, resolve
from gateway.domain.accounts import AccountLimits, PoolConfig, WaitConfig
from gateway.domain.images import LinkSource
from gateway.domain.tenants import Limits, Quotas, Tenant, digest, key_id
from gateway.providers import PROVIDERS
from gateway.storage.location import StorageKind, StorageLocation
from gateway.tenants.provisioning import ProvisionedTenant
from tests.support.harness import UNLIMITED, document, environment, upstream

KEY: Final = "sk-ig-abcdefghij" + "k" * 32
HASH: Final = f"abcdefghij.{digest(KEY)}"
OTHER_HASH: Final = f"otherother.{'0' * 64}"
A = upstream("a", "minimax", "http://127.0.0.1:1/", "one:k1,k2", "two:k3")
B = upstream("b", "302ai", "http://127.0.0.1:2", "one:k4")
DOCUMENT = document("redis://localhost:1", A, B)
SECRETS = environment(DOCUMENT)


def configured(*upstreams: dict[str, Any], **secrets: str) -> Config:
    return resolve(from_document(document("redis://localhost:1", *upstreams), {}, "gate.toml"), SECRETS | secrets)


def accounts(*images_per_minute: int) -> dict[str, object]:
    """Accounts that take so many images in a minute."""
    source = {"name": "key", "secret": {"env": "SECRET_K1"}}
    return {
        "accounts": [
            {"name": f"account-{number}", **UNLIMITED, "images_per_minute": images, "keys": [source]}
            for number, images in enumerate(images_per_minute)
        ]
    }


def stored(**storage: object) -> Config:
    table = document("redis://localhost:1", A, storage=storage)
    return resolve(from_document(table, {}, "gate.toml"), SECRETS | {"ID": "an-id", "SECRET": "a-secret"})


def test_the_storage_is_a_directory_or_a_bucket_with_its_secrets() -> None:
    assert configured(A).storage is None
    assert StorageLocation(StorageKind.DIRECTORY, "", "/var/lib/a b") == stored(url="file:///var/lib/a%20b").storage
    assert StorageLocation(StorageKind.GOOGLE, "pictures", "") == stored(url="gs://pictures").storage
    keys = {"access_key_id": {"env": "ID"}, "secret_access_key": {"env": "SECRET"}}
    found = stored(url="s3://pictures/of/us/", endpoint="http://127.0.0.1:9", region="eu-1", **keys).storage
    assert found is not None
    assert (StorageKind.S3, "pictures", "of/us") == (found.kind, found.bucket, found.prefix)
    assert ("http://127.0.0.1:9", "eu-1", "s3://pictures/of/us") == (found.endpoint, found.region, found.url)
    assert found.access_key_id is not None
    assert found.secret_access_key is not None
    assert ("an-id", "a-secret") == (found.access_key_id.plaintext, found.secret_access_key.plaintext)
    assert "a-secret" not in repr(found)


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ({"url": "files"}, "storage.url: expected file:///DIRECTORY"),
        ({"url": "ftp://a/b"}, "storage.url: expected file:///DIRECTORY"),
        ({"url": "file://host/a"}, "storage.url: expected an absolute path"),
        ({"url": "s3:///a"}, "storage.url: the bucket is missing, as in s3://BUCKET/PREFIX"),
        ({"url": "s3://key:secret@a"}, "without user, password or options"),
        ({"url": "s3://a?region=b"}, "without user, password or options"),
        ({"url": "s3://a", "access_key_id": {"env": "ID"}}, "give access_key_id and secret_access_key, or neither"),
        ({"url": "file:///a", "region": "eu-1"}, "storage.region: file:// has no such setting; remove it"),
        ({"url": "az://a", "region": "eu-1"}, "storage.region: az:// has no such setting; remove it"),
        (
            {"url": "s3://a", "access_key_id": {"env": "ID"}, "secret_access_key": {"env": "NONE"}},
            "storage.secret_access_key: the environment variable NONE is not set",
        ),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_without_its_secret(storage: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        stored(**storage)
    assert words in str(caught.value)
    assert "key:secret" not in str(caught.value)


def test_every_upstream_has_its_endpoint_its_accounts_and_its_terms() -> None:
    terms = {
        "rate_window_margin_s": 2,
        "max_queue_length": 3,
        "breaker_failures": 4,
        "breaker_open_s": 5.5,
        "retry_budget_percent": 6,
    }
    supply = configured(A | terms | {"max_wait_s": 7, "fallback_after_s": 8}, B).upstreams
    assert {"a": "http://127.0.0.1:1", "b": "http://127.0.0.1:2"} == {
        name: endpoint.base_url for name, endpoint in supply.endpoints.items()
    }
    assert ["a", "b"] == [pool.upstream for pool in supply.pools]
    assert [PoolConfig(2, 3, 4, 5.5, 6), PoolConfig()] == [pool.terms for pool in supply.pools]
    assert {"a": WaitConfig(7, 8), "b": WaitConfig()} == supply.waits
    unlimited = AccountLimits(100_000, 1_000_000, 10_000, 1)
    assert [("a", "one", unlimited), ("a", "two", unlimited), ("b", "one", unlimited)] == [
        (account.upstream, account.name, account.limits) for pool in supply.pools for account in pool.accounts
    ]


def test_every_key_is_read_with_its_secret() -> None:
    found = configured(A, B).upstreams
    assert [("a", "one/k1"), ("a", "one/k2"), ("a", "two/k3"), ("b", "one/k4")] == [
        (key.upstream, key.id) for key in found.keys
    ]
    assert ["k1", "k2", "k3", "k4"] == [key.secret.plaintext for key in found.keys]
    with pytest.raises(SettingsError, match=r"upstreams\[1\].accounts\[0\].keys\[0\].secret: .* SECRET_K4 is not set"):
        configured(A, B, SECRET_K4="")


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        ({}, []),
        ({"SECRET_K2": "k1"}, []),
        ({"SECRET_K3": "k1"}, [["one/k1", "two/k3"]]),
        ({"SECRET_K4": "k1"}, [["one/k1", "one/k4"]]),
        ({"SECRET_K2": "k1", "SECRET_K3": "x", "SECRET_K4": "x"}, [["two/k3", "one/k4"]]),
    ],
)
def test_one_secret_in_several_accounts_is_found(secrets: dict[str, str], expected: list[list[str]]) -> None:
    """In one account it is only superfluous; in two the provider's limits are counted twice."""
    supply = configured(A, B, **secrets).upstreams
    assert expected == [[key.id for key in same] for same in supply.shared_keys()]


@pytest.mark.parametrize(
    ("allowed", "declared", "expected"),
    [
        ((60,), {}, 9),
        ((60, 4), {}, 4),
        ((60, 4), {"max_images_per_call": 2}, 2),
        ((1, 1), {"max_images_per_call": 9}, 1),
    ],
)
def test_no_call_is_larger_than_an_account_can_take_in_a_minute(
    allowed: tuple[int, ...], declared: dict[str, int], expected: int
) -> None:
    found = configured(A | accounts(*allowed) | {"capabilities": declared}).catalog.default
    assert [expected] == [target.capability.max_images_per_call for target in found.targets]


def settings(**tables: object) -> Settings:
    described = document("redis://localhost:1", upstream("sim", "minimax", "http://127.0.0.1:1")) | {"admin": {}}
    return from_document(described | tables, {}, "gate.toml")


def resolved(secrets: Mapping[str, str] = MappingProxyType({}), **tables: object) -> Config:
    return resolve(settings(**tables), {"SECRET_MAIN_1": "main-1", **secrets})


def declared(*tenants: dict[str, Any], **environ: str) -> tuple[ProvisionedTenant, ...]:
    return resolved(environ, tenants=list(tenants)).tenants


def with_keys(*keys: dict[str, Any]) -> dict[str, Any]:
    return {"name": "acme", "keys": list(keys)}


def test_a_declared_tenant_is_read_whole() -> None:
    limits = {"requests_per_minute": 60, "images_per_minute": 0}
    quotas = {"images_per_day": 5, "usd_per_month": "50.000001"}
    key = {"label": "web", "hash": HASH, "limits": limits, "quotas": quotas}
    entry = with_keys(key) | {"models": ["dall-e-3"], "limits": limits, "quotas": quotas, "weight": 3, "disabled": True}
    [found] = declared(entry)
    expected = (Limits(60, 0), Quotas(5, None, 50_000_001))
    assert found.tenant == Tenant("acme", frozenset({"image-01"}), True, 0, *expected, 3, True)
    [found_key] = found.keys
    assert digest(KEY) == found_key.hashed
    assert ("abcdefghij", "acme", "web", True) == (
        found_key.key.id,
        found_key.key.tenant,
        found_key.key.label,
        found_key.key.is_declared,
    )
    assert expected == (found_key.key.limits, found_key.key.quotas)


def test_a_hash_and_the_key_itself_declare_the_same(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    sources: list[dict[str, Any]] = [{"env": "ACME_KEY"}, {"file": str(tmp_path / "key")}]
    found = [declared(with_keys({"secret": source}), ACME_KEY=KEY) for source in sources]
    assert found == [declared(with_keys({"hash": HASH}))] * 2


def test_an_expiry_is_a_moment_of_any_zone() -> None:
    text = f'name = "acme"\n[[keys]]\nhash = "{HASH}"\nexpires_at = 2027-01-01T01:00:00+01:00\n'
    [found] = declared(tomllib.loads(text))
    assert 1_798_761_600 == found.keys[0].key.expires_at


@pytest.mark.parametrize(
    ("tenants", "words"),
    [
        ([{"name": "acme"}, {"name": "acme"}], ("tenants", "'acme'", "duplicate name")),
        ([{"name": "Acme"}], ("tenants", "name", "a-z")),
        ([{}], ("tenants", "name")),
        ([{"name": "acme", "colour": 1}], ("tenants", "colour")),
        ([{"name": "acme", "models": ["nope"]}], ("tenants[0].models[0]", "'nope'", "dall-e-3")),
        ([{"name": "acme", "limits": {"concurrency": -1}}], ("tenants", "limits.concurrency", "0 to 1000000000")),
        ([{"name": "acme", "limits": {"concurrency": 10**9 + 1}}], ("limits.concurrency", "0 to 1000000000")),
        ([{"name": "acme", "quotas": {"usd_per_month": -50}}], ("quotas.usd_per_month", "non-negative decimal")),
        (
            [{"name": "acme", "quotas": {"usd_per_month": "1.0000001"}}],
            ("quotas.usd_per_month", "non-negative decimal"),
        ),
        ([{"name": "acme", "weight": 0}], ("weight",)),
        ([with_keys({"hash": HASH}, {"hash": HASH})], ("'acme'", "abcdefghij", "already", "imagegate key hash")),
        (
            [with_keys({"hash": HASH}), {"name": "b", "keys": [{"hash": HASH}]}],
            ("tenants[1].keys[0]", "abcdefghij", "'acme'"),
        ),
        ([with_keys({"hash": KEY})], ("tenants", "hash", "imagegate key hash")),
        ([with_keys({"hash": "abcdefghij." + "g" * 64})], ("tenants", "hash", "imagegate key hash")),
        ([with_keys({"hash": OTHER_HASH}, {})], ("tenants[0]", "keys[1]", "either hash", "imagegate key hash")),
        ([with_keys({"hash": HASH, "secret": {"env": "ACME_KEY"}})], ("tenants[0]", "keys[0]", "either hash")),
        ([with_keys({"secret": {"env": "NOWHERE"}})], ("tenants[0]", "keys[0].secret", "NOWHERE is not set")),
        ([with_keys({"secret": {"file": "/nowhere"}})], ("tenants[0]", "keys[0].secret", "/nowhere is missing")),
        ([with_keys({"secret": {"env": "NO_KEY"}})], ("tenants[0]", "keys[0].secret", "sk-ig-", "imagegate key hash")),
        ([with_keys({"secret": KEY})], ("keys", "secret", "never write the secret itself")),
        ([with_keys({"hash": HASH, "expires_at": "soon"})], ("keys", "expires_at", "2027-01-01T00:00:00Z")),
        ([with_keys({"hash": HASH, "expires_at": "2027-01-01T00:00:00"})], ("expires_at", "with time zone")),
    ],
)
def test_a_wrong_declaration_names_its_place_and_the_remedy(
    tenants: list[dict[str, Any]], words: tuple[str, ...]
) -> None:
    with pytest.raises(SettingsError) as caught:
        declared(*tenants, ACME_KEY=KEY, NO_KEY="canary-no-key")
    assert [] == [word for word in words if word not in str(caught.value)], str(caught.value)
    assert "canary" not in str(caught.value)
    assert KEY not in str(caught.value)


def test_admin_keys_are_read_with_their_roles() -> None:
    entries = [{"name": "alice", "secret": {"env": "ALICE"}}, {"name": "bot", "secret": {"env": "BOT"}, "role": "read"}]
    admin = {"key": {"env": "FIRST"}, "keys": entries}
    one, two, three = "key-of-the-first", "key-of-alice-two", "key-of-bot-three"
    keys = resolved({"FIRST": one, "ALICE": two, "BOT": three}, admin=admin).admin_keys
    assert [("admin", one, Role.ADMIN), ("alice", two, Role.ADMIN), ("bot", three, Role.READ)] == [
        (key.name, key.secret.plaintext, key.role) for key in keys
    ]
    assert () == resolved().admin_keys
    with pytest.raises(SettingsError, match="FIRST is not set; set it, or remove this entry"):
        resolved({"ALICE": two, "BOT": three}, admin=admin)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"name": "alice", "secret": {"env": "A"}}] * 2, ("admin.keys", "'alice'", "duplicate name")),
        ([{"name": "admin", "secret": {"env": "A"}}], ("admin.keys", "'admin'", "duplicate name")),
        ([{"name": "configuration", "secret": {"env": "A"}}], ("admin.keys", "'configuration'", "another")),
        ([{"name": "alice", "secret": {"env": "NOWHERE"}}], ("admin.keys[0].secret", "NOWHERE")),
        ([{"name": "alice", "secret": {"env": "FIRST"}}], ("admin.keys[0].secret", "'admin'", "use a new key")),
        (
            [{"name": "alice", "secret": {"env": "SHORT"}}],
            ("admin.keys[0].secret", "16 characters", "openssl rand -hex 16"),
        ),
        ([{"name": "alice", "secret": {"env": "A"}, "role": "root"}], ("admin.keys", "role", "admin, read")),
        ([{"name": "alice", "secret": "canary"}], ("admin.keys", "secret", "never write the secret itself")),
    ],
)
def test_wrong_admin_keys_are_named(entries: list[dict[str, Any]], words: tuple[str, ...]) -> None:
    environ = {"FIRST": "canary-1-canary-1", "A": "abcdef-2" * 2, "SHORT": "canary-of-15-ch"}
    with pytest.raises(SettingsError) as caught:
        resolved(environ, admin={"key": {"env": "FIRST"}, "keys": entries})
    assert [] == [word for word in words if word not in str(caught.value)], str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "sk-ig-", KEY[:-1], KEY + "k", KEY.upper(), "sk-ig-" + "é" * 42, KEY.replace("k", "-"), f" {KEY}"]
)
def test_what_is_no_key_has_no_id(text: str) -> None:
    assert ("abcdefghij", None) == (key_id(KEY), key_id(text))


def test_the_first_encryption_key_seals_and_all_of_them_open() -> None:
    environ = {"OLD": "old-keys" * 4, "NEW": "new-keys" * 4}
    old = resolved(environ, pool={"encryption_keys": [{"env": "OLD"}]}).secret_box
    both = resolved(environ, pool={"encryption_keys": [{"env": "NEW"}, {"env": "OLD"}]}).secret_box
    assert old is not None
    assert both is not None
    sealed = old.seal("sk", "sim/main/main-1")
    assert ("sk", False) == (both.open(sealed, "sim/main/main-1"), both.is_current(sealed))


def test_without_encryption_keys_there_is_no_secret_box() -> None:
    assert None is resolved().secret_box


def test_edits_can_be_switched_off_for_each_model() -> None:
    table = document("redis://localhost:1", A)["models"]
    assert isinstance(table, list)
    models = [table[0], table[0] | {"id": "no-edits", "aliases": [], "edits": False}]
    settings = from_document(document("redis://localhost:1", A) | {"models": models}, {}, "gate.toml")
    catalog = resolve(settings, SECRETS).catalog
    assert [True, False] == [bool(model.edits) for name in ("image-01", "no-edits") if (model := catalog.find(name))]


@pytest.mark.parametrize("secret", ["old-keys" * 3, "o" * 32, ""])
def test_an_encryption_key_that_is_missing_or_can_be_guessed_is_refused_with_its_place(secret: str) -> None:
    pool = {"encryption_keys": [{"env": "NEW"}, {"env": "OLD"}]}
    remedy = "openssl rand -hex 32" if secret else "OLD is not set"
    with pytest.raises(SettingsError, match=rf"pool\.encryption_keys\[1\]: .*{remedy}"):
        resolved({"NEW": "new-keys" * 4, "OLD": secret}, pool=pool)


STORED: Final = {"url": "file:///tmp/imagegate-test"}


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"images": {"links": "gateway"}}, ("images.links", "[storage] url")),
        ({"storage": STORED | {"redirect": True}}, ("storage.redirect", "bucket")),
        ({"storage": STORED | {"signing_keys": [{"env": "NONE"}]}}, ("storage.signing_keys[0]", "NONE")),
    ],
    ids=str,
)
def test_links_that_cannot_be_made_are_refused_with_the_remedy(
    tables: dict[str, dict[str, object]], words: tuple[str, ...]
) -> None:
    settings = from_document(document("redis://localhost:1", A, **tables), {}, "gate.toml")
    with pytest.raises(SettingsError) as refused:
        resolve(settings, SECRETS)
    assert [] == [word for word in words if word not in str(refused.value)]


@pytest.mark.parametrize(
    ("storage", "everywhere", "own", "expected"),
    [
        ({}, "provider", None, LinkSource.PROVIDER),
        (STORED, "provider", None, LinkSource.MIXED),
        (STORED, "gateway", None, LinkSource.GATEWAY),
        (STORED, "gateway", "provider", LinkSource.MIXED),
        (STORED, "provider", "gateway", LinkSource.GATEWAY),
    ],
)
def test_a_model_has_its_own_links_or_those_of_all(
    storage: dict[str, object], everywhere: str, own: str | None, expected: LinkSource
) -> None:
    described = document("redis://localhost:1", A, storage=storage, images={"links": everywhere})
    models = cast("list[dict[str, object]]", described["models"])
    described["models"] = [models[0] | ({"links": own} if own else {})]
    found = resolve(from_document(described, {}, "gate.toml"), SECRETS).catalog.default.links
    assert expected is found


def nowhere(provider: str) -> dict[str, Any]:
    """An upstream without an address."""
    found = upstream("own", provider, "", "one:k1")
    return {name: value for name, value in found.items() if name != "base_url"}


@pytest.mark.parametrize("provider", ["stability", "google", "ideogram", "glif"])
def test_a_provider_with_one_address_needs_none(provider: str) -> None:
    assert PROVIDERS[provider].base_url == configured(nowhere(provider)).upstreams.endpoints["own"].base_url


def test_an_address_is_required_if_the_provider_has_several() -> None:
    with pytest.raises(SettingsError, match=r"upstreams\[0\]: missing required field `base_url`"):
        configured(nowhere("minimax"))


def test_a_capability_that_a_provider_does_not_have_names_the_setting() -> None:
    own = upstream("own", "stability", "http://127.0.0.1:9", "one:k1", max_images_per_call=4)
    with pytest.raises(
        SettingsError, match=r"upstreams\[0\]\.capabilities\.max_images_per_call: .* Remove the setting"
    ):
        configured(own)
