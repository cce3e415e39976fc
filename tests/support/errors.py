"""Errors as values."""

from collections.abc import Callable

from gateway.domain.errors import GatewayError


def attempt(act: Callable[[], object]) -> object:
    """Returns what an act returns, or its GatewayError; any other exception fails the test."""
    try:
        return act()
    except GatewayError as error:
        return error
