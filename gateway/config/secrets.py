"""Reads secrets from environment variables and files, and refuses those that can be guessed."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gateway.config.upstreams import SecretSource, SettingsError
from gateway.domain.accounts import Secret, make_secret

_ADMIN_KEY_MIN_CHARS: Final = 16
_DISTINCT_MIN: Final = 6
"""Of 16 random hexadecimal digits, fewer than 6 differ in one case of 25,000."""
_UNGUESSABLE_MIN: Final = 8
"""32 random bits or more, behind a limit on wrong keys; for admin keys that people choose."""
_PLACEHOLDER: Final = "replace-with-"
"""The prefix of the values in deploy/kubernetes/secret.example.yaml."""
_READ_MAX_CHARS: Final = 128
_RUN_MIN_CHARS: Final = 3
_WORDS: Final = re.compile(
    r"p[a@4][s5$]{2}w[o0]r[dt]|passphrase|adm[i1]n|s[e3]cret|letmein|welcome|chang[e3]|default|iloveyou|imagegate|monkey|dragon"
)
_REPETITION: Final = re.compile(r"(.)\1{2,}|(.{3,}?)\2+")
_ROWS: Final = (
    "abcdefghijklmnopqrstuvwxyz\n01234567890\nqwertyuiop\nqwertzuiop\nasdfghjkl\nzxcvbnm\nyxcvbnm\n"
    "1qaz2wsx3edc4rfv5tgb6yhn7ujm\n!@#$%^&*()\n"
)
_RUNS: Final = _ROWS + _ROWS[::-1]


def read_secret(source: SecretSource, environ: Mapping[str, str], where: str) -> Secret:
    """Reads the secret that a source names. Raises: SettingsError naming `where`."""
    if (source.env is None) == (source.file is None):
        raise SettingsError(f'{where}: give either {{ env = "VARIABLE" }} or {{ file = "/path" }}')
    if source.env is not None:
        text = environ.get(source.env, "")
        remedy = f"the environment variable {source.env} is not set; set it, or remove this entry"
    else:
        remedy = f"the file {source.file} is missing, unreadable or empty"
        try:
            text = Path(str(source.file)).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            text = ""
    secret = text.strip()
    if not secret:
        raise SettingsError(f"{where}: {remedy}")
    if not secret.isascii() or not secret.isprintable():
        raise SettingsError(f"{where}: the secret holds characters that no HTTP header can carry; check its source")
    return make_secret(secret)


def read_strong_secret(
    source: SecretSource, environ: Mapping[str, str], where: str, what: str, min_chars: int
) -> Secret:
    """Reads a secret that cannot be guessed; `what` names its kind. Raises: SettingsError naming `where`."""
    secret = read_secret(source, environ, where)
    text, problem = secret.plaintext, ""
    if len(text) < min_chars:
        problem = f"{what} has at least {min_chars} characters"
    elif len(set(text)) < _DISTINCT_MIN:
        problem = f"{what} has at least {_DISTINCT_MIN} different characters"
    elif text.startswith(_PLACEHOLDER):
        problem = "it is the placeholder of an example"
    if problem:
        raise SettingsError(f"{where}: {problem}; `openssl rand -hex {max(16, min_chars)}` makes one")
    return secret


def read_admin_key(source: SecretSource, environ: Mapping[str, str], where: str) -> Secret:
    """Reads an admin key, which people may have chosen. Raises: SettingsError naming `where`."""
    secret = read_strong_secret(source, environ, where, "an admin key", _ADMIN_KEY_MIN_CHARS)
    if _count_unguessable(secret.plaintext) < _UNGUESSABLE_MIN:
        raise SettingsError(
            f"{where}: an admin key has at least {_UNGUESSABLE_MIN} characters besides common words, repetitions and "
            "sequences; `openssl rand -hex 16` makes one"
        )
    return secret


def _count_unguessable(text: str) -> int:
    """Counts the characters besides common words, repetitions, and runs of the alphabet or a keyboard.

    Of 16 random hexadecimal digits, fewer than 8 are left in one case of 15,000; of 32, in none of millions.
    """
    text = _REPETITION.sub(r"\1\2", _WORDS.sub("", text[:_READ_MAX_CHARS].lower()))
    at = count = 0
    while at < len(text):
        end = at + _RUN_MIN_CHARS
        while end <= len(text) and text[at:end] in _RUNS:
            end += 1
        run_chars = end - 1 - at
        is_run = run_chars >= _RUN_MIN_CHARS
        count += not is_run
        at += run_chars if is_run else 1
    return count
