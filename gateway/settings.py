"""One TOML file and the environment, read into frozen values; the only place that reads either.

Every error names the file or variable, the path inside it, and what to do.
"""

import copy
import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from gateway.domain.keys import Secret

ENV_PREFIX: Final = "IMAGEGATE_"
DEFAULT_FILE: Final = "config/imagegate.toml"
_SOURCE: Final = '{ env = "VARIABLE" } or { file = "/path" }'

Port = Annotated[int, Meta(ge=0, le=65535, description="a port, 0 to 65535")]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z",
        description="1 to 63 of the characters a-z, 0-9, '.', '_' and '-', a letter or digit first",
    ),
]
ModelName = Annotated[str, Meta(min_length=1, max_length=128)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1)]
HttpUrl = Annotated[
    str, Meta(pattern=r"^https?://[^/?#\s]+(/[^?#\s]*)?\Z", description="http:// or https://, a host, and no query")
]
Price = Annotated[str, Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?\Z", description='a decimal in quotes, as "0.0035"')]


class SettingsError(Exception):
    """The configuration cannot be used; the message says where and how to mend it."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table: unknown keys are errors."""


class SecretSource(_Table, frozen=True, kw_only=True):
    """Where a secret comes from: an environment variable or a file, never the configuration itself."""

    env: str | None = None
    file: str | None = None


class Server(_Table, frozen=True, kw_only=True):
    """How clients are served: address, bounds in bytes and seconds."""

    host: str = "127.0.0.1"
    port: Port = 8080
    max_body_bytes: Count = 1024 * 1024
    max_native_body_bytes: Count = 16 * 1024 * 1024
    body_timeout_s: Seconds = 30
    cors_origins: tuple[str, ...] = ("*",)
    stream_keep_alive_s: Seconds = 10
    drain_timeout_s: Seconds = 330


class Redis(_Table, frozen=True, kw_only=True):
    """Where the state is; `timeout_ms` bounds every call."""

    url: str = "redis://localhost:6379/0"
    timeout_ms: Annotated[int, Meta(ge=10, le=60_000)] = 500
    embedded_dir: str | None = None


class Admin(_Table, frozen=True, kw_only=True):
    """The admin API: closed without a key."""

    key: SecretSource | None = None


class Keys(_Table, frozen=True, kw_only=True):
    """Tenants' keys: `pepper` is the key of their keyed hashes."""

    pepper: SecretSource | None = None


class Logs(_Table, frozen=True, kw_only=True):
    """What goes to standard error."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Images(_Table, frozen=True, kw_only=True):
    """Choices about OpenAI's wire."""

    size_policy: Literal["nearest", "strict"] = "nearest"
    response_format_on_gpt_image: Literal["accept", "refuse"] = "accept"


class Requests(_Table, frozen=True, kw_only=True):
    """Bounds of one request and of its upstream calls, in seconds and bytes."""

    deadline_s: Seconds = 300
    max_attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    connect_timeout_s: Seconds = 5
    call_timeout_s: Seconds = 150
    call_timeout_per_image_s: Annotated[float, Meta(ge=0, le=600)] = 10
    max_reply_bytes: Count = 64 * 1024 * 1024
    result_timeout_s: Seconds = 30
    result_max_bytes: Count = 32 * 1024 * 1024


class AccountKey(_Table, frozen=True, kw_only=True):
    """One credential."""

    name: Name
    secret: SecretSource


class Account(_Table, frozen=True, kw_only=True):
    """What the provider counts its limits on."""

    name: Name
    requests_per_minute: Count = 10
    images_per_minute: Count = 60
    max_concurrency: Count = 10
    keys: Annotated[tuple[AccountKey, ...], Meta(min_length=1)]


class Capabilities(_Table, frozen=True, kw_only=True):
    """What an upstream takes, where the operator knows better than the dialect."""

    max_images_per_call: Annotated[int, Meta(ge=1, le=9)] | None = None
    pixels: bool | None = None
    base64: bool | None = None
    seed: bool | None = None
    prompt_optimizer: bool | None = None
    aigc_watermark: bool | None = None
    style: bool | None = None
    subject_reference: bool | None = None


class Upstream(_Table, frozen=True, kw_only=True):
    """One provider at one address."""

    name: Name
    dialect: Literal["302ai", "minimax"]
    base_url: HttpUrl
    result_hosts: tuple[str, ...] | None = None
    capabilities: Capabilities = Capabilities()
    accounts: Annotated[tuple[Account, ...], Meta(min_length=1)]


class Target(_Table, frozen=True, kw_only=True):
    """Where a model is made, under the upstream's name for it."""

    upstream: str
    model: ModelName


class Model(_Table, frozen=True, kw_only=True):
    """What tenants ask for."""

    id: ModelName
    aliases: tuple[ModelName, ...] = ()
    price_per_image_usd: Price
    targets: Annotated[tuple[Target, ...], Meta(min_length=1)]

    @property
    def price_usd_micros(self) -> int:
        return int(Decimal(self.price_per_image_usd) * 1_000_000)


class Settings(_Table, frozen=True, kw_only=True):
    """The whole configuration; config/imagegate.toml explains every setting."""

    server: Server = Server()
    redis: Redis = Redis()
    admin: Admin = Admin()
    keys: Keys = Keys()
    logs: Logs = Logs()
    images: Images = Images()
    requests: Requests = Requests()
    upstreams: Annotated[tuple[Upstream, ...], Meta(min_length=1)]
    models: Annotated[tuple[Model, ...], Meta(min_length=1)]


def load(path: str | None, environ: Mapping[str, str]) -> Settings:
    """The settings of a file and the environment.

    `path` None means `IMAGEGATE_CONFIG`, else `config/imagegate.toml`.
    Raises: SettingsError.
    """
    path = config_path(path, environ)
    try:
        document = tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}). Name a file with --config or IMAGEGATE_CONFIG."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from error
    return from_document(document, environ, path)


