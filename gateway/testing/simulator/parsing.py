"""Parses requests: key, JSON, and the ID derived from the content."""

import hashlib

import msgspec
from starlette.requests import Request


def bearer(request: Request) -> str | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


def parse(raw: bytes) -> object:
    """Parses the body's JSON; None if it is invalid or null."""
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def trace_id_of(raw: bytes, body: object) -> str:
    """Returns 32 hex digits, equal for equal content whatever the key order."""
    canonical = raw if body is None else msgspec.json.encode(body, order="sorted")
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def repeated_trace_id(trace_id: str, repeated: int) -> str:
    """Returns the ID of a repeated request: different each time, and deterministic."""
    if not repeated:
        return trace_id
    return hashlib.blake2b(f"{trace_id} {repeated}".encode(), digest_size=16).hexdigest()


def describe(error: msgspec.ValidationError) -> str:
    """Renders an error with the field first, as in "n: Expected `int` <= 9"."""
    reason, _, field = str(error).partition(" - at `$.")
    return f"{field.rstrip('`')}: {reason}" if field else reason
