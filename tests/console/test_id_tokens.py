"""ID tokens that are accepted, and every kind that is refused, each with its own reason."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest
from joserfc import jwk, jwt

from gateway.api.console.claims import Problem, SignInError
from gateway.api.console.id_tokens import Expected, find_key, read_header, verify
from tests.support.identity import CLIENT, Claims, part, rsa_key

ISSUER: Final = "https://login.example.com"
NOW_S: Final = 1_800_000_000
RSA: Final = rsa_key()
EC: Final = jwk.ECKey.generate_key("P-256", {"kid": "k2"}, auto_kid=False)
OTHER: Final = rsa_key("k3")
KEYS: Final = [key.as_dict(private=False) for key in (RSA, EC)]
CLAIMS: Final[Claims] = {"iss": ISSUER, "aud": CLIENT, "sub": "p", "nonce": "n", "iat": NOW_S, "exp": NOW_S + 300}


def signed(claims: Claims = CLAIMS, alg: str = "RS256", kid: str | None = "k1", key: Any = RSA) -> str:
    header = {"alg": alg} | ({} if kid is None else {"kid": kid})
    return jwt.encode(header, claims, key, algorithms=[alg])


def read(token: str, keys: list[Any] = KEYS) -> Mapping[str, object]:
    header = read_header(token)
    if (key := find_key(header, keys)) is None:
        raise SignInError(Problem.TOKEN, "no key")
    return verify(token, header, key, Expected(ISSUER, CLIENT, "n", NOW_S))


def reason_of(read_token: Callable[[], object]) -> str:
    with pytest.raises(SignInError) as caught:
        read_token()
    assert Problem.TOKEN is caught.value.problem
    return str(caught.value)


@pytest.mark.parametrize(
    "token",
    [
        signed(),
        signed(alg="PS256"),
        signed(alg="ES256", kid="k2", key=EC),
        signed(kid=None),
        signed(CLAIMS | {"aud": [CLIENT]}),
        signed(CLAIMS | {"aud": [CLIENT, "another"], "azp": CLIENT}),
        signed(CLAIMS | {"exp": NOW_S - 59, "iat": NOW_S + 60, "nbf": NOW_S + 60}),
    ],
)
def test_a_right_token_is_read(token: str) -> None:
    assert "p" == read(token)["sub"]


def resigned(claims: Claims) -> str:
    """Returns a token with other claims under the signature of the right ones."""
    head, _, signature = signed().split(".")
    return ".".join((head, part(claims), signature))


SHARED: Final = jwk.OctKey.import_key(str(RSA.as_dict(private=False)["n"]))


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (
            f"{part({'alg': 'none'})}.{part(CLAIMS)}.",
            "ID token: its algorithm 'none' is not one of RS256, PS256, ES256",
        ),
        (signed(alg="HS256", key=SHARED), "ID token: its algorithm 'HS256' is not one of RS256, PS256, ES256"),
        (f"{part({'kid': 'k1'})}.{part(CLAIMS)}.x", "ID token: its algorithm '' is not one of RS256, PS256, ES256"),
        (signed(key=OTHER), "ID token: its signature is not valid (BadSignatureError)"),
        (resigned(CLAIMS | {"sub": "q"}), "ID token: its signature is not valid (BadSignatureError)"),
        (signed()[:-8], "ID token: its signature is not valid (BadSignatureError)"),
        (signed() + ".x", "ID token: its signature is not valid (DecodeError)"),
        (f"{part({'alg': 'RS256', 'kid': 'k1', 'crit': ['x']})}.{part(CLAIMS)}.x", "ID token: its signature is not"),
        (signed(kid="k4"), "no key"),
        (signed(alg="ES256", kid="k1", key=EC), "no key"),
        ("text", "ID token: it is no signed token"),
        ("", "ID token: it is no signed token"),
        ("é.b.c", "ID token: it is no signed token"),
        (signed() + "x" * 70_000, "ID token: it has more than 65536 characters"),
    ],
)
def test_a_token_that_the_provider_did_not_sign_is_refused(token: str, reason: str) -> None:
    assert reason_of(lambda: read(token)).startswith(reason)


@pytest.mark.parametrize(
    "change",
    [{"use": "enc"}, {"alg": "RS512"}, {"kty": "oct", "k": "x"}, {"kty": 7}, {"kid": None}],
)
def test_a_key_for_another_purpose_is_not_used(change: dict[str, object]) -> None:
    assert "no key" == reason_of(lambda: read(signed(), [KEYS[0] | change]))


def test_without_a_key_id_one_of_several_keys_is_not_guessed() -> None:
    keys = [key.as_dict(private=False) for key in (RSA, OTHER)]
    assert "no key" == reason_of(lambda: read(signed(kid=None), keys))


def test_a_broken_key_is_a_refusal() -> None:
    assert "signature" in reason_of(lambda: read(signed(), [{"kty": "RSA", "kid": "k1", "n": "?", "e": 3}]))


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"nonce": "another"}, "its nonce is not that of this sign-in"),
        ({"nonce": None}, "its nonce is not that of this sign-in"),
        ({"nonce": 7}, "its nonce is not that of this sign-in"),
        ({"aud": "another"}, "its audience (aud) is not this client"),
        ({"aud": None}, "its audience (aud) is not this client"),
        ({"aud": []}, "its audience (aud) is not this client"),
        ({"aud": [CLIENT, "another"]}, "it has several audiences and no authorized party (azp)"),
        ({"aud": [CLIENT, "another"], "azp": "another"}, "its azp is not this client"),
        ({"azp": "another"}, "its azp is not this client"),
        ({"azp": [CLIENT]}, "its azp is not this client"),
        ({"iss": "https://evil.example"}, "its issuer (iss) is not the configured one"),
        ({"iss": f"{ISSUER}/"}, "its issuer (iss) is not the configured one"),
        ({"exp": NOW_S - 60}, "it has expired (exp), or has no expiry"),
        ({"exp": None}, "it has expired (exp), or has no expiry"),
        ({"exp": str(NOW_S)}, "it has expired (exp), or has no expiry"),
        ({"exp": True}, "it has expired (exp), or has no expiry"),
        ({"iat": NOW_S + 61}, "it has no iat, or one in the future: check both clocks"),
        ({"iat": None}, "it has no iat, or one in the future: check both clocks"),
        ({"nbf": NOW_S + 61}, "it is not valid yet (nbf): check both clocks"),
        ({"nbf": "x"}, "it is not valid yet (nbf): check both clocks"),
        ({"sub": None}, "its subject (sub) is missing or too long"),
        ({"sub": ""}, "its subject (sub) is missing or too long"),
        ({"sub": 7}, "its subject (sub) is missing or too long"),
        ({"sub": "x" * 256}, "its subject (sub) is missing or too long"),
        ({"sub": "a\nb"}, "its subject (sub) is missing or too long"),
    ],
)
def test_each_wrong_claim_has_its_own_reason(claims: Claims, reason: str) -> None:
    changed = {name: value for name, value in (CLAIMS | claims).items() if value is not None}
    assert f"ID token: {reason}" == reason_of(lambda: read(signed(changed)))
