"""Responses of the server under test, and how reports quote them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

_QUOTED_CHARACTERS: Final = 160
"""Of a body: enough for an error message, and two lines of a terminal."""
_KEY_LIKE: Final = re.compile(r"\b(?:sk|pk|rk)-[\w-]{6,}|(?i:\bbearer\s+)[^\s\"',}]{6,}")


@dataclass(frozen=True)
class Answer:
    """One HTTP response. Header names are lower case."""

    request: str
    """Method and path, such as `GET /models`."""
    status: int
    headers: Mapping[str, str]
    content: bytes
    port: object = None
    """Local port of the connection; None if unknown."""

    @cached_property
    def document(self) -> object:
        """The body as JSON; None if invalid."""
        return read_json(self.content)

    @property
    def error(self) -> Mapping[str, object] | None:
        """The error object that OpenAI's clients read."""
        found = member(self.document, "error")
        return found if isinstance(found, dict) else None

    @property
    def media_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def quote(self) -> str:
        """Renders the response in one line for a report."""
        body = " ".join(self.content[: 4 * _QUOTED_CHARACTERS].decode(errors="replace").split())
        kind = self.media_type or "no content type"
        return f"HTTP {self.status}, {kind}: {shortened(body) or 'an empty body'}"


def read_json(content: bytes | str) -> object:
    """Parses JSON; None if the text is invalid."""
    try:
        found: object = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found


def member(document: object, *path: str | int) -> object:
    """Returns the value at a path of names and positions; None if absent."""
    for step in path:
        if isinstance(step, str):
            document = document.get(step) if isinstance(document, dict) else None
        else:
            document = document[step] if isinstance(document, list) and len(document) > step else None
    return document


def is_integer(value: object) -> bool:
    """Returns True for a number without a fraction; JSON's true is not one."""
    return isinstance(value, int) and not isinstance(value, bool)


def shortened(text: str) -> str:
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[:_QUOTED_CHARACTERS]}..."


def shown(value: object) -> str:
    """Renders a value of a response as JSON."""
    return shortened(json.dumps(value, ensure_ascii=False, default=str))


def without_secrets(text: str, *secrets: str) -> str:
    """Removes the sent keys, and texts that look like keys, from a report."""
    for secret in sorted((secret for secret in secrets if secret), key=len, reverse=True):
        text = text.replace(secret, "***")
    return _KEY_LIKE.sub("***", text)
