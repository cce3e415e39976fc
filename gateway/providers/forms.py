"""Forms with files (multipart/form-data). A file stays a piece of its own, so that no image is copied."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from gateway.domain.accounts import Secret

_PARTS_MAX: Final = 32
"""Limit on the parts that are read back: more than a request has."""


def build_form(
    fields: Mapping[str, str], files: Iterable[tuple[str, str, bytes]], secret: Secret
) -> tuple[str, tuple[bytes, ...]]:
    """Returns the content type and the pieces of a form. `files`: field, media type and content of each.

    The boundary depends on the secret: a client that could predict it could write parts of its own into the prompt.
    """
    key = hashlib.sha256(secret.plaintext.encode()).digest()
    texts = "\n".join(f"{name}={value}" for name, value in fields.items()).encode("utf-8", "surrogatepass")
    boundary = hashlib.blake2b(texts, key=key, digest_size=16).hexdigest()
    pieces, head = [], b""
    for name, value in fields.items():
        head += _part(boundary, f'name="{name}"') + value.encode("utf-8", "replace") + b"\r\n"
    for name, media_type, content in files:
        kind = media_type.partition("/")[2]
        head += _part(boundary, f'name="{name}"; filename="image.{kind}"', f"Content-Type: {media_type}\r\n")
        pieces += [head, content]
        head = b"\r\n"
    return f"multipart/form-data; boundary={boundary}", (*pieces, head + f"--{boundary}--\r\n".encode())


def form_texts(sent: bytes) -> Iterator[str]:
    """Yields the text fields of a form that `build_form` made; nothing for other bodies."""
    boundary = sent.partition(b"\r\n")[0]
    if not boundary.startswith(b"--"):
        return
    for part in sent.split(boundary, _PARTS_MAX)[1:_PARTS_MAX]:
        head, _, value = part.partition(b"\r\n\r\n")
        if value and b"filename=" not in head:
            yield value.removesuffix(b"\r\n").decode("utf-8", "replace")


def _part(boundary: str, disposition: str, more: str = "") -> bytes:
    return f"--{boundary}\r\nContent-Disposition: form-data; {disposition}\r\n{more}\r\n".encode()
