"""A hostile edge in front of the API: a firewall that judges prompts, and errors that repeat the request."""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, RefusedError

_ATTACK: Final = re.compile(
    r"<script|javascript:|union\s+select|or\s+1\s*=\s*1|\.\./|/etc/passwd|\$\{jndi:|;\s*drop\s+table", re.IGNORECASE
)
"""Texts that a web application firewall takes for an attack."""


class EdgeSwitch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sets the status for texts that look like attacks, and whether errors repeat refused references."""

    blocks: Annotated[int, Meta(ge=300, le=499)] | None = None
    echoes: bool = False


class Edge:
    """Behaviour of the edge, as set last; harmless by default."""

    def __init__(self) -> None:
        self.order = EdgeSwitch()

    def status(self, raw: bytes) -> int | None:
        """Returns the status of the block page for a body; nothing is checked or billed then."""
        return self.order.blocks if _ATTACK.search(raw.decode("utf-8", "replace")) else None

    def check_references(self, body: object) -> None:
        """Raises: RefusedError 2013 for every reference while errors repeat the request."""
        if self.order.echoes and isinstance(body, dict) and body.get("subject_reference"):
            reference = body["subject_reference"][0]
            raise RefusedError(INVALID_PARAMS, f"invalid params, failed to download {reference['image_file']}")
