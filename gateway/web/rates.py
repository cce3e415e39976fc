"""`x-ratelimit-*`: how the tenant's rate limits stand, in requests and in images."""

from gateway.domain.rates import Rates
from gateway.web.record import RequestRecord


def tell_rates(record: RequestRecord, rates: Rates) -> None:
    """Put them into the headers of the answer, whatever it will be."""
    for unit, rate in (("requests", rates.requests), ("images", rates.images)):
        if rate:
            record.headers += [
                (f"x-ratelimit-limit-{unit}", str(rate.limit)),
                (f"x-ratelimit-remaining-{unit}", str(rate.remaining)),
                (f"x-ratelimit-reset-{unit}", duration_text(rate.reset_s)),
            ]


def duration_text(seconds: int) -> str:
    """As OpenAI writes it, and as parsers of theirs read it: "1s", "1m1s" (reference/openai-images.md 6.2)."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
