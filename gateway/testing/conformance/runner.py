"""Runs the checks sequentially against one server."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from gateway.testing.conformance.checks import (
    BrokenError,
    Check,
    Finding,
    InapplicableError,
    Level,
    Outcome,
    UntriedError,
)
from gateway.testing.conformance.context import CheckContext
from gateway.testing.conformance.fields import Refusals
from gateway.testing.conformance.limits import RateLimitProvoker
from gateway.testing.conformance.models import list_models
from gateway.testing.conformance.purchases import Purchases
from gateway.testing.conformance.registry import CHECKS, CONTRACT_IMAGES, IMAGES_MAX, MISTAKEN_MAX
from gateway.testing.conformance.responses import member
from gateway.testing.conformance.server import EDITS, GENERATIONS, Server

DEFAULT_MODEL: Final = "dall-e-3"
"""The model name that most clients use (reference/openai-images.md 1.1)."""
_IMAGE_WORDS: Final = ("image", "dall-e", "flux", "diffusion", "sdxl", "recraft", "ideogram", "seedream", "midjourney")


class UnusableError(Exception):
    """The run cannot start; the text states the reason and the fix."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Parameters of a run."""

    base_url: str
    key: str
    model: str | None = None
    timeout_s: float = 120.0
    buys: bool = True
    programs: bool = True
    """Sends the requests of client programs too."""
    provoked: int = 0
    """Additional images that may be bought to reach the rate limit."""

    @property
    def images_max(self) -> int:
        images = IMAGES_MAX if self.programs else CONTRACT_IMAGES
        return images + self.provoked if self.buys else 0

    def wants(self, check: Check) -> bool:
        return (self.buys or not check.buys) and (self.programs or not check.program)

    @property
    def mistaken_max(self) -> int:
        """Additional images made by a server that refuses nothing."""
        return MISTAKEN_MAX


@dataclass(frozen=True, slots=True)
class Report:
    """Result of a run."""

    base_url: str
    model: str
    findings: tuple[Finding, ...]
    images_seen: int
    """In the responses."""

    def count(self, outcome: Outcome, level: Level | None = None) -> int:
        return sum(
            found.outcome is outcome and (level is None or found.check.level is level) for found in self.findings
        )

    @property
    def holds(self) -> bool:
        """True if every MUST check holds; an untried one does not."""
        return not any(self.count(outcome, Level.MUST) for outcome in (Outcome.FAILS, Outcome.UNTRIED))


def base_url_of(url: str) -> str:
    """Returns the base URL in the SDK's form: a bare address gets /v1. Raises: UnusableError."""
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in {"http", "https"} and bool(parts.hostname) and not parts.query
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        is_address = False
    if not is_address:
        raise UnusableError("URL must be as http://127.0.0.1:8080/v1")
    return url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"


def conform(plan: Plan, tell: Callable[[int, int], None]) -> Report:
    """Runs all checks; `tell` receives the number of finished checks and the total.

    Raises: UnusableError if the server is unreachable or refuses the key.
    """
    base_url = base_url_of(plan.base_url)
    with closing(Server(base_url, plan.key, plan.timeout_s)) as server:
        listed = _look(server)
        model = plan.model or _first_image_model(listed)
        with closing(Purchases(server, model, frozenset(listed))) as purchases:
            provoker = RateLimitProvoker(purchases, plan.provoked if plan.buys else 0)
            findings = _try_all(plan, CheckContext(server, purchases, Refusals(server, model), provoker), tell)
        return Report(base_url, model, findings, _count_images(server))


def _try_all(plan: Plan, context: CheckContext, tell: Callable[[int, int], None]) -> tuple[Finding, ...]:
    checks = [check for check in CHECKS if plan.wants(check)]
    findings = []
    for done, check in enumerate(checks):
        tell(done, len(checks))
        findings.append(_try(check, context))
    return tuple(findings)


def _look(server: Server) -> list[str]:
    """Returns the listed models; empty if the list is invalid, which a check reports. Raises: UnusableError."""
    try:
        answer = server.get("/models")
        if answer.status in {401, 403}:
            raise UnusableError(f"the key is refused at {server.base_url} (HTTP {answer.status}); check --key")
        if answer.status == 404 and answer.document is None:
            raise UnusableError(f"{server.base_url} has no /models; is the base URL right?")
        names = [member(entry, "id") for entry in list_models(server)]
    except UntriedError as error:
        raise UnusableError(f"{server.base_url} cannot be used: {server.safe(str(error))}") from error
    except BrokenError:
        return []
    return [name for name in names if isinstance(name, str)]


def _first_image_model(listed: list[str]) -> str:
    return next((name for name in listed if any(word in name.lower() for word in _IMAGE_WORDS)), DEFAULT_MODEL)


def _try(check: Check, context: CheckContext) -> Finding:
    try:
        check.attempt(context)
    except BrokenError as error:
        return Finding(check, Outcome.FAILS, context.server.safe(str(error)))
    except InapplicableError as error:
        return Finding(check, Outcome.INAPPLICABLE, context.server.safe(str(error)))
    except UntriedError as error:
        return Finding(check, Outcome.UNTRIED, context.server.safe(str(error)))
    return Finding(check, Outcome.HOLDS)


def _count_images(server: Server) -> int:
    """Counts images in responses to generations and edits; a stream has one."""
    made = [answer for answer in server.answers if answer.status == 200 and _is_purchase(answer.request)]
    found = [member(answer.document, "data") for answer in made]
    streams = sum(answer.media_type == "text/event-stream" for answer in made)
    return streams + sum(len(data) for data in found if isinstance(data, list))


def _is_purchase(request: str) -> bool:
    path = request.partition("?")[0]
    return request.startswith("POST ") and path.endswith((GENERATIONS, EDITS))
