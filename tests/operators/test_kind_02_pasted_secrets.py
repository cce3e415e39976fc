"""What is said of a secret that was pasted with something around it, or that cannot be read. It is never repeated."""

import os
import subprocess
from pathlib import Path

import pytest

from gateway.config import SecretSource, SettingsError
from gateway.config.secrets import read_admin_key, read_key, read_password, read_secret
from tests.support.operators import Shows

CANARY = "Zq7canary9Lw"
KEY = f"sk-{CANARY}"
ENCODED = "c2stWnE3Y2FuYXJ5OUx3"


def problem_of(source: SecretSource, environ: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        read_key(source, environ, "upstreams[0].accounts[0].keys[0].secret")
    message = str(caught.value)
    assert message.startswith("upstreams[0].accounts[0].keys[0].secret: ")
    assert CANARY.lower() not in message.lower()
    assert ENCODED not in message
    return message


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (f"Bearer {KEY}", "begins with the name of a header or a scheme"),
        (f"bearer\t{KEY}", "begins with the name of a header or a scheme"),
        (f"Authorization: Bearer {KEY}", "begins with the name of a header or a scheme"),
        (f"x-api-key: {KEY}", "begins with the name of a header or a scheme"),
        (f'"{KEY}"', "remove the quotes"),
        (f"'{KEY}'", "remove the quotes"),
        (f"`{KEY}`", "remove the quotes"),
        (f"“{KEY}”", "remove the quotes"),
        (f'{KEY}"', "remove the quotes"),
        (f"{KEY} # prod", "remove the comment"),
        (f"{KEY} prod", "holds a space"),
        (f"AI302_API_KEY={KEY}", "begins with NAME="),
        (f"export AI302_API_KEY={KEY}", "begins with NAME="),
        ("$AI302_API_KEY", "a reference that nothing replaced"),
        ("${AI302_API_KEY}", "a reference that nothing replaced"),
        ("$(cat key)", "a reference that nothing replaced"),
        ("%AI302_API_KEY%", "a reference that nothing replaced"),
        ("{{ .Values.key }}", "a reference that nothing replaced"),
        ("op://vault/imagegate/key", "a reference that nothing replaced"),
        ("arn:aws:secretsmanager:eu:1:secret:x", "a reference that nothing replaced"),
        ("ENC[AES256_GCM,data:abc]", "decrypt it first"),
        (f"{KEY},{KEY}2", "give each key an entry of its own"),
        (f"{KEY};{KEY}2", "give each key an entry of its own"),
        ("your-api-key-here", "placeholder of an example"),
        ("sk-your-key", "placeholder of an example"),
        ("YOUR_API_KEY", "placeholder of an example"),
        ("<api key>", "placeholder of an example"),
        ("sk-xxxxxxxx", "placeholder of an example"),
        ("changeme", "placeholder of an example"),
        ("replace-with-a-key", "placeholder of an example"),
        ("null", "placeholder of an example"),
        ("api-key", "placeholder of an example"),
        ("sk-...Lw9x", "shortened or masked"),
        (f"{CANARY}****", "shortened or masked"),
        (f"{KEY}\\n", "ends with a backslash and a letter"),
        (f'{{"key": "{KEY}"}}', "JSON or a list"),
        (f'["{KEY}"]', "JSON or a list"),
        (f"https://api.302.ai/?key={KEY}", "a URL"),
        ("/run/secrets/key", "use { file"),
        ("./key.txt", "use { file"),
        ("-----BEGIN PRIVATE KEY-----", "a PEM file"),
        (ENCODED, "a key in base64"),
        (f"{KEY}\u200b", "an invisible character"),
        (f"\u00a0{KEY}\u00a0x", "an invisible character"),
        (f"{KEY}ä", "no HTTP header can carry"),
        (f"{KEY}\x07", "no HTTP header can carry"),
        (f"{KEY}\n{KEY}", "has 2 lines"),
        (" ", "the environment variable KEY is empty"),
        ("", "the environment variable KEY is not set"),
    ],
)
def test_the_shape_is_named(given: str, words: str, shows: Shows) -> None:
    message = problem_of(SecretSource(env="KEY"), {"KEY": given})
    shows(2, f"KEY={given!r}", message)
    assert words in message


@pytest.mark.parametrize("given", [KEY, f" {KEY}\r\n", f"\ufeff{KEY}", "eyJhbGciOi.J9-_x.Zq", "AB/cd+ef==", "main-1"])
def test_a_key_alone_is_taken_without_what_editors_add(given: str) -> None:
    assert given.strip("\ufeff \r\n") == read_key(SecretSource(env="KEY"), {"KEY": given}, "x").plaintext


@pytest.mark.parametrize("given", ["pässword", "a, b;c", '"quoted"', " leading", "$DOLLAR", "Bearer x", "#1"])
def test_a_password_of_redis_may_hold_anything(given: str) -> None:
    assert given == read_password(SecretSource(env="KEY"), {"KEY": given + "\n"}, "redis.password").plaintext


