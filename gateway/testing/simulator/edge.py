"""A hostile edge in front of the API: a firewall that judges prompts, and errors that repeat the request's words."""

import re
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, RefusedError

_ATTACK: Final = re.compile(
    r"<script|javascript:|union\s+select|or\s+1\s*=\s*1|\.\./|/etc/passwd|\$\{jndi:|;\s*drop\s+table", re.IGNORECASE
)
"""What a web application firewall takes for an attack."""


class EdgeOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Answer what looks like an attack with a page of that status; repeat references that are refused."""

    blocks: Annotated[int, Meta(ge=300, le=499)] | None = None
    echoes: bool = False


class Edge:
    """How the edge behaves; as ordered last, and harmless before."""

    def __init__(self) -> None:
        self.order = EdgeOrder()

    def status(self, raw: bytes) -> int | None:
        """The status of the page that answers a body, if it is blocked: no rule is applied, nothing is billed."""
        return self.order.blocks if _ATTACK.search(raw.decode("utf-8", "replace")) else None

    def check_references(self, body: object) -> None:
        """Raises: RefusedError 2013 for every reference while errors repeat the request's words."""
        if self.order.echoes and isinstance(body, dict) and body.get("subject_reference"):
            reference = body["subject_reference"][0]
            raise RefusedError(INVALID_PARAMS, f"invalid params, failed to download {reference['image_file']}")
