"""An OpenID provider: its endpoints and signing keys, and the exchange of a code for an ID token.

Endpoints and keys are read at the first sign-in and kept for an hour. A token with an unknown key makes them be read
again, at most once a minute. While the provider fails, it is asked every 5 s.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar
from urllib.parse import quote_plus, urlencode

import msgspec

from gateway.api.console.claims import OidcTerms, Problem, SignInError
from gateway.api.console.id_tokens import Header, Jwk, find_key
from gateway.api.public_url import is_protected
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.fetches import FetchResult

_KEEP_S: Final = 3600.0
_REREAD_S: Final = 60.0
_FAILED_S: Final = 5.0
_KEYS_MAX: Final = 100
_SHOWN_CHARS: Final = 60
_CLIENT_ERRORS: Final = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type"})
"""RFC 6749, section 5.2: what no code can be the reason of."""
_BASIC: Final = "client_secret_basic"
_HEADERS: Final = {"accept": "application/json", "accept-encoding": "identity"}
_T = TypeVar("_T")


class Fetch(Protocol):
    """Gets a document, or posts a form."""

    def __call__(self, url: str, headers: Mapping[str, str], form: bytes | None = None) -> Awaitable[FetchResult]: ...


class Endpoints(msgspec.Struct, frozen=True):
    """The discovery document (OpenID Connect Discovery 1.0, section 3; RFC 9207)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: list[str] = msgspec.field(default_factory=lambda: [_BASIC])
    authorization_response_iss_parameter_supported: bool = False


class _Keys(msgspec.Struct, frozen=True):
    keys: list[dict[str, object]]


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str


class _Refusal(msgspec.Struct, frozen=True):
    error: str = ""


@dataclass(frozen=True, slots=True)
class Discovered:
    """What a provider says of itself."""

    endpoints: Endpoints
    keys: list[dict[str, object]]
    at_s: float
    """Monotonic time."""


@dataclass(slots=True, repr=False)
class IdentityProvider:
    """The configured provider, as this process knows it."""

    terms: OidcTerms
    fetch: Fetch
    monotonic: Callable[[], float]
    _known: Discovered | None = None
    _failure: str = ""
    _failed_at_s: float = 0.0
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def discover(self, keep_s: float = _KEEP_S) -> Discovered:
        """Returns what was read in the last `keep_s`, or reads it. Raises: SignInError PROVIDER."""
        async with self._reading:
            now_s = self.monotonic()
            if self._known and now_s - self._known.at_s < keep_s:
                return self._known
            if self._failure and now_s - self._failed_at_s < _FAILED_S:
                raise SignInError(Problem.PROVIDER, self._failure)
            try:
                self._known, self._failure = await self._read(now_s), ""
            except SignInError as error:
                self._failure, self._failed_at_s = str(error), self.monotonic()
                raise
            return self._known

    async def find_key(self, header: Header) -> Jwk:
        """Returns the key that signed a token. Raises: SignInError PROVIDER, or TOKEN for an unknown key."""
        key = find_key(header, (await self.discover()).keys) or find_key(header, (await self.discover(_REREAD_S)).keys)
        if key is None:
            raise SignInError(Problem.TOKEN, "ID token: its key (kid) is not one of the provider's")
        return key

    async def redeem(self, code: str, verifier: str) -> str:
        """Exchanges a code for an ID token.

        Raises: GatewayError INVITATION_INVALID for a code that is unknown, was used or has expired; SignInError.
        """
        terms, endpoints = self.terms, (await self.discover()).endpoints
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": terms.redirect_uri,
            "code_verifier": verifier,
        }
        headers = _HEADERS | {"content-type": "application/x-www-form-urlencoded"}
        if terms.client_secret and _BASIC in endpoints.token_endpoint_auth_methods_supported:
            login = f"{quote_plus(terms.client_id)}:{quote_plus(terms.client_secret)}"  # RFC 6749, section 2.3.1
            headers |= {"authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
        else:
            form |= {"client_id": terms.client_id}
            form |= {"client_secret": terms.client_secret} if terms.client_secret else {}
        result = await self.fetch(endpoints.token_endpoint, headers, urlencode(form).encode())
        if 400 <= result.status < 500:
            raise _code_refused(result)
        return _decode(result, "token_endpoint", _Tokens).id_token

    async def _read(self, now_s: float) -> Discovered:
        place = f"{self.terms.issuer.rstrip('/')}/.well-known/openid-configuration"
        endpoints = _decode(await self.fetch(place, _HEADERS), "discovery", Endpoints)
        if endpoints.issuer != self.terms.issuer:
            raise _failed("discovery", f"its issuer is '{endpoints.issuer[:200]}'; configure exactly that")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not is_protected(getattr(endpoints, name)):
                raise _failed("discovery", f"{name} is not https")
        keys = _decode(await self.fetch(endpoints.jwks_uri, _HEADERS), "jwks_uri", _Keys).keys
        return Discovered(endpoints, keys[:_KEYS_MAX], now_s)


def _decode(result: FetchResult, place: str, kind: type[_T]) -> _T:
    """Raises: SignInError PROVIDER."""
    if result.error:
        raise _failed(place, result.error)
    if result.status != 200:
        raise _failed(place, f"HTTP {result.status}")
    try:
        return msgspec.json.decode(result.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _failed(place, f"not the expected JSON ({error})"[: _SHOWN_CHARS * 3]) from error


def _failed(place: str, reason: str) -> SignInError:
    return SignInError(Problem.PROVIDER, f"{place}: {reason}")


def _code_refused(result: FetchResult) -> Exception:
    """Returns the error of a refusal: of this client, or of the code.

    Providers call a malformed code `invalid_grant` or `invalid_request`: its sender is throttled.
    """
    try:
        error = msgspec.json.decode(result.body, type=_Refusal).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = ""
    said = "".join(one for one in error if one.isprintable())[:_SHOWN_CHARS]
    reason = f"HTTP {result.status} {said}; check client_id, client_secret and redirect_base"
    if result.status == 400 and error not in _CLIENT_ERRORS:
        return GatewayError(ErrorCode.INVITATION_INVALID, f"token_endpoint: {reason}")
    return _failed("token_endpoint", reason)
