"""`[alerts]`: endpoints of events, the mail server, and which addresses may be used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from msgspec import Meta

from gateway.config.secrets import read_secret
from gateway.config.upstreams import HttpUrl, Name, SecretSource, SettingsError, Table
from gateway.events.addresses import AddressRules, origin_of
from gateway.events.endpoints import Channel, Endpoint, channel_of, unknown_pattern
from gateway.events.mail import IMPLICIT_TLS_PORT, MailServer
from gateway.events.signing import parse_secret

_LOCAL: Final = frozenset(("localhost", "127.0.0.1", "::1"))
_Port = Annotated[int, Meta(ge=1, le=65535, description="a port, 1 to 65535")]
_Host = Annotated[str, Meta(pattern=r"^[A-Za-z0-9.:_-]{1,253}\Z", description="a host name or an address")]
_Pattern = Annotated[
    str,
    Meta(
        pattern=r"^[a-z_.*]{1,100}\Z", description='a type of event, as "quota.exhausted", or a pattern, as "quota.*"'
    ),
]
_Sender = Annotated[
    str,
    Meta(
        pattern=r"^([^<>\r\n@]{1,100} <[^<>\s@]+@[^<>\s@]+>|[^<>\s@]+@[^<>\s@]+)\Z",
        description='an address, as "Gateway <imagegate@example.com>"',
    ),
]


class Smtp(Table, frozen=True, kw_only=True, rename={"sender": "from"}):
    """The mail server of e-mail alerts."""

    host: _Host
    port: _Port = 587
    sender: _Sender
    username: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    password: SecretSource | None = None
    starttls: bool = True


class AlertEndpoint(Table, frozen=True, kw_only=True):
    """Where events are sent. Its URL may come from the environment or a file, as Slack's is a secret."""

    name: Name
    url: Annotated[str, Meta(min_length=1)] | SecretSource
    channel: Literal["webhook", "slack", "email"] | None = None
    secret: SecretSource | None = None
    events: Annotated[tuple[_Pattern, ...], Meta(min_length=1)] = ("*",)
    tenant: Name | None = None


class Alerts(Table, frozen=True, kw_only=True):
    """Events that are sent to webhooks, Slack and by e-mail."""

    console_url: HttpUrl | None = None
    allowed_ports: tuple[_Port, ...] = (443, 8443)
    trusted_origins: tuple[HttpUrl, ...] = ()
    smtp: Smtp | None = None
    endpoints: tuple[AlertEndpoint, ...] = ()


@dataclass(frozen=True, slots=True)
class AlertConfig:
    """Resolved `[alerts]`."""

    rules: AddressRules = field(default_factory=AddressRules)
    endpoints: tuple[Endpoint, ...] = field(default=(), repr=False)
    mail: MailServer | None = field(default=None, repr=False)
    console_url: str | None = None


def resolve_alerts(alerts: Alerts, environ: Mapping[str, str]) -> AlertConfig:
    """Reads the secrets. The origins of declared endpoints are trusted. Raises: SettingsError."""
    endpoints = tuple(_endpoint(endpoint, environ) for endpoint in alerts.endpoints)
    trusted = frozenset(
        origin for url in (*alerts.trusted_origins, *(one.url for one in endpoints)) if (origin := origin_of(url))
    )
    if any(one.channel is Channel.EMAIL for one in endpoints) and alerts.smtp is None:
        raise SettingsError("alerts.endpoints: e-mail needs a mail server; set [alerts.smtp] host and from")
    rules = AddressRules(frozenset(alerts.allowed_ports), trusted)
    return AlertConfig(rules, endpoints, _mail(alerts.smtp, environ), alerts.console_url)


def _endpoint(endpoint: AlertEndpoint, environ: Mapping[str, str]) -> Endpoint:
    where = f"alerts.endpoints '{endpoint.name}'"
    url = endpoint.url
    if isinstance(url, SecretSource):
        url = read_secret(url, environ, f"{where}: url").plaintext
    try:
        channel = channel_of(url, endpoint.channel)
        AddressRules(trusted_origins=frozenset({origin_of(url)} - {""})).check(url)
    except ValueError as error:
        raise SettingsError(f"{where}: url: {error}") from error
    if (channel is Channel.WEBHOOK) != (endpoint.secret is not None):
        problem = "a webhook needs a secret that signs it" if channel is Channel.WEBHOOK else "only a webhook is signed"
        remedy = "set secret = { env = ... }, or channel" if channel is Channel.WEBHOOK else "remove secret"
        raise SettingsError(f"{where}: {problem}; {remedy}")
    if unknown := unknown_pattern(endpoint.events):
        raise SettingsError(f"{where}: events: no event matches '{unknown}'; see docs/events.md")
    secret = read_secret(endpoint.secret, environ, f"{where}: secret") if endpoint.secret else None
    try:
        parse_secret(secret.plaintext) if secret else None
    except ValueError as error:
        raise SettingsError(f"{where}: secret: {error}") from error
    return Endpoint(
        *(endpoint.name, url, channel, endpoint.events, endpoint.name, endpoint.tenant or "", secret),
        is_declared=True,
    )


def _mail(smtp: Smtp | None, environ: Mapping[str, str]) -> MailServer | None:
    if smtp is None:
        return None
    if (smtp.username is None) != (smtp.password is None):
        raise SettingsError("alerts.smtp: give username and password, or neither")
    if smtp.username and not smtp.starttls and smtp.port != IMPLICIT_TLS_PORT and smtp.host not in _LOCAL:
        raise SettingsError(
            "alerts.smtp.starttls: false would send the password unencrypted; remove it, or the username"
        )
    password = read_secret(smtp.password, environ, "alerts.smtp.password") if smtp.password else None
    return MailServer(smtp.host, smtp.port, smtp.sender, smtp.username, password, smtp.starttls)
