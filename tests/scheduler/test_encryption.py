import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.accounts import make_secret
from gateway.scheduler.encryption import DecryptionError, SecretBox

NAME = "sim/main/main-1"
OLD, NEW = make_secret("o" * 32), make_secret("n" * 32)


@given(secret=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=500), name=st.text())
def test_whatever_is_sealed_opens_under_its_name(secret: str, name: str) -> None:
    vault = SecretBox([NEW])
    assert secret == vault.open(vault.seal(secret, name), name)


def test_a_sealed_secret_is_one_printable_word_that_says_nothing() -> None:
    sealed = SecretBox([NEW]).seal("sk-canary", NAME)
    assert re.fullmatch(r"v1\.[0-9a-f]{8}\.[A-Za-z0-9_=-]+", sealed)
    assert "canary" not in sealed


def test_the_same_secret_is_never_sealed_alike() -> None:
    vault = SecretBox([NEW])
    assert 1000 == len({vault.seal("sk", NAME).split(".")[2][:16] for _ in range(1000)})


def test_two_processes_of_one_configuration_open_each_others() -> None:
    assert "sk" == SecretBox([NEW]).open(SecretBox([make_secret("n" * 32)]).seal("sk", NAME), NAME)


def test_what_was_sealed_before_a_rotation_opens_and_is_to_be_sealed_anew() -> None:
    before, after = SecretBox([OLD]), SecretBox([NEW, OLD])
    sealed = before.seal("sk", NAME)
    assert (True, False) == (before.is_current(sealed), after.is_current(sealed))
    anew = after.seal(after.open(sealed, NAME), NAME)
    assert after.is_current(anew)
    assert "sk" == SecretBox([NEW]).open(anew, NAME)


def test_the_encryption_key_that_is_missing_is_named() -> None:
    sealed = SecretBox([OLD]).seal("sk-canary", NAME)
    with pytest.raises(DecryptionError, match=f"{NAME}.* {sealed.split('.')[1]}, .*encryption_keys") as refused:
        SecretBox([NEW]).open(sealed, NAME)
    assert "canary" not in str(refused.value)


def test_a_sealed_secret_does_not_open_under_another_name() -> None:
    vault = SecretBox([NEW])
    with pytest.raises(DecryptionError, match="moved from another name"):
        vault.open(vault.seal("sk", NAME), "sim/main/main-2")


def test_no_byte_of_a_sealed_secret_can_be_changed() -> None:
    vault = SecretBox([NEW])
    sealed = vault.seal("sk-of-some-length", NAME)
    for at in range(len(sealed.rstrip("=")) - 1):  # of the last character some bits mean nothing
        changed = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
        with pytest.raises(DecryptionError):
            vault.open(changed, NAME)


@pytest.mark.parametrize(
    "text", ["", "sk-plain", "v1", "v1.0123abcd", "v1.0123abcd.", "v2.0123abcd.AAAA", "\n", "v1..A"]
)
def test_what_is_not_sealed_does_not_open(text: str) -> None:
    vault = SecretBox([NEW])
    assert not vault.is_current(text)
    with pytest.raises(DecryptionError, match="unknown format"):
        vault.open(text, NAME)


@pytest.mark.parametrize("length", [1, 4, 16, 27])
def test_what_is_cut_short_does_not_open(length: int) -> None:
    vault = SecretBox([NEW])
    version, key_id, content = vault.seal("sk", NAME).split(".")
    with pytest.raises(DecryptionError, match="was changed"):
        vault.open(f"{version}.{key_id}.{content[:length]}", NAME)
