"""`/admin/v1/webhooks`: endpoints of events, after the form of OpenAI's `/v1/webhook_endpoints`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.schemas import Name, Schema, read_document, value_or
from gateway.api.bodies import BodyLimits, json_response
from gateway.api.refusals import refused_value
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.events import EventType
from gateway.events.addresses import AddressRules
from gateway.events.deliveries import Delivery, DeliveryStore
from gateway.events.endpoint_store import EndpointStore, describe
from gateway.events.endpoints import Channel, Endpoint, channel_of, unknown_pattern
from gateway.events.sender import EventSender
from gateway.tenants.names import TenantNames
from gateway.tenants.store import TenantStore

_ONE = "/webhooks/{id}"
_Label = Annotated[str, Meta(min_length=1, max_length=100)]
_Url = Annotated[str, Meta(max_length=2000)]
_Patterns = Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(min_length=1, max_length=50)]


class _NewWebhook(Schema):
    """An endpoint. Without a channel it is e-mail for a mailto: URL, else a signed webhook."""

    name: _Label
    url: _Url
    event_types: _Patterns
    channel: Literal["webhook", "slack", "email"] | None = None
    tenant: Name | None = None


class _WebhookChange(Schema):
    """Missing fields stay unchanged."""

    name: _Label | UnsetType = UNSET
    url: _Url | UnsetType = UNSET
    event_types: _Patterns | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET


class _Rotation(Schema):
    keep_old_secret_active_for_24_hours: bool = True


class _Test(Schema):
    event_type: str


@dataclass(frozen=True, slots=True, repr=False)
class WebhookSection:
    """Routes of endpoints and their deliveries."""

    endpoints: EndpointStore
    deliveries: DeliveryStore
    sender: EventSender
    tenants: TenantStore
    names: TenantNames
    rules: AddressRules
    limits: BodyLimits
    has_mail: bool

    def handlers(self) -> Handlers:
        return {
            "/webhooks": {"GET": self.list_webhooks, "POST": self.create},
            _ONE: {"GET": self.get, "PATCH": self.update, "DELETE": self.delete},
            f"{_ONE}/rotate_secret": {"POST": self.rotate},
            f"{_ONE}/test": {"POST": self.test},
            f"{_ONE}/deliveries": {"GET": self.list_deliveries},
            f"{_ONE}/deliveries/{{delivery}}/replay": {"POST": self.replay},
        }

    async def list_webhooks(self, _: Request, __: Actor) -> Response:
        data = [await self._described(endpoint) for endpoint in await self.endpoints.list_all()]
        return json_response({"object": "list", "data": data, "has_more": False})

    async def create(self, request: Request, actor: Actor) -> Response:
        """Creates an endpoint. Only this response and that of a rotation hold the secret."""
        new = await read_document(request, self.limits, _NewWebhook)
        tenant = new.tenant and (await self.tenants.get(await self.names.resolve(new.tenant))).name
        channel = self._check_url(new.url, new.channel)
        types = _checked(new.event_types)
        endpoint = Endpoint("", new.url, channel, types, new.name, tenant or "")
        return json_response(await self._with_secret(await self.endpoints.create(endpoint, actor)), 201)

    async def get(self, request: Request, _: Actor) -> Response:
        return json_response(await self._described(await self._endpoint(request)))

    async def update(self, request: Request, actor: Actor) -> Response:
        """Changes an endpoint. To enable or disable is possible for declared ones too."""
        change, name = await read_document(request, self.limits, _WebhookChange), request.path_params["id"]
        endpoint = await self._endpoint(request)
        if not isinstance(change.url, UnsetType):
            self._check_url(change.url, endpoint.channel.value)
        types = None if isinstance(change.event_types, UnsetType) else _checked(change.event_types)
        if any(value is not UNSET for value in (change.name, change.url, change.event_types)):

            def changed(before: Endpoint) -> Endpoint:
                return replace(
                    before,
                    name=value_or(change.name, before.name),
                    url=value_or(change.url, before.url),
                    event_types=types or before.event_types,
                )

            endpoint = await self.endpoints.update(name, changed, actor)
        if not isinstance(change.enabled, UnsetType):
            await self.endpoints.hold(name, actor, is_disabled=not change.enabled)
        return json_response(await self._described(endpoint))

    async def delete(self, request: Request, actor: Actor) -> Response:
        name: str = request.path_params["id"]
        await self.endpoints.delete(name, actor)
        await self.deliveries.forget(name)
        return json_response({"id": name, "object": "webhook_endpoint.deleted", "deleted": True})

    async def rotate(self, request: Request, actor: Actor) -> Response:
        terms = await read_document(request, self.limits, _Rotation)
        keeps_old = terms.keep_old_secret_active_for_24_hours
        endpoint = await self.endpoints.rotate(request.path_params["id"], actor, keeps_old=keeps_old)
        return json_response(await self._with_secret(endpoint))

    async def test(self, request: Request, actor: Actor) -> Response:
        """Sends an event at once, also to a disabled endpoint. `success` is whether a status came back."""
        wanted = (await read_document(request, self.limits, _Test)).event_type
        known = [kind.value for kind in EventType]
        if wanted not in known:
            raise refused_value("event_type", f"expected one of {', '.join(known)}.")
        endpoint = await self._endpoint(request)
        await self.endpoints.note("webhook.test", endpoint, actor)
        attempt = await self.sender.send_test(endpoint, EventType(wanted))
        return json_response(
            {
                "object": "webhook_endpoint.test",
                "webhook_endpoint_id": endpoint.id,
                "event_type": wanted,
                "success": attempt.status is not None,
                "status_code": attempt.status,
                "error": attempt.error or None,
                "answer": attempt.text or None,
            }
        )

    async def list_deliveries(self, request: Request, _: Actor) -> Response:
        endpoint = await self._endpoint(request)
        data = [_delivery(one) for one in await self.deliveries.list_latest(endpoint.id)]
        return json_response({"object": "list", "data": data, "has_more": False})

    async def replay(self, request: Request, actor: Actor) -> Response:
        """Delivers an ended delivery again, with the same event ID."""
        endpoint, wanted = await self._endpoint(request), request.path_params["delivery"]
        delivery = await self.deliveries.find(endpoint.id, wanted)
        if delivery is None:
            raise GatewayError(ErrorCode.NOT_FOUND, f"Webhook '{endpoint.id}' has no delivery '{wanted[:64]}'.")
        if not await self.deliveries.replay(endpoint.id, delivery):
            raise GatewayError(ErrorCode.CONFLICT, f"'{delivery.id}' is still pending: it will be sent by itself.")
        await self.endpoints.note("webhook.replay", endpoint, actor)
        return json_response(_delivery(await self.deliveries.find(endpoint.id, wanted) or delivery))

    async def _endpoint(self, request: Request) -> Endpoint:
        return await self.endpoints.get(request.path_params["id"])

    async def _described(self, endpoint: Endpoint) -> dict[str, object]:
        disabled = await self.endpoints.disabled(endpoint.id)
        state: dict[str, object] = {"enabled": disabled is None, "problem": endpoint.problem or None}
        if disabled:
            state |= {"disabled_at": disabled.at, "disabled_reason": disabled.reason}
        [shown] = await self.names.show([describe(endpoint)])
        return shown | state

    async def _with_secret(self, endpoint: Endpoint) -> dict[str, object]:
        secret = {"signing_secret": endpoint.secret.plaintext} if endpoint.secret else {}
        [shown] = await self.names.show([describe(endpoint)])
        return shown | {"enabled": True} | secret

    def _check_url(self, url: str, name: str | None) -> Channel:
        """Raises: GatewayError INVALID_VALUE."""
        try:
            channel = channel_of(url, name)
            self.rules.check(url)
        except ValueError as error:
            raise refused_value("url", f"{error}.") from None
        if channel is Channel.EMAIL and not self.has_mail:
            raise refused_value("url", "there is no mail server; set [alerts.smtp] in the configuration.")
        return channel


def _checked(patterns: Sequence[str]) -> tuple[str, ...]:
    """Raises: GatewayError INVALID_VALUE."""
    if unknown := unknown_pattern(patterns):
        known = ", ".join(kind.value for kind in EventType)
        raise refused_value("event_types", f"no event matches '{unknown[:100]}'. Events: {known}.")
    return tuple(dict.fromkeys(patterns))


def _delivery(delivery: Delivery) -> dict[str, object]:
    return {
        "id": delivery.id,
        "object": "webhook_endpoint.delivery",
        "event_id": delivery.event_id,
        "event_type": delivery.type,
        "created_at": delivery.at_ms // 1000,
        "result": delivery.result,
        "attempts": delivery.attempts,
        "attempted_at": delivery.attempted_ms // 1000 or None,
        "status_code": delivery.status,
        "error": delivery.error or None,
        "answer": delivery.answer or None,
    }