@pytest.mark.parametrize("given", ["/aB3+d/9fGh2jK4lMn6pQr8sTu0vWx2yZa4bCd6e", "pass,word;1", "two words"])
def test_a_secret_that_no_header_carries_may_hold_more(given: str) -> None:
    assert given == read_secret(SecretSource(env="KEY"), {"KEY": given}, "x").plaintext


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("$AI302_API_KEY", 'write env = "AI302_API_KEY"'),
        ("${AI302_API_KEY}", 'write env = "AI302_API_KEY"'),
        (f"${CANARY}", 'write env = "VARIABLE"'),
        (KEY, "env is not the name of a variable"),
        ("", "env is not the name of a variable"),
        ("MY KEY", "env is not the name of a variable"),
        (CANARY, "the environment variable that env names is not set"),
        (CANARY.upper() * 3, "the environment variable that env names is not set"),
        ("AI302_API_KEY", "the environment variable AI302_API_KEY is not set; set it, or remove this entry"),
    ],
)
def test_what_stands_in_env_is_repeated_only_if_it_looks_like_a_name(env: str, words: str, shows: Shows) -> None:
    message = problem_of(SecretSource(env=env), {})
    shows(2, f'secret = {{ env = "{env}" }}', message)
    assert words in message


def fill(path: Path, kind: str) -> str:
    match kind:
        case "missing":
            return str(path / "none")
        case "directory":
            return str(path)
        case "pipe":
            os.mkfifo(path / "pipe")
            return str(path / "pipe")
        case "device":
            return "/dev/zero"
        case "below a file":
            (path / "file").touch()
            return str(path / "file/key")
    (path / "key").write_bytes(CONTENTS[kind])
    return str(path / "key")


CONTENTS = {
    "empty": b"",
    "only a newline": b"\n",
    "latin-1": b"sk-\xe4",
    "utf-16": KEY.encode("utf-16"),
    "two lines": f"{KEY}\n{KEY}\n".encode(),
    "an .env file": f"KEY={KEY}\n".encode(),
    "large": KEY.encode() * 10_000,
}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "is missing"),
        ("directory", "is a directory, as a bind mount makes of a missing file"),
        ("pipe", "is not a regular file"),
        ("device", "is not a regular file"),
        ("below a file", "cannot be read"),
        ("empty", "is empty"),
        ("only a newline", "is empty"),
        ("latin-1", "is not UTF-8"),
        ("utf-16", "is UTF-16"),
        ("two lines", "has 2 lines"),
        ("an .env file", "begins with NAME="),
        ("large", "has more than 65536 bytes"),
    ],
)
def test_a_file_that_holds_no_secret_is_told_apart(tmp_path: Path, kind: str, words: str, shows: Shows) -> None:
    file = fill(tmp_path, kind)
    message = problem_of(SecretSource(file=file), {})
    shows(2, f"secret = {{ file = ... }}: {kind}", message.replace(str(tmp_path), "/run/secrets"))
    assert f"the file {file}" in message
    assert words in message


def test_a_file_of_another_user_is_told_apart(tmp_path: Path, shows: Shows) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0)
    if os.access(tmp_path / "key", os.R_OK):
        pytest.skip("this user reads everything")
    message = problem_of(SecretSource(file=str(tmp_path / "key")), {})
    shows(2, "secret = { file = ... }: mode 0600 of another user", message.replace(str(tmp_path), "/run/secrets"))
    assert f"cannot be read by this user (uid {os.getuid()})" in message


def test_a_secret_in_file_is_not_repeated() -> None:
    assert "the file that file names is missing" in problem_of(SecretSource(file=KEY), {})


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbf" + KEY.encode() + b"\r\n")
    assert KEY == read_key(SecretSource(file=str(tmp_path / "key")), {}, "x").plaintext


@pytest.mark.parametrize("environ", [{}, {"ADMIN": ""}])
def test_an_unset_admin_key_is_a_mistake(environ: dict[str, str], shows: Shows) -> None:
    with pytest.raises(SettingsError) as caught:
        read_admin_key(SecretSource(env="ADMIN"), environ, "admin.key")
    shows(2, 'key = { env = "ADMIN" }, which is not set', str(caught.value))
    assert "admin.key: the environment variable ADMIN is not set; set it, or remove this entry" == str(caught.value)


def test_keys_that_openssl_makes_are_never_taken_for_something_else() -> None:
    for kind in ("-hex", "-base64"):
        for _ in range(20):
            made = subprocess.run(["openssl", "rand", kind, "32"], capture_output=True, text=True, check=True).stdout
            assert made.strip() == read_secret(SecretSource(env="KEY"), {"KEY": made}, "x").plaintext
