"""`GET /openapi.json`: the OpenAPI description, stored as a file."""

from importlib.resources import files
from typing import Final

DOCUMENT: Final = files(__package__) / "openapi.json"
