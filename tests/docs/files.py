"""The documents, and what is found in them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
DOCUMENTS: Final = sorted(
    path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md"))
)
_FENCE: Final = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_INLINE: Final = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")


def read(document: Path) -> str:
    return (ROOT / document).read_text("utf-8")


def without_code(text: str) -> str:
    """The text without its fenced blocks."""
    return _FENCE.sub("", text)


def code_lines(text: str) -> Iterator[str]:
    """Each line of fenced and of indented blocks; one that ends in a backslash goes on."""
    blocks = [found[0].partition("\n")[2] for found in _FENCE.finditer(text)]
    indented = [line for line in without_code(text).splitlines() if line.startswith("    ")]
    for block in (*blocks, "\n".join(indented)):
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines())


def code_spans(text: str) -> Iterator[str]:
    """Everything between backticks in prose, line breaks inside taken for spaces."""
    for found in _INLINE.finditer(without_code(text)):
        yield " ".join(found[1].split())