def config_path(path: str | None, environ: Mapping[str, str]) -> str:
    """The file that is read."""
    return path or environ.get(f"{ENV_PREFIX}CONFIG") or DEFAULT_FILE


def from_document(document: dict[str, object], environ: Mapping[str, str], source: str) -> Settings:
    """Validated settings of a parsed document. Raises: SettingsError naming `source`."""
    document = copy.deepcopy(document)
    _overlay(document, environ)
    try:
        settings = msgspec.convert(document, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {_explain(str(error))}") from error
    for problem in _problems(settings):
        raise SettingsError(f"{source}: {problem}")
    return settings


def read_secret(source: SecretSource, environ: Mapping[str, str], where: str) -> Secret:
    """The secret that a source names. Raises: SettingsError naming `where`."""
    if (source.env is None) == (source.file is None):
        raise SettingsError(f'{where}: give either {{ env = "VARIABLE" }} or {{ file = "/path" }}')
    if source.env is not None:
        value = environ.get(source.env, "")
        remedy = f"the environment variable {source.env} is not set; set it, or remove this entry"
    else:
        value, remedy = _read_file(str(source.file)), f"the file {source.file} is missing, unreadable or empty"
    if not value.strip():
        raise SettingsError(f"{where}: {remedy}")
    if not value.strip().isascii() or not value.strip().isprintable():
        raise SettingsError(f"{where}: the secret holds characters that no HTTP header can carry; check its source")
    return make_secret(value.strip())


def make_secret(value: str) -> Secret:
    return Secret(value, f"fp-{hashlib.sha256(value.encode()).hexdigest()[:8]}")


def _read_file(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _overlay(document: dict[str, object], environ: Mapping[str, str]) -> None:
    """Lay `IMAGEGATE_SERVER__PORT=9090` over the document; list items are numbered: `IMAGEGATE_MODELS__0__ID`."""
    for variable in sorted(environ):
        path = variable.removeprefix(ENV_PREFIX).lower().split("__")
        if variable.startswith(ENV_PREFIX) and (len(path) > 1 or path[0] in Settings.__struct_fields__):
            _set(document, path, environ[variable], variable)


def _set(document: dict[str, object], path: list[str], text: str, variable: str) -> None:
    kind: object = Settings
    holder: object = document
    for depth, step in enumerate(path):
        kind = _step_type(kind, step, variable)
        is_last = depth == len(path) - 1
        value: object = _parse(kind, text, variable) if is_last else None
        holder = _descend(holder, step, value, is_last=is_last, variable=variable)


def _descend(holder: object, step: str, value: object, *, is_last: bool, variable: str) -> object:
    if isinstance(holder, dict):
        if is_last:
            holder[step] = value
        return holder.setdefault(step, {})
    if isinstance(holder, list) and step.isdecimal() and int(step) < len(holder):
        if is_last:
            holder[int(step)] = value
        return holder[int(step)]
    raise SettingsError(f"{variable}: there is no entry '{step}' in the configuration file to set")


def _step_type(kind: object, step: str, variable: str) -> object:
    """The type of a setting below another one."""
    kind = _plain(kind)
    if isinstance(kind, type) and issubclass(kind, _Table):
        found = {field.name: field.type for field in msgspec.structs.fields(kind)}
        if step in found:
            return found[step]
    elif get_origin(kind) is tuple and step.isdecimal():
        return get_args(kind)[0]
    raise SettingsError(f"{variable}: there is no setting of that name ('{step}' is unknown)")


def _plain(kind: object) -> object:
    """A type without its Annotated and its `| None`."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    members = [member for member in get_args(kind) if member is not type(None)]
    if get_origin(kind) is not tuple and get_origin(kind) is not Literal and len(members) == 1:
        return _plain(members[0])
    return kind


def _parse(kind: object, text: str, variable: str) -> object:
    """A variable's text as the setting's type; tables and lists are written in TOML."""
    plain = _plain(kind)
    try:
        if get_origin(plain) is tuple or (isinstance(plain, type) and issubclass(plain, _Table)):
            return tomllib.loads(f"value = {text}")["value"]
        return msgspec.to_builtins(msgspec.convert(text, kind, strict=False))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{variable}: expected a TOML list or table: {error}") from error
    except msgspec.ValidationError as error:
        setting = ".".join(variable.removeprefix(ENV_PREFIX).lower().split("__"))
        expected = _expected(setting) or str(error).partition(", got")[0].partition("Expected ")[2].strip("`")
        raise SettingsError(f"{variable}: {text!r} is not what this setting takes; expected {expected}") from error


def _explain(message: str) -> str:
    """Msgspec's message with the path first and, where it helps, what is expected there in words."""
    what, _, where = message.partition(" - at `$")
    where = where.rstrip("`").lstrip(".")
    what = what.replace("Object contains unknown field", "unknown setting").replace("Object missing", "missing")
    expected = _expected(where)
    if what.startswith("Expected `object") and what.endswith("got `str`") and expected == _SOURCE:
        what = f"never write the secret itself here; give {_SOURCE}"
    elif expected:
        what = f"{what.partition(', got')[0] if 'regex' in what else what}; expected {expected}"
    if "regex" in what:
        what = f"it is not {expected}"
    return f"{where}: {what}" if where else what


def _expected(where: str) -> str:
    """What a setting holds, in words; empty where its type says it all."""
    kind: object = Settings
    try:
        for step in re.findall(r"\w+", where.replace("[...]", "[0]")):
            kind = _step_type(kind, step, where)
    except SettingsError:
        return ""
    plain = _plain(kind)
    if plain is SecretSource:
        return _SOURCE
    if get_origin(plain) is Literal:
        return f"one of {', '.join(get_args(plain))}"
    notes = [note for note in getattr(kind, "__metadata__", ()) if isinstance(note, Meta) and note.description]
    return str(notes[0].description) if notes else ""


def _problems(settings: Settings) -> Iterable[str]:
    """What types cannot say."""
    yield from _twice("upstreams", (upstream.name for upstream in settings.upstreams))
    for upstream in settings.upstreams:
        yield from _twice(f"upstreams '{upstream.name}': accounts", (account.name for account in upstream.accounts))
        for account in upstream.accounts:
            names = (key.name for key in account.keys)
            yield from _twice(f"upstreams '{upstream.name}': account '{account.name}': keys", names)
    yield from _twice("models", (name for model in settings.models for name in (model.id, *model.aliases)))
    known = {upstream.name for upstream in settings.upstreams}
    for model in settings.models:
        for target in model.targets:
            if target.upstream not in known:
                yield (
                    f"models '{model.id}': targets: there is no upstream '{target.upstream}'; "
                    f"known are {', '.join(sorted(known))}"
                )
    if "*" not in settings.server.cors_origins and any(not _is_origin(o) for o in settings.server.cors_origins):
        yield "server.cors_origins: each must be '*' or an origin such as 'https://app.example.org'"


def _is_origin(text: str) -> bool:
    return text.startswith(("http://", "https://")) and text.count("/") == 2


def _twice(where: str, names: Iterable[str]) -> Iterable[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f"{where}: the name '{name}' is used twice; names must differ"
        seen.add(name)
