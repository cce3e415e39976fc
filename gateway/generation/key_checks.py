"""Key checks: calls to an upstream's free endpoint, which bills nothing."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import httpx

from gateway.domain.accounts import ProviderKey
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.redaction import redact
from gateway.generation.responses import read_reply
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.providers.protocol import KeyCheck

_DEADLINE_S: Final = 10.0
_CONNECT_S: Final = 5.0
"""Shorter than the deadline, to distinguish an unreachable host from a silent one."""
_MAX_BYTES: Final = 1024 * 1024
"""302.AI lists every model of every provider: hundreds, at about 100 bytes each."""


class KeyChecker:
    """Checks keys at the free endpoints of all upstreams."""

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport,
        endpoints: Callable[[], Mapping[str, UpstreamEndpoint]],
        user_agent: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`endpoints` returns those of the current configuration by name."""
        self._transport = transport
        self._endpoints = endpoints
        self._user_agent = user_agent
        self._monotonic = monotonic

    async def probe(self, key: ProviderKey) -> KeyCheck:
        """Sends one GET with a deadline of 10 s.

        Raises: GatewayError NOT_FOUND if the upstream is no longer configured; nothing else.
        """
        endpoint = self._endpoints().get(key.upstream)
        if endpoint is None:
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no upstream '{key.upstream}'.")
        started = self._monotonic()
        try:
            async with asyncio.timeout(_DEADLINE_S):
                reply = await read_reply(self._transport, self._build_request(endpoint, key), _MAX_BYTES)
            result = endpoint.provider.read_key_check(reply)
        except TimeoutError:
            result = KeyCheck(ErrorCode.READ_TIMEOUT, f"no complete response within {_DEADLINE_S:.0f} s")
        except httpx.InvalidURL:
            result = KeyCheck(ErrorCode.NOT_SENT, "base_url is not a valid URL")
        except GatewayError as error:
            result = KeyCheck(error.error_code, error.detail)
        detail = redact(result.detail, key.secret)
        return replace(result, detail=detail, seconds=self._monotonic() - started)

    def _build_request(self, endpoint: UpstreamEndpoint, key: ProviderKey) -> httpx.Request:
        asked = endpoint.provider.build_key_check(key.secret)
        return httpx.Request(
            asked.method,
            endpoint.base_url + asked.path,
            headers=[*asked.headers, ("accept-encoding", "identity"), ("user-agent", self._user_agent)],
            content=b"".join(asked.body),
            extensions={"timeout": {"connect": _CONNECT_S, "read": _DEADLINE_S}},
        )
