"""`GET /openapi.json`: the description of every route, kept as a document."""

from importlib.resources import files
from typing import Final

DOCUMENT: Final = files(__package__) / "openapi.json"
