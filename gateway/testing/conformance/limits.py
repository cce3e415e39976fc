"""The rate limit, if it may be provoked with bought images."""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from gateway.testing.conformance.checks import Check, InapplicableError, Level, UntriedError, expect_refusal, require
from gateway.testing.conformance.purchases import Purchase, Purchases
from gateway.testing.conformance.responses import member

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext

_CONCURRENCY: Final = 8
_CODES: Final = (
    "rate_limit_exceeded",
    "slow_down",
    "insufficient_quota",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "project_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
)
"""reference/openai-images.md 5.2."""


class RateLimitProvoker:
    """Sends up to a number of purchases, a few concurrently, until one is rate limited."""

    def __init__(self, purchases: Purchases, images_at_most: int) -> None:
        self._purchases = purchases
        self._left = images_at_most
        self._refused: Purchase | None = None

    def refused(self) -> Purchase:
        """Returns the first purchase refused with 429. Raises: InapplicableError."""
        while self._refused is None and self._left > 0:
            size = min(_CONCURRENCY, self._left)
            self._left -= size
            with ThreadPoolExecutor(size) as pool:
                made = list(pool.map(lambda _: self._order(), range(size)))
            self._refused = next((purchase for purchase in made if purchase and purchase.answer.status == 429), None)
        if self._refused is None:
            raise InapplicableError("no request was refused for its rate (--provoke-429 N sends N more)")
        return self._refused

    def _order(self) -> Purchase | None:
        try:
            return self._purchases.buy(model=self._purchases.model)
        except UntriedError:
            return None


def _shape(context: "CheckContext") -> None:
    expect_refusal(context.provoker.refused().answer, 429)


def _code(context: "CheckContext") -> None:
    answer = context.provoker.refused().answer
    code = member(answer.error, "code")
    require(code in _CODES, answer.quote())


def _retry_after(context: "CheckContext") -> None:
    headers = context.provoker.refused().answer.headers
    stated = headers.get("retry-after", "absent")
    try:
        pause_s = float(stated)
    except ValueError:
        pause_s = -1.0
    quota = headers.get("x-should-retry") == "false"
    require(quota or 0 < pause_s <= 120, f"retry-after is {stated}")


CHECKS: Final = (
    Check(
        "limits.refusal",
        Level.MUST,
        "A 429 has an error object with a message.",
        "Every SDK: RateLimitError without a text; Open WebUI shows the reason phrase alone.",
        _shape,
        buys=True,
    ),
    Check(
        "limits.code",
        Level.SHOULD,
        "error.code of a 429 distinguishes a rate (rate_limit_exceeded) from a quota (insufficient_quota).",
        "Programs that wait for the one and give up on the other.",
        _code,
        buys=True,
    ),
    Check(
        "limits.retry_after",
        Level.MUST,
        "A 429 that ends by waiting has a retry-after of more than 0 and at most 120 seconds.",
        "Python 3 SDK gives up above 120 s, Node 6 waits for however long; without it, both retry within seconds.",
        _retry_after,
        buys=True,
    ),
)
