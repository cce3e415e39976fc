"""Translation between outside JSON and the domain. Pure: no clock, no environment, no network.

A new provider is one file with a class of this protocol and one line in `DIALECTS`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from gateway.domain.images import Capability, Delivery, ImageJob, ImageReply, Shape
from gateway.wire.ai302 import Ai302
from gateway.wire.envelope import Reply
from gateway.wire.minimax import MiniMax
from gateway.wire.probes import ProbeResult


class Dialect(Protocol):
    """How one provider is spoken to."""

    @property
    def path(self) -> str:
        """The route of its image generation, below the base URL."""

    @property
    def probe_path(self) -> str:
        """A page below the base URL that a key can ask for without making or paying anything."""

    @property
    def result_hosts(self) -> tuple[str, ...]:
        """Host patterns to which its result links are known to point."""

    def capability(self, model: str) -> Capability:
        """What one call can do, unless the operator says otherwise."""

    def build_call(self, job: ImageJob, count: int, model: str, shape: Shape, delivery: Delivery) -> tuple[bytes, ...]:
        """The JSON body of one call for `count` images, in pieces that follow each other."""

    def read_reply(self, reply: Reply, delivery: Delivery) -> ImageReply:
        """The pictures of an answer.

        Raises: GatewayError for every other answer.
        """

    def read_probe(self, reply: Reply) -> ProbeResult:
        """What the page of `probe_path` says of the key that asked for it."""


DIALECTS: Final[Mapping[str, Dialect]] = MappingProxyType({"302ai": Ai302(), "minimax": MiniMax()})
