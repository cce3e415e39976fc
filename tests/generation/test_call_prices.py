"""What a request costs by the answers of its calls, at a real provider's format that also reports tokens."""

import time
from dataclasses import dataclass, replace

import pytest

from gateway.domain.accounts import WaitConfig
from gateway.domain.images import ImageReply, ResponseFormat, TokenUsage
from gateway.domain.pricing import PerImage, PerToken, Stated
from gateway.generation.context import RequestContext
from gateway.generation.upstreams import UpstreamEndpoint, UpstreamSet
from gateway.providers.links import LinkPolicy
from gateway.providers.minimax import MiniMax
from gateway.providers.replies import UpstreamResponse
from tests.support.harness import Simulator
from tests.support.upstreams import Site, running

pytestmark = pytest.mark.anyio

TOKENS = PerToken(5_000_001, 30_000_000, input_tokens_max=100, output_tokens_max=1_000)


@dataclass
class Reporting(MiniMax):
    """MiniMax's format, with tokens and a cost beside the images."""

    usage: TokenUsage | None = None
    stated_usd_micros: int | None = None

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:
        made = super().read_reply(reply, delivery)
        return replace(made, usage=self.usage, stated_usd_micros=self.stated_usd_micros)


@pytest.mark.parametrize(
    ("rate", "provider", "charged", "basis"),
    [
        # 3 calls of 33 and 100 tokens: 3 * (165.000033 + 3000), rounded up once.
        (TOKENS, Reporting(TokenUsage(33, 100)), 9_496, "answer"),
        (TOKENS, Reporting(), 3 * 500 + 5 * 30_000 + 1, "reservation"),
        (TOKENS, Reporting(TokenUsage(100, 2_001)), 3 * 500 + 5 * 30_000 + 1, "limit"),
        (Stated(4_000), Reporting(stated_usd_micros=1_234), 3_702, "answer"),
        (PerImage(3_500), Reporting(TokenUsage(33, 100)), 17_500, "answer"),
    ],
)
async def test_a_request_of_several_calls_costs_what_their_answers_add_up_to(
    redis_url: str,
    simulator: Simulator,
    rate: PerToken | Stated | PerImage,
    provider: Reporting,
    charged: int,
    basis: str,
) -> None:
    endpoint = UpstreamEndpoint("sim", provider, simulator.url, LinkPolicy([simulator.url]))
    supply = UpstreamSet({"sim": endpoint}, (), {"sim": WaitConfig()})
    own = RequestContext("req_1", time.monotonic())
    async with running(redis_url, Site("sim", simulator.url, per_call=2), rate=rate) as make:
        result = await make(5, "a lake", context=own, supply=supply)
    assert own.reservation is not None
    assert (charged, basis) == (own.reservation.charged_usd_micros, own.reservation.tally.basis.value)
    assert result.usage == (
        provider.usage and TokenUsage(3 * provider.usage.input_tokens, 3 * provider.usage.output_tokens)
    )
