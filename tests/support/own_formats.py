"""Calls and replies of one provider, without a network."""

import base64
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.domain.accounts import make_secret
from gateway.domain.catalog import plan_shape
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import (
    Base64Image,
    CallPlan,
    Format,
    ImageJob,
    ImageReply,
    ImageUrl,
    InputImage,
    Operation,
    ResponseFormat,
    Role,
)
from gateway.domain.sizes import SizePolicy
from gateway.providers import PROVIDERS
from gateway.providers.protocol import KeyCheck, ProviderRequest
from gateway.providers.replies import UpstreamResponse
from tests.support.pictures import drawn

SECRET = make_secret("sk-secret")
PNG = drawn("PNG", (48, 32))
ENCODED = base64.b64encode(PNG).decode()
EDIT = ImageJob(
    "in red",
    operation=Operation.EDIT,
    inputs=(InputImage(Role.IMAGE, f'"data:image/png;base64,{ENCODED}"'.encode(), Format.PNG, len(PNG)),),
)


@dataclass(frozen=True)
class Wire:
    """A provider, and one of its models."""

    provider: str
    model: str

    def request(self, job: ImageJob, images: int = 1) -> ProviderRequest:
        """The call of a job that the model's capability honours."""
        provider = PROVIDERS[self.provider]
        shape = plan_shape(job, provider.capability(self.model, {}), SizePolicy.NEAREST)
        assert shape, "the capability does not honour the job"
        return provider.build_call(job, CallPlan(self.model, images, shape, ResponseFormat.BASE64), SECRET)

    def body(self, job: ImageJob, images: int = 1) -> dict[str, object]:
        """The JSON body of its call."""
        found: dict[str, object] = msgspec.json.decode(b"".join(self.request(job, images).body))
        return found

    def read(self, body: object, status: int = 200) -> ImageReply:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        sent = self.request(ImageJob("https://example.com/an-elephant.png")).body
        reply = UpstreamResponse(status, content, sent=sent)
        made = PROVIDERS[self.provider].read_reply(reply, ResponseFormat.BASE64)
        assert isinstance(made, ImageReply)
        return made

    def outcome(self, body: object, status: int = 200) -> ErrorCode | list[str]:
        """The error code of a reply, or its links and the first characters of its images."""
        try:
            pictures = self.read(body, status).pictures
        except GatewayError as error:
            return error.error_code
        return [shown(picture) for picture in pictures]

    def check(self, body: object, status: int = 200) -> KeyCheck:
        """What the reply to a key check shows."""
        try:
            return PROVIDERS[self.provider].read_key_check(UpstreamResponse(status, msgspec.json.encode(body)))
        except GatewayError as error:
            return KeyCheck(error.error_code)


def shown(picture: ImageUrl | Base64Image) -> str:
    return picture.url if isinstance(picture, ImageUrl) else bytes(picture.base64[:4]).decode()


STRANGE: Final[tuple[tuple[object, int], ...]] = (
    ({}, 200),
    ([], 200),
    (b"", 200),
    (b"{", 200),
    (b"\xff", 200),
    (b"[" * 5000, 200),
    ({"data": [{"b64_json": ENCODED}]}, 200),
    ({"images": [{"base64": ENCODED}]}, 200),
    ({"error": {"message": "x"}, "data": ENCODED}, 400),
    (PNG, 200),
    (PNG, 500),
    ({"error": "x"}, 502),
    ({"error": "x"}, 500),
    (b"Gateway Timeout", 504),
)
"""Replies that are no provider's success or refusal, by body and status: their images may have been billed."""
