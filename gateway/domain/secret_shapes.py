"""Recognises secrets that were pasted with something around them. No message repeats any part of a secret."""

import base64
import re
from typing import Final

_QUOTES: Final = "\"'`\u2018-\u201f\u00ab\u00bb"
_INVISIBLE: Final = re.compile("[\u00a0\u00ad\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]")
_REFERENCE: Final = "it is a reference that nothing replaced; give the value itself"
_PLACEHOLDER: Final = (
    r"(?i:<.*>$|(sk-)?(your|my|the|insert|enter|paste|put|add)[-_ ].*(key|token|secret|here)|(sk-)?x{4,}$"
    r"|change[-_ ]?(me|it)|replace[-_ ](me|with)|todo\b|fixme|placeholder|example"
    r"|(none|null|undefined|nil|false|true)$|(api|secret)?[-_ ]?(key|token|secret)([-_ ]here)?$)"
)
_SHAPES: Final = (
    (rf"[{_QUOTES}]|.*[{_QUOTES}]$", "it has a quote at an end; remove the quotes"),
    (
        r"(?i:(authorization|x-api-key|api-key)\s*:|(bearer|basic|token)\s)",
        "it begins with the name of a header or a scheme, as 'Bearer '; give the key alone",
    ),
    (r"(export\s+)?[A-Z_][A-Z0-9_]*=[^=]", "it begins with NAME=; give what follows the equals sign"),
    (r"\$([A-Z_][A-Z0-9_]*$|[{(])|%\w+%$|\{\{|<%", _REFERENCE),
    (r"(op|vault|awssm|gcpsm|azurekv|ref\+\w+)://|arn:aws|vault:|projects/[\w-]+/secrets/", _REFERENCE),
    (r"ENC\[|\$ANSIBLE_VAULT", "it is encrypted; decrypt it first"),
    (r"https?://", "it is a URL; give the key alone"),
    (
        r"(/(run|etc|var|home|root|opt|usr|mnt|srv|tmp|data|secrets|vault|Users)|\.{1,2}|~|[A-Za-z]:)[/\\]",
        'it is a path; to read that file, use { file = "/path" }',
    ),
    (r"[{\[].*[}\]]$", "it is JSON or a list; give the key alone"),
    (r"-----BEGIN ", "it is a PEM file; give a key of the API"),
    (r".*\s#", "it is followed by a comment; remove the comment"),
    (r".*\\[nrt]$", "it ends with a backslash and a letter, as \\n; remove both"),
    (r".*(\.\.\.|\u2026|\*{3}|\u2022{2})", "it is shortened or masked; copy the whole key"),
    (
        _PLACEHOLDER,
        "it is the placeholder of an example; give the real one",
    ),
)
"""Beginnings of a text that is no secret, and what to do."""
_ENCODED: Final = ("c2st", "ZXlK")
"""Base64 of "sk-" and of the beginning of a JSON Web Token."""
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9]{0,19}(_[A-Z0-9]{0,20})*")
_PATH: Final = re.compile(r"(~|\.{0,2})/")
_SEPARATORS: Final = re.compile(r"[,;|]")


def name_shown(text: str) -> str:
    """Returns the name of a variable; empty unless it has the form of one: a secret may stand in its place."""
    return text if _VARIABLE.fullmatch(text) else ""


def path_shown(text: str) -> str:
    """Returns the path of a file; empty unless it has the form of one: a secret may stand in its place."""
    return text if _PATH.match(text) else ""


def find_paste(text: str) -> str:
    """Returns what surrounds or replaces a secret, and the fix; empty if nothing does."""
    if _INVISIBLE.search(text):
        return "it holds an invisible character; type it, or copy it from another place"
    return next((problem for shape, problem in _SHAPES if re.match(shape, text)), "")


def find_paste_of_key(text: str) -> str:
    """Returns the same for a key that is one word of ASCII, as a provider's is."""
    if problem := find_paste(text):
        return problem
    if _SEPARATORS.search(text):
        return "it holds a comma or semicolon; give each key an entry of its own"
    if re.search(r"\s", text):
        return "it holds a space; give the key alone"
    return _find_encoding(text) or find_unsendable(text)


def find_unsendable(text: str) -> str:
    """Returns the problem of a text that no HTTP header can carry; empty if one can."""
    if text.isascii() and text.isprintable():
        return ""
    return "it holds characters that no HTTP header can carry; check its source"


def _find_encoding(text: str) -> str:
    """Recognises a key in base64, as in `data` of a Kubernetes Secret."""
    try:
        is_key = text.startswith(_ENCODED) and base64.b64decode(text, validate=True).isascii()
    except ValueError:
        return ""
    return "it is a key in base64; decode it, or use `stringData` in a Kubernetes Secret" if is_key else ""
