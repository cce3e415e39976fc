"""Explains why a Redis does not reply, with what to do."""

import socket
import ssl
from collections.abc import Iterator
from typing import Final

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import BusyLoadingError, InvalidResponse

_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_EOF", "PACKET_LENGTH_TOO_LONG")


def explain_unreachable(error: BaseException, *, is_encrypted: bool) -> str:
    """Returns the reason and the fix; `is_encrypted` if the URL asks for TLS."""
    found = list(_causes(error))
    text = "; ".join(map(str, found))
    if any(isinstance(one, ssl.SSLCertVerificationError) for one in found):
        return _explain_certificate(text)
    if any(isinstance(one, ssl.SSLError) for one in found):
        return _explain_tls(text)
    for kind, reason in (
        (socket.gaierror, "the name of its host is not known; correct it, or check name resolution"),
        (ConnectionRefusedError, "nothing listens there; start it, or correct host and port"),
        (FileNotFoundError, "its socket is missing; start it, or correct the path"),
        (PermissionError, "this user must not open its socket; allow it"),
        (MasterNotFoundError, "no sentinel knows this master; correct its name, or check the sentinels"),
        (BusyLoadingError, "it is loading its data; retry in a minute"),
        (InvalidResponse, "what responds there is no Redis; correct host and port"),
    ):
        if any(isinstance(one, kind) for one in found):
            return reason
    if (
        any(isinstance(one, ConnectionResetError) for one in found)
        or "onnection closed" in text
        or "Connection lost" in text
    ):
        remedy = (
            "check whether it requires a client certificate" if is_encrypted else "if it requires TLS, use rediss://"
        )
        return f"it closes the connection; {remedy}, and check its log and any proxy before it"
    if any(isinstance(one, TimeoutError) for one in found) or "no connection in" in text:
        tls = "its port has TLS" if is_encrypted else "it requires TLS (rediss://)"
        return f"no reply in time; check that it is running, the firewall, and whether {tls}"
    return f"{error}; check that it is running"


def _explain_certificate(text: str) -> str:
    if "ostname mismatch" in text or "IP address mismatch" in text:
        return "its certificate is for another host; correct it, or if nodes have addresses add ?ssl_check_hostname=no"
    if "expired" in text:
        return "its certificate has expired; renew it"
    return "its certificate is not trusted; name its authority with ?ssl_ca_certs=/path/ca.pem"


def _explain_tls(text: str) -> str:
    if any(sign in text for sign in _NO_TLS):
        return "it does not use TLS there; use redis:// instead of rediss://, or its port for TLS"
    if "CERTIFICATE_REQUIRED" in text or "HANDSHAKE_FAILURE" in text:
        return (
            "it refuses the TLS handshake; name a client certificate with ?ssl_certfile=/path/cert.pem&ssl_keyfile=..."
        )
    return f"the TLS handshake failed ({text})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
