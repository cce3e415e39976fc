"""Reference pages with tables generated from the code: `make docs` writes them, tests/docs checks them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from docs.generate import commands, errors, http, logs, metrics, states
from docs.generate.pages import PageError, fill

__all__ = ["PAGES", "PageError", "render"]

DIRECTORY: Final = Path(__file__).parents[1]
PAGES: Final[Mapping[str, Callable[[], dict[str, str]]]] = MappingProxyType(
    {
        "commands.md": commands.blocks,
        "errors.md": errors.blocks,
        "http.md": http.blocks,
        "logs.md": logs.blocks,
        "metrics.md": metrics.blocks,
        "upstreams.md": states.blocks,
    }
)


def render(name: str) -> str:
    """Renders a page: its prose as written, its tables from the code. Raises: PageError."""
    return fill((DIRECTORY / name).read_text("utf-8"), PAGES[name]())
