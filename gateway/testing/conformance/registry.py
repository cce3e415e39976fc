"""Every check, in order of execution: those that check all responses come last."""

from typing import Final

from gateway.testing.conformance import (
    authentication,
    errors,
    fields,
    headers,
    images,
    limits,
    models,
    routes,
    sdk,
    streams,
)
from gateway.testing.conformance.checks import Check
from gateway.testing.conformance.fields import WRONGS
from gateway.testing.conformance.purchases import IMAGES

CHECKS: Final[tuple[Check, ...]] = (
    *authentication.CHECKS,
    *models.CHECKS,
    *routes.CHECKS,
    *fields.CHECKS,
    *images.CHECKS,
    *streams.CHECKS,
    *sdk.CHECKS,
    *limits.CHECKS,
    *headers.CHECKS,
    *errors.CHECKS,
)

IMAGES_MAX: Final = sum(IMAGES.values())
"""Images bought from a server that refuses every invalid request."""

MISTAKEN_MAX: Final = sum(wrong.images for wrong in WRONGS) + 16
"""Additional images made by a server that refuses nothing: one per invalid request."""
