"""`/console/oidc`: signing in by the organisation's identity provider (code flow with PKCE), and the person's tenants.

Everything that must come back is derived from a secret in a short-lived cookie of the browser: the state, the nonce and
the PKCE verifier. So the state of another browser is worthless, and sign-ins that are never finished leave nothing in
Redis. A state is used once.

The provider's page sends the browser back, so the browser withholds the session's cookie, which is `Strict`. The
callback therefore answers with a page that opens the console by itself.
"""

import asyncio
import hashlib
import hmac
import html
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final
from urllib.parse import urlencode

import msgspec
import pybase64
import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from gateway.api.admin.schemas import Name, Schema, read_document
from gateway.api.console.access import check_origin, is_secure
from gateway.api.console.claims import Problem, RoleRule, SignInError, find_label, find_roles
from gateway.api.console.grants import Grants
from gateway.api.console.id_tokens import Expected, read_header, verify
from gateway.api.console.identity_provider import IdentityProvider
from gateway.api.console.sign_in import SignInRoutes
from gateway.api.middleware import AsgiEndpoint
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.tenants.sessions import Grant, TenantRole

COOKIE: Final = "__Host-oidc"
ATTEMPT_S: Final = 600
_LOG: Final = structlog.get_logger("imagegate.console")
_TO: Final = re.compile(
    r"(?![^?]*(//|\.\.|%2[eE]))/console(/(?!oidc/)[\w./~%@+-]*)?(\?[\w./~%@+&=:,;!$*-]*)?", re.ASCII
)
"""Pages of the console. Anything else would let a link lead elsewhere."""
_TO_MAX_CHARS: Final = 1000
_CODE_MAX_CHARS: Final = 8192
_COOKIE_MAX_CHARS: Final = 2048
_PAGE: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={to}">'
    '<title>Signing in</title><p><a href="{to}">Continue to the console</a></p></html>'
)
_PROBLEMS: Final = {
    ErrorCode.INVITATION_INVALID: Problem.CODE,
    ErrorCode.AUTHENTICATION_THROTTLED: Problem.THROTTLED,
}


class _TenantChoice(Schema):
    tenant: Name


@dataclass(frozen=True, slots=True, repr=False)
class Attempt:
    """One sign-in of one browser: the value of its cookie, with what is derived from it."""

    cookie: str
    """When it began, 256 random bits, and the page to open."""

    @classmethod
    def begin(cls, to: str, now_s: float) -> "Attempt":
        page = pybase64.urlsafe_b64encode(to[:_TO_MAX_CHARS].encode()).decode().rstrip("=")
        return cls(f"{int(now_s)}.{secrets.token_urlsafe(32)}.{page}")

    def derive(self, name: str) -> str:
        """Returns the `state`, the `nonce` or the PKCE `verifier`; none reveals another."""
        return _base64(hmac.digest(self.cookie.encode(), name.encode(), "sha256"))

    @property
    def challenge(self) -> str:
        return _base64(hashlib.sha256(self.derive("verifier").encode()).digest())

    def read(self, state: str, now_s: float) -> str:
        """Returns the page to open. Raises: SignInError if it is not the state of this attempt, or too late."""
        began, _, rest = self.cookie.partition(".")
        if not rest or len(self.cookie) > _COOKIE_MAX_CHARS:
            raise SignInError(Problem.STATE, "the cookie of the sign-in is missing: it expired, or began elsewhere")
        if not hmac.compare_digest(state.encode(), self.derive("state").encode()):
            raise SignInError(Problem.STATE, "the state is not that of this browser's sign-in")
        if not (began.isascii() and began.isdecimal()) or not now_s - ATTEMPT_S <= int(began) <= now_s + 1:
            raise SignInError(Problem.STATE, f"the sign-in began more than {ATTEMPT_S} s ago")
        page = rest.partition(".")[2]
        try:
            to = pybase64.urlsafe_b64decode(page + "=" * (-len(page) % 4)).decode()
        except ValueError:
            to = ""
        return to if _TO.fullmatch(to) else "/console/"


