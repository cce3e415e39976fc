"""The protocol that every provider implements, and its value types."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Literal, Protocol, runtime_checkable

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import CallPlan, ImageJob, ImageReply, ResponseFormat
from gateway.domain.pricing import Rate
from gateway.domain.tasks import PollRhythm, Task
from gateway.providers.replies import UpstreamResponse


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """One HTTP request to a provider."""

    method: str
    path: str
    """Relative to the base URL."""
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    """Including authentication."""
    body: tuple[bytes | memoryview, ...] = field(default=(), repr=False)
    """Consecutive pieces; one of them may be megabytes."""
    copied_bytes: int = 0
    """Of the body, in memory beside the job."""


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """The result of a free health check of a provider key."""

    error_code: ErrorCode | None = None
    """None if the key works, as far as the response shows."""
    detail: str = ""
    """The provider's text, for the log and the operator."""
    proves_balance: bool = False
    """The check covers the account's balance, not only the key."""
    window_s: float | None = None
    """Seconds until the end of a plan window that is certainly used up."""
    window_if_spent_s: float | None = None
    """Seconds until the end of a window that may be used up; valid if another error proves it."""
    has_plan_left: bool = False
    """The plan certainly has quota left."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a provider's model, as data with its source in a comment."""

    capability: Capability
    rate: Rate | None = None  # what the provider takes; None if its price is not known
    retires_on: date | None = None  # from this day (UTC) on the provider refuses it; None if no day is known
    currency: Literal["USD", "CNY"] = "USD"  # of the rate: millionths of a yuan with "CNY"


def lowered(base: Capability, overrides: Mapping[str, int]) -> Capability:
    """Applies the overrides that any provider can honour. Raises: ValueError that names another one, and its value."""
    for name, value in overrides.items():
        if name == "max_images_per_call" and value <= base.max_images_per_call:
            base = replace(base, max_images_per_call=value)
        elif name == "seed" and not value:
            base = replace(base, fields=base.fields - {"seed"})
        elif not (name == "seed" and "seed" in base.fields):
            raise ValueError(f"{name}: this provider does not support {value}. Remove the setting")
    return base


class Provider(Protocol):
    """One provider's API. Capabilities are data: `domain.images` plans every call from them."""

    @property
    def base_url(self) -> str:
        """Its public address; empty if the operator must choose one."""

    @property
    def result_hosts(self) -> tuple[str, ...]:
        """Known host patterns of its result URLs."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that it appends to the base URL."""

    @property
    def models(self) -> Mapping[str, ModelFacts]:
        """Its known models, by its names for them. It may have others."""

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        """Returns the capability of one call. `overrides`: the operator's `capabilities`, by setting.

        Raises: ValueError, which begins with the setting that the provider cannot honour; LookupError for a model that
        the gateway cannot deliver.
        """

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        """Builds one call of the job, which has only fields that the capability honours."""

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply | Task:
        """Reads the images of a response, or the task that it began. Raises: GatewayError for every other response."""

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """Builds a free request that shows the health of a key."""

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Reads the response of a key check. Raises: GatewayError with the provider's error."""


@runtime_checkable
class DoubleCheckedProvider(Provider, Protocol):
    """A provider whose key check may refuse a valid key."""

    def build_second_check(self, secret: Secret) -> ProviderRequest | None:
        """Builds a free request that confirms KEY_INVALID of the first one; None if that is certain."""

    def read_second_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Reads its response. Raises: GatewayError with the provider's error."""


@runtime_checkable
class TaskProvider(Provider, Protocol):
    """A provider whose calls begin tasks."""

    @property
    def rhythm(self) -> PollRhythm:
        """When its tasks are polled."""

    @property
    def poll_hosts(self) -> tuple[str, ...]:
        """Host patterns of poll URLs that may be given a key, over https, besides the base URL's own origin."""

    def build_poll(self, task: Task, secret: Secret) -> ProviderRequest:
        """Builds the free request for the state of a task. Its path is used unless the task's own URL is trusted."""

    def read_poll(
        self, reply: UpstreamResponse, task: Task, delivery: ResponseFormat
    ) -> ImageReply | GatewayError | None:
        """Reads the state of a task.

        Returns: its images, its error, or None while it has not ended.
        Raises: GatewayError if the response says nothing about the task, which is then polled again.
        """
