"""What requests carry: a key, JSON, and the id that follows from their content."""

import hashlib

import msgspec
from starlette.requests import Request


def bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def parse(raw: bytes) -> object:
    """The body's JSON, or None for what is none (or null, which is no order either)."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def trace_id_of(raw: bytes, body: object) -> str:
    """32 hex digits, the same for the same content, whatever the order of its keys."""
    canonical = raw if body is None else msgspec.json.encode(body, order="sorted")
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def repeated_trace_id(trace_id: str, repeated: int) -> str:
    """The id of an order that came before: another one each time, and always the same ones."""
    if not repeated:
        return trace_id
    return hashlib.blake2b(f"{trace_id} {repeated}".encode(), digest_size=16).hexdigest()


def describe(error: msgspec.ValidationError) -> str:
    """Put the field first, as in "n: Expected `int` <= 9"."""
    reason, _, field = str(error).partition(" - at `$.")
    return f"{field.rstrip('`')}: {reason}" if field else reason
