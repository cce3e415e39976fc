"""Glif, simple-api.glif.app: runs of workflows (reference/providers.md section 14).

A workflow's identifier is the model. Its inputs and its size are its own: the prompt is the first input.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import CallPlan, ImageJob, ImageReply, ImageUrl, ResponseFormat, Size
from gateway.domain.sizes import FixedSize
from gateway.providers.error_texts import refusal
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_link
from gateway.providers.stray_images import has_stray_images

_SQUARE: Final = Size(1024, 1024)
WORKFLOW: Final = ModelFacts(
    Capability((FixedSize(_SQUARE),), _SQUARE, prompt_max_chars=4000, supports_base64=False),
)
"""Any workflow. The size is nominal: a run states its own. Its price in Glif's credits has no known rate."""
_PATH: Final = "/"


class Glif:
    """The `glif` provider."""

    models: Mapping[str, ModelFacts] = {}
    base_url = "https://simple-api.glif.app"
    result_hosts: tuple[str, ...] = ("res.cloudinary.com",)
    """One of the hosts of its results; the others are not known."""
    paths: tuple[str, ...] = (_PATH,)

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:  # noqa: ARG002 - every workflow
        return lowered(WORKFLOW.capability, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        return _build({"id": plan.model, "inputs": [job.prompt]}, secret)

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:  # noqa: ARG002 - links only
        """Reads the image of a run. Raises: GatewayError; a success with an error is free only if its price is 0."""
        envelope = UntrustedObject({})
        try:
            envelope = parse_any(reply)
            return _read_image(reply, envelope)
        except GatewayError as error:
            if error.row.outcome is Outcome.UNKNOWN or not has_stray_images(reply, envelope):
                raise
            raise GatewayError(ErrorCode.INVALID_RESPONSE, f"images where none belong: {error.detail}") from error

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """Builds a request without a workflow, which cannot run. No free page is known."""
        return _build({}, secret)

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Accepts every status that does not refuse the key: what the API replies is not known."""
        if reply.status in {401, 403} or reply.status >= 500:
            raise http_error(reply, parse_any(reply).text("error"))
        return KeyCheck()


def _build(body: Mapping[str, object], secret: Secret) -> ProviderRequest:
    headers = (
        ("authorization", f"Bearer {secret.plaintext}"),
        ("content-type", "application/json"),
        ("accept", "application/json"),
    )
    return ProviderRequest("POST", _PATH, headers, (msgspec.json.encode(body),))


def _read_image(reply: UpstreamResponse, envelope: UntrustedObject) -> ImageReply:
    text, price, full = envelope.text("error"), envelope.value("price"), envelope.inner("outputFull")
    if not 200 <= reply.status < 300:
        raise http_error(reply, text)
    link = read_link(full.raw("value")) or read_link(envelope.raw("output"))
    if text and link is None and price == 0 and not isinstance(price, bool):
        raise refusal(ErrorCode.UPSTREAM_ERROR, text, text, reply)
    if text or link is None or full.text("type") not in {"", "IMAGE"}:
        raise GatewayError(ErrorCode.INVALID_RESPONSE, f"{text or 'no image'}, price {price}"[:1000])
    return ImageReply((ImageUrl(link.url),), envelope.text("id"), made=_size(full))


def _size(full: UntrustedObject) -> Size | None:
    width, height = full.integer("width"), full.integer("height")
    return Size(width, height) if width and height and min(width, height) > 0 else None