@dataclass(frozen=True, slots=True, repr=False)
class OidcRoutes:
    """Request handlers."""

    provider: IdentityProvider
    sign_in: SignInRoutes
    grants: Grants
    clock: Callable[[], float]

    def routes(self) -> list[Route]:
        return [
            Route("/console/oidc/start", AsgiEndpoint(self.start), methods=["GET"]),
            Route("/console/oidc/callback", AsgiEndpoint(self.finish), methods=["GET"]),
            Route("/console/session/tenant", AsgiEndpoint(self.switch), methods=["POST"]),
        ]

    async def start(self, request: Request) -> Response:
        """Sends the browser to the provider."""
        if not is_secure(request):
            return _refuse(Problem.COOKIE, "neither TLS nor localhost: the browser would keep no cookie")
        try:
            endpoint = (await self.provider.discover()).endpoints.authorization_endpoint
        except SignInError as error:
            return _refuse(error.problem, str(error))
        terms, attempt = self.provider.terms, Attempt.begin(request.query_params.get("to", ""), self.clock())
        query = {
            "response_type": "code",
            "client_id": terms.client_id,
            "redirect_uri": terms.redirect_uri,
            "scope": " ".join(terms.scopes),
            "state": attempt.derive("state"),
            "nonce": attempt.derive("nonce"),
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        response = RedirectResponse(f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}", 303)
        _set_cookie(response, attempt.cookie, ATTEMPT_S)
        return response

    async def finish(self, request: Request) -> Response:
        """Opens a session for who comes back from the provider, or shows in the console why not."""
        try:
            attempt, query = Attempt(request.cookies.get(COOKIE, "")), request.query_params
            to = attempt.read(query.get("state", ""), self.clock())
            await self._check_answer(query.get("iss"), query.get("error"))
            token = await self._redeem(request, attempt, query.get("code", ""))
            grant = await self._grant(await self._read(token, attempt.derive("nonce")))
            response = await self.sign_in.open(request, grant, _page(to))
        except SignInError as error:
            response = _refuse(error.problem, str(error))
        except GatewayError as error:
            response = _refuse(_PROBLEMS.get(error.error_code, Problem.UNAVAILABLE), str(error))
        _set_cookie(response, "", 0)
        return response

    async def switch(self, request: Request) -> Response:
        """Opens the person's session in another of its tenants, until the same end.

        Raises: GatewayError SESSION_REQUIRED, CROSS_SITE_REQUEST, NOT_PERMITTED, REDIS_UNAVAILABLE.
        """
        check_origin(request)
        session = await self.sign_in.access.find(request)
        if session is None:
            raise GatewayError(ErrorCode.SESSION_REQUIRED)
        wanted = (await read_document(request, self.sign_in.limits, _TenantChoice)).tenant
        names = await self.sign_in.names.all_current()
        for one in session.grant.choices:
            if names.get(one.tenant, one.tenant) == wanted:
                grant = msgspec.structs.replace(session.grant, tenant=one.tenant, role=one.role)
                if await self.grants.is_in_force(grant):
                    return await self.sign_in.open(request, grant, expires_at=session.expires_at)
        raise GatewayError(ErrorCode.NOT_PERMITTED, f"You have no role in a tenant '{wanted}' that is enabled.")

    async def _check_answer(self, issuer: str | None, error: str | None) -> None:
        """Raises: SignInError if another provider answers (RFC 9207), or this one refuses."""
        endpoints = (await self.provider.discover()).endpoints
        if issuer != endpoints.issuer and (issuer or endpoints.authorization_response_iss_parameter_supported):
            raise SignInError(Problem.TOKEN, "the response is not from the configured issuer (iss)")
        if error is not None:
            named = "".join(one for one in error if one.isprintable())[:60]
            raise SignInError(Problem.DENIED, f"the provider refused: {named}")

    async def _redeem(self, request: Request, attempt: Attempt, code: str) -> str:
        """Returns the ID token of a code. Wrong codes are throttled as wrong keys are."""
        if not 0 < len(code) <= _CODE_MAX_CHARS:
            raise SignInError(Problem.CODE, "the response has no code")

        async def redeem() -> str:
            if not await self.sign_in.access.sessions.use_once(attempt.derive("state"), ATTEMPT_S + 60):
                raise SignInError(Problem.STATE, "the state was used already")
            return await self.provider.redeem(code, attempt.derive("verifier"))

        address = request.client.host if request.client else ""
        return await self.sign_in.throttle.check_tenant(address, f"Bearer {code}", redeem)

    async def _read(self, token: str, nonce: str) -> dict[str, object]:
        """Returns the claims of a valid ID token."""
        header, terms = read_header(token), self.provider.terms
        key = await self.provider.find_key(header)
        expected = Expected(terms.issuer, terms.client_id, nonce, self.clock())
        return await asyncio.to_thread(partial(verify, token, header, key, expected))

    async def _grant(self, claims: dict[str, object]) -> Grant:
        """Raises: SignInError without a role, or without a tenant that is enabled."""
        terms = self.provider.terms
        grant = Grant(
            subject=f"oidc:{claims['sub']}",
            label=find_label(claims) or str(claims["sub"]),
            role=(rules := find_roles(claims, terms.claim, terms.rules))[0].role,
            method="oidc",
            proof=terms.proof,
        )
        if not grant.role.has_tenant:
            return grant
        choices = tuple([one for rule in rules if (one := await self._choice(grant, rule))])
        if not choices:
            names = ", ".join(rule.tenant for rule in rules)
            raise SignInError(Problem.TENANT, f"tenants that do not exist or are disabled: {names}"[:300])
        several = choices if len(choices) > 1 else ()
        return msgspec.structs.replace(grant, tenant=choices[0].tenant, role=choices[0].role, choices=several)

    async def _choice(self, grant: Grant, rule: RoleRule) -> TenantRole | None:
        """Returns a rule's tenant and role; None if the tenant does not exist or is disabled."""
        try:
            tenant = await self.sign_in.names.resolve(rule.tenant)
        except GatewayError as error:
            if error.error_code is not ErrorCode.NOT_FOUND:
                raise
            return None
        in_tenant = msgspec.structs.replace(grant, tenant=tenant, role=rule.role)
        return TenantRole(tenant, rule.role) if await self.grants.is_in_force(in_tenant) else None


def _refuse(problem: Problem, reason: str) -> Response:
    _LOG.warning("console_sign_in_refused", problem=problem.value, reason=reason)
    return _page(f"/console/?problem={problem.value}")


def _page(to: str) -> Response:
    """Returns a page of the console's own origin that opens another one, so that the browser sends `Strict` cookies."""
    return HTMLResponse(_PAGE.format(to=html.escape(to)))


def _set_cookie(response: Response, value: str, max_age_s: int) -> None:
    response.set_cookie(COOKIE, value, max_age=max_age_s, path="/", secure=True, httponly=True, samesite="lax")


def _base64(digest: bytes) -> str:
    return pybase64.urlsafe_b64encode(digest).decode().rstrip("=")
