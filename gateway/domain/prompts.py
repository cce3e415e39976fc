"""Prompts that are longer than a model takes."""

import unicodedata
from typing import Final

_WORD_MAX_CHARS: Final = 100
"""A longer run without blanks is no word: Chinese and Japanese have none."""
_JOINED: Final = frozenset({"Mn", "Mc", "Me", "Cf", "Sk"})
"""Unicode categories of characters that belong to the one before: accents, joiners, variants and skin tones."""
_JOINED_MAX: Final = 32
_JOINER: Final = "\u200d"


def shorten(text: str, max_chars: int) -> str:
    """Cuts a text to at most `max_chars` code points, at a word, or between two characters as people see them."""
    if len(text) <= max_chars or len(text := text.strip()) <= max_chars:
        return text
    end = max_chars
    if not (text[end].isspace() or text[end - 1].isspace()):
        words = text[:end].rsplit(None, 1)
        if len(words) == 2 and len(words[1]) < _WORD_MAX_CHARS:
            return words[0]
        while end > max(1, max_chars - _JOINED_MAX) and (
            unicodedata.category(text[end]) in _JOINED or text[end - 1] == _JOINER
        ):
            end -= 1
    return text[:end].rstrip()
