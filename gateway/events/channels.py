"""Renders an event for each channel, and sends it: Standard Webhooks, Slack's text form, and e-mail."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Final, Protocol

import msgspec

from gateway.events import texts
from gateway.events.addresses import MAIL, AddressRules
from gateway.events.deliveries import Delivery
from gateway.events.endpoints import Channel, Endpoint
from gateway.events.signing import sign

BODY_MAX_BYTES: Final = 20_000
SPENDERS: Final = 3
"""API keys that an e-mail names."""
_BATCH: Final = "batch."


class Attempt(Protocol):
    """The result of one attempt: of HTTP the status, of SMTP its code; without one, `error` is the reason."""

    @property
    def status(self) -> int | None: ...
    @property
    def retry_after_s(self) -> float | None: ...
    @property
    def text(self) -> str: ...
    @property
    def error(self) -> str: ...


@dataclass(frozen=True, slots=True)
class NotSent:
    """An attempt that sent nothing."""

    error: str
    status: int | None = None
    retry_after_s: float | None = None
    text: str = ""


Post = Callable[[str, Mapping[str, str], bytes, bool], Awaitable[Attempt]]
"""Posts a body to a URL; True allows addresses that are not public, for origins that the configuration names."""
SendMail = Callable[[EmailMessage], Awaitable[Attempt]]
Spenders = Callable[[str], Awaitable[Sequence[tuple[str, str]]]]
"""Returns a tenant's API keys that spent most this month, with the amounts in US dollars."""


@dataclass(frozen=True, slots=True)
class Channels:
    """Sends an event to an endpoint."""

    rules: AddressRules
    post: Post
    send_mail: SendMail | None
    """None without [alerts.smtp]."""
    mail_from: str
    spenders: Spenders
    console_url: str | None
    clock: Callable[[], float]

    async def send(self, endpoint: Endpoint, event: Delivery) -> Attempt:
        """Makes one attempt, which does not fail. Raises: GatewayError REDIS_UNAVAILABLE."""
        if endpoint.problem:
            return NotSent(endpoint.problem)
        try:
            is_trusted = self.rules.check(endpoint.url)
        except ValueError as error:
            return NotSent(str(error))
        if endpoint.channel is Channel.EMAIL:
            return await self._mail(endpoint, event)
        headers = {"content-type": "application/json", "user-agent": "imagegate"}
        body = render_slack(event) if endpoint.channel is Channel.SLACK else render_webhook(event)
        now_s = self.clock()
        if secrets := endpoint.secrets(now_s):
            headers |= sign(secrets, event.event_id, int(now_s), body)
        return await self.post(endpoint.url, headers, body, is_trusted)

    async def _mail(self, endpoint: Endpoint, event: Delivery) -> Attempt:
        if self.send_mail is None:
            return NotSent("there is no mail server; set [alerts.smtp] host")
        spenders: Sequence[tuple[str, str]] = ()
        if event.tenant and event.type.startswith(("quota.", "budget.")):
            spenders = await self.spenders(event.tenant)
        message = EmailMessage()
        message["From"], message["To"] = self.mail_from, endpoint.url.removeprefix(MAIL)
        message["Subject"] = f"[imagegate] {texts.subject(event)}"
        host = self.mail_from.rpartition("@")[2].rstrip(">")
        message["Message-ID"] = f"<{event.event_id}.{endpoint.id}@{host}>"  # the same when it is repeated
        message["Date"] = texts.mail_date(event.at_ms / 1000)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(texts.body(event, spenders, self.console_url))
        return await self.send_mail(message)


def render_webhook(event: Delivery) -> bytes:
    """Renders the body: of batches OpenAI's, of others `type`, `timestamp`, `data` and `id`; at most 20 kB."""
    if event.type.startswith(_BATCH):
        head = {"id": event.event_id, "object": "event", "created_at": event.at_ms // 1000, "type": event.type}
        return msgspec.json.encode(head | {"data": {"id": event.data.get("id")}})
    head = {"id": event.event_id, "type": event.type, "timestamp": texts.moment(event.at_ms / 1000)}
    body = msgspec.json.encode(head | {"data": event.data})
    if len(body) <= BODY_MAX_BYTES:
        return body
    sizes = {name: len(msgspec.json.encode(value)) for name, value in event.data.items()}
    room, kept = BODY_MAX_BYTES - 2000, dict[str, object]()
    for name in sorted(sizes, key=lambda one: (sizes[one], one)):
        room -= sizes[name] + len(name) + 10
        if room < 0:
            break
        kept[name] = event.data[name]
    return msgspec.json.encode(head | {"data": kept | {"is_shortened": True}})


def render_slack(event: Delivery) -> bytes:
    """Renders `{"text": ...}`, which Slack, Mattermost, Discord (with /slack) and Teams accept.

    What it names is no markup: not of Slack, and not the links and mentions of the others, by a zero-width space.
    """
    text = texts.body(event, (), None)
    for markup, shown in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("@", "@\u200b"), ("](", "]\u200b(")):
        text = text.replace(markup, shown)
    return msgspec.json.encode({"text": text})
