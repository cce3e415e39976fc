"""Signatures of Standard Webhooks (https://github.com/standard-webhooks/standard-webhooks), which OpenAI uses too."""

import hashlib
import hmac
import os
from base64 import b64decode, b64encode
from collections.abc import Iterable
from typing import Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - public, of Standard Webhooks
_SECRET_BYTES: Final = 32


def new_secret() -> str:
    return SECRET_PREFIX + b64encode(os.urandom(_SECRET_BYTES)).decode()


def parse_secret(secret: str) -> bytes:
    """Returns the key of a webhook secret. Raises: ValueError with the expected form."""
    form = f"expected '{SECRET_PREFIX}' and 24 to 64 bytes in base64, as `echo whsec_$(openssl rand -base64 32)` prints"
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(form)
    try:
        key = b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError as error:
        raise ValueError(form) from error
    if not 24 <= len(key) <= 64:
        raise ValueError(form)
    return key


def sign(secrets: Iterable[str], event_id: str, now_s: int, body: bytes) -> dict[str, str]:
    """Returns the headers of one attempt, with a signature by each secret."""
    signed = f"{event_id}.{now_s}.".encode() + body
    macs = (hmac.digest(parse_secret(secret), signed, hashlib.sha256) for secret in secrets)
    signatures = " ".join(f"v1,{b64encode(mac).decode()}" for mac in macs)
    return {"webhook-id": event_id, "webhook-timestamp": str(now_s), "webhook-signature": signatures}
