"""Composes what is told of each request: its log line, its ids, and its spans where somebody collects them."""

import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway import __version__
from gateway.settings import Settings, SettingsError
from gateway.web.lines import LineTerms
from gateway.web.middleware import Ids, TellSpans


@dataclass(frozen=True, slots=True)
class Observing:
    """For the middleware, and what must be started before the first request and closed after the last."""

    ids: Ids
    terms: LineTerms
    tell_spans: TellSpans | None = None
    starts: tuple[Callable[[], Awaitable[None]], ...] = ()
    closes: tuple[Callable[[], Awaitable[None]], ...] = ()


def build_observing(settings: Settings) -> Observing:
    """Raises: SettingsError where spans are wanted and the extra is not installed."""
    ids = Ids(lambda: f"req_{uuid.uuid4().hex}", lambda: uuid.uuid4().hex, lambda: secrets.token_hex(8))
    terms = LineTerms(settings.logs.prompts, settings.logs.client_address)
    endpoint = settings.tracing.otlp_endpoint
    if endpoint is None:
        return Observing(ids, terms)
    try:
        from gateway.tracing import SpanSender  # noqa: PLC0415 - an extra, and hundreds of modules nobody else needs
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"tracing.otlp_endpoint: needs the package {error.name}, which is not installed: "
            'pip install "imagegate[otel]", or take the setting out'
        ) from error
    sender = SpanSender(endpoint, settings.tracing.service_name, __version__, time.time_ns, time.monotonic)
    return Observing(ids, terms, sender.tell, (sender.start,), (sender.close,))
