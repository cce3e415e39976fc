"""`x-ratelimit-*`: how the tenant's rate limits stand, in requests and in images."""

from collections.abc import Iterator

from gateway.domain.rates import Rates


def rate_headers(rates: Rates) -> Iterator[tuple[str, str]]:
    """Names and values."""
    for unit, rate in (("requests", rates.requests), ("images", rates.images)):
        if rate:
            yield f"x-ratelimit-limit-{unit}", str(rate.limit)
            yield f"x-ratelimit-remaining-{unit}", str(rate.remaining)
            yield f"x-ratelimit-reset-{unit}", duration_text(rate.reset_s)


def duration_text(seconds: int) -> str:
    """As OpenAI writes it, and as parsers of theirs read it: "1s", "1m1s" (reference/openai-images.md 6.2)."""
    minutes, rest = divmod(seconds, 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
