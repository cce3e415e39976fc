"""Pages: prose written by hand, and generated blocks between markers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

_BLOCK: Final = re.compile(
    r"(?P<begin><!-- generated: (?P<name>[a-z0-9-]+) -->\n).*?(?P<end><!-- end of \2 -->)", re.DOTALL
)
_LINK: Final = re.compile(r"""(`[^`]*`)|\b[a-z+]+://[^\s;()"\]]*[^\s;()"\].,:`]""")


class PageError(Exception):
    """A page cannot be generated; the message names what is missing and where to add it."""


def fill(page: str, blocks: Mapping[str, str]) -> str:
    """Fills every block of a page. Raises: PageError if a block has no markers or no text."""
    places = {found["name"] for found in _BLOCK.finditer(page)}
    if places != blocks.keys():
        raise PageError(f"blocks of the page: {sorted(places)}, of the generator: {sorted(blocks)}")
    return _BLOCK.sub(lambda found: f"{found['begin']}\n{blocks[found['name']]}\n\n{found['end']}", page)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Renders a Markdown table; cells hold Markdown without line breaks."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def code(text: object) -> str:
    return f"`{text}`"


def codes(texts: Iterable[object]) -> str:
    return ", ".join(map(code, texts))


def prose(text: str) -> str:
    """Renders text on one line; URLs remain plain text, not links."""
    return _LINK.sub(lambda found: found[1] or code(found[0]), " ".join(text.split()))


def sentence(text: str) -> str:
    """Renders text on one line, with a capital and a full stop."""
    made = prose(text)
    return made[0].upper() + made[1:].removesuffix(".") + "."
