"""Reads secrets from environment variables and files, and refuses those that can be guessed."""

import os
import re
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from gateway.config.upstreams import SecretSource, SettingsError
from gateway.domain.accounts import Secret, make_secret
from gateway.domain.secret_shapes import find_paste, find_paste_of_key, find_unsendable, name_shown, path_shown

_FILE_MAX_BYTES: Final = 65_536
_REFERENCE: Final = re.compile(r"\$\{?(\w+)\}?")

_ADMIN_KEY_MIN_CHARS: Final = 16
_DISTINCT_MIN: Final = 6
"""Of 16 random hexadecimal digits, fewer than 6 differ in one case of 25,000."""
_UNGUESSABLE_MIN: Final = 8
"""32 random bits or more, behind a limit on wrong keys; for admin keys that people choose."""
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


def read_password(source: SecretSource, environ: Mapping[str, str], where: str) -> Secret:
    """Reads a secret that may hold any character, as a password of Redis. Raises: SettingsError naming `where`."""
    return make_secret(_read_text(source, environ, where))


def read_secret(source: SecretSource, environ: Mapping[str, str], where: str) -> Secret:
    """Reads a secret of any alphabet, without what surrounds it. Raises: SettingsError naming `where`."""
    return _read_pasted(source, environ, where, find_paste)


def read_key(source: SecretSource, environ: Mapping[str, str], where: str) -> Secret:
    """Reads a key that HTTP headers carry: one word of ASCII. Raises: SettingsError naming `where`."""
    return _read_pasted(source, environ, where, find_paste_of_key)


def _read_pasted(
    source: SecretSource, environ: Mapping[str, str], where: str, find_problem: Callable[[str], str]
) -> Secret:
    text = _read_text(source, environ, where).strip()
    if problem := find_problem(text):
        raise SettingsError(f"{where}: {_origin(source)}: {problem}")
    return make_secret(text)


def _read_text(source: SecretSource, environ: Mapping[str, str], where: str) -> str:
    """Returns a secret without a byte order mark and the newline at its end. Raises: SettingsError."""
    if (source.env is None) == (source.file is None):
        raise SettingsError(f'{where}: give either {{ env = "VARIABLE" }} or {{ file = "/path" }}')
    if source.env is None:
        text, problem = _read_file(str(source.file))
    elif text := environ.get(source.env, ""):
        problem = "is empty; set it, or remove this entry"
    else:
        problem = "is not set; set it, or remove this entry"
        _check_variable(source.env, where)
    text = text.removeprefix("\ufeff").rstrip("\r\n")
    if not text.strip():
        raise SettingsError(f"{where}: {_origin(source)} {problem or 'is empty'}")
    if lines := len(text.splitlines()) - 1:
        raise SettingsError(f"{where}: {_origin(source)} has {lines + 1} lines; a secret is one line")
    return text


def _origin(source: SecretSource) -> str:
    """Names a variable or a file. A secret in the place of a name is not repeated."""
    if source.env is not None:
        return f"the environment variable {name_shown(source.env) or 'that env names'}"
    return f"the file {path_shown(str(source.file)) or 'that file names'}"


def _check_variable(name: str, where: str) -> None:
    """Raises: SettingsError, unless this is the name of a variable."""
    if reference := _REFERENCE.fullmatch(name):
        named = name_shown(reference[1]) or "VARIABLE"
        raise SettingsError(f'{where}: env is a name without $ and braces; write env = "{named}"')
    if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
        raise SettingsError(
            f"{where}: env is not the name of a variable. Never write the secret itself here: set a variable to it, "
            "and name that"
        )


def _read_file(path: str) -> tuple[str, str]:
    """Returns the text of a file, or why it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block
    except PermissionError:
        return "", f"cannot be read by this user (uid {os.getuid()}); allow it, as with chown"
    except (OSError, ValueError) as error:
        is_missing = isinstance(error, FileNotFoundError)
        return "", "is missing; create it, or correct the path" if is_missing else "cannot be read; correct the path"
    try:
        mode, text = os.fstat(descriptor).st_mode, ""
        content = os.read(descriptor, _FILE_MAX_BYTES + 1) if stat.S_ISREG(mode) else b""
    finally:
        os.close(descriptor)
    with suppress(UnicodeDecodeError):
        text = content.decode("utf-8")
    if stat.S_ISDIR(mode):
        problem = "is a directory, as a bind mount makes of a missing file; give the file inside"
    elif not stat.S_ISREG(mode):
        problem = "is not a regular file"
    elif len(content) > _FILE_MAX_BYTES:
        problem = f"has more than {_FILE_MAX_BYTES} bytes; a secret is one line"
    elif content.startswith((b"\xff\xfe", b"\xfe\xff")):
        problem = "is UTF-16; save it as UTF-8"
    else:
        return text, "is empty" if text or not content else "is not UTF-8; save it as UTF-8"
    return "", problem


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
    if problem:
        raise SettingsError(f"{where}: {problem}; `openssl rand -hex {max(16, min_chars)}` makes one")
    return secret


def read_admin_key(source: SecretSource, environ: Mapping[str, str], where: str) -> Secret:
    """Reads an admin key, which people may have chosen. Raises: SettingsError naming `where`."""
    secret = read_strong_secret(source, environ, where, "an admin key", _ADMIN_KEY_MIN_CHARS)
    if problem := find_unsendable(secret.plaintext):
        raise SettingsError(f"{where}: {_origin(source)}: {problem}")
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
