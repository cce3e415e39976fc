"""What every provider implements, and the values that pass between it and the upstream calls."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway.domain.accounts import Secret
from gateway.domain.errors import ErrorCode
from gateway.domain.images import CallPlan, Capability, ImageJob, ImageReply, ResponseFormat
from gateway.providers.replies import UpstreamResponse


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """One HTTP request to a provider."""

    method: str
    path: str
    """Below the base URL."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """Authentication included."""
    body: tuple[bytes, ...] = field(default=(), repr=False)
    """Pieces that follow each other: one of them may be megabytes."""


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """The health of a key, as a request that costs nothing shows it."""

    error_code: ErrorCode | None = None
    """None if the key works, as far as the reply shows."""
    detail: str = ""
    """The provider's text, for the log and the operator."""
    proves_balance: bool = False
    """The reply covers what the account may spend, not only the key."""
    window_s: float | None = None
    """Seconds until a used-up window of the plan ends, if the reply leaves no doubt of it."""
    window_if_spent_s: float | None = None
    """The same, if something else than the reply shows that the plan is used up."""
    has_plan_left: bool = False
    """The plan has something left, without doubt."""
    seconds: float = 0.0
    """How long the check took."""


class Provider(Protocol):
    """The protocol of one provider. Capabilities are data: `domain.images` plans every call from them."""

    @property
    def result_hosts(self) -> tuple[str, ...]:
        """Host patterns to which its result links are known to point."""

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        """What one call can do. `overrides`: what the operator's `capabilities` say, by setting."""

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        """One call of the job."""

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:
        """Reads the images of a reply.

        Raises: GatewayError for every other reply.
        """

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """A request that shows the health of a key and costs nothing."""

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Reads the reply to it. Raises: GatewayError for an error of the provider, which says what ails the key."""


def bearer(secret: Secret) -> tuple[str, str]:
    return ("authorization", f"Bearer {secret.reveal()}")
