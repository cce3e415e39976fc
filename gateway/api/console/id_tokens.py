"""Checks ID tokens: signature, issuer, audience, times and nonce (OpenID Connect Core 3.1.3.7).

The algorithm is one of a fixed list, never the token's choice: `none` and those with a shared key are refused.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import pybase64

from gateway.api.console.claims import Problem, SignInError

_KINDS: Final = {"RS256": "RSA", "PS256": "RSA", "ES256": "EC"}
"""Algorithms and the type of their keys."""
_PUBLIC: Final = ("kty", "n", "e", "crv", "x", "y")
_SKEW_S: Final = 60
"""Tolerance for the clocks of the provider and this machine."""
_MAX_CHARS: Final = 65_536
_SUBJECT_MAX_CHARS: Final = 255
"""OpenID Connect Core 2."""

Jwk = Mapping[str, object]


class Header(msgspec.Struct, frozen=True):
    """The part of a token that names its key. It is not verified yet."""

    alg: str = ""
    kid: str | None = None


@dataclass(frozen=True, slots=True)
class Expected:
    """What a token must say."""

    issuer: str
    client_id: str
    nonce: str
    now_s: float


def read_header(token: str) -> Header:
    """Raises: SignInError for a token that is none, or whose algorithm is not accepted."""
    first = token[:_MAX_CHARS].partition(".")[0]
    try:
        decoded = pybase64.urlsafe_b64decode(first + "=" * (-len(first) % 4))
        header = msgspec.json.decode(decoded, type=Header)
    except (ValueError, msgspec.DecodeError) as error:
        raise _refused("it is no signed token") from error
    if len(token) > _MAX_CHARS:
        raise _refused(f"it has more than {_MAX_CHARS} characters")
    if header.alg not in _KINDS:
        raise _refused(f"its algorithm {header.alg[:20]!r} is not one of {', '.join(_KINDS)}")
    return header


def find_key(header: Header, keys: Sequence[Jwk]) -> Jwk | None:
    """Returns the key of a token. A token without `kid` has the only key of its type."""
    kind = _KINDS[header.alg]
    fitting = [
        key
        for key in keys
        if key.get("kty") == kind and key.get("use", "sig") == "sig" and key.get("alg", header.alg) == header.alg
    ]
    if header.kid is None:
        return fitting[0] if len(fitting) == 1 else None
    return next((key for key in fitting if key.get("kid") == header.kid), None)


def verify(token: str, header: Header, key: Jwk, expected: Expected) -> dict[str, object]:
    """Returns the claims of a valid token. Raises: SignInError. It takes 1 ms, 140 ms at first: run it in a thread."""
    from joserfc import jwk, jwt  # noqa: PLC0415 - an extra, of 9 MB
    from joserfc.errors import JoseError  # noqa: PLC0415

    public = {name: key[name] for name in _PUBLIC if name in key}
    try:
        imported = jwk.import_key(public)  # type: ignore[arg-type] # a key of the provider: joserfc checks it
        claims: dict[str, object] = jwt.decode(token, imported, algorithms=[header.alg]).claims
    except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _refused(f"its signature is not valid ({type(error).__name__})") from error
    _check(claims, expected)
    return claims


def _check(claims: Mapping[str, object], expected: Expected) -> None:
    """Raises: SignInError with the first reason."""
    audience, party, subject = claims.get("aud"), claims.get("azp"), claims.get("sub")
    audiences = audience if isinstance(audience, list) else [audience]
    nonce = claims.get("nonce")
    checks = (
        (claims.get("iss") == expected.issuer, "its issuer (iss) is not the configured one"),
        (expected.client_id in audiences, "its audience (aud) is not this client"),
        (len(audiences) == 1 or party is not None, "it has several audiences and no authorized party (azp)"),
        (party in {None, expected.client_id} if isinstance(party, str | None) else False, "its azp is not this client"),
        (expected.now_s < _number(claims, "exp") + _SKEW_S, "it has expired (exp), or has no expiry"),
        (_number(claims, "iat") <= expected.now_s + _SKEW_S, "it has no iat, or one in the future: check both clocks"),
        (_number(claims, "nbf", 0.0) <= expected.now_s + _SKEW_S, "it is not valid yet (nbf): check both clocks"),
        (
            isinstance(nonce, str) and hmac.compare_digest(nonce.encode(), expected.nonce.encode()),
            "its nonce is not that of this sign-in",
        ),
        (
            isinstance(subject, str) and 0 < len(subject) <= _SUBJECT_MAX_CHARS and subject.isprintable(),
            "its subject (sub) is missing or too long",
        ),
    )
    for is_right, reason in checks:
        if not is_right:
            raise _refused(reason)


def _number(claims: Mapping[str, object], name: str, default: float = float("nan")) -> float:
    """Returns a time; not a number, which compares as false, without one."""
    value = claims.get(name, default)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


def _refused(reason: str) -> SignInError:
    return SignInError(Problem.TOKEN, f"ID token: {reason}")
