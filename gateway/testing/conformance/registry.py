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
    program_checks,
    routes,
    sdk,
    streams,
)
from gateway.testing.conformance.checks import Check
from gateway.testing.conformance.fields import WRONGS
from gateway.testing.conformance.programs import PROGRAM_IMAGES
from gateway.testing.conformance.purchases import IMAGES

CHECKS: Final[tuple[Check, ...]] = (
    *authentication.CHECKS,
    *models.CHECKS,
    *routes.CHECKS,
    *fields.CHECKS,
    *images.CHECKS,
    *streams.CHECKS,
    *sdk.CHECKS,
    *program_checks.CHECKS,
    *limits.CHECKS,
    *headers.CHECKS,
    *errors.CHECKS,
)

CONTRACT_IMAGES: Final = sum(IMAGES.values())
"""Images bought for the statements of the contract, from a server that refuses every invalid request."""

IMAGES_MAX: Final = CONTRACT_IMAGES + PROGRAM_IMAGES

MISTAKEN_MAX: Final = sum(wrong.images for wrong in WRONGS) + 16
"""Additional images made by a server that refuses nothing: one per invalid request."""
