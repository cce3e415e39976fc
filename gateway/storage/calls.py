"""What every call of the storage has: a deadline, a circuit breaker, metrics, and errors that the gateway knows.

After a failure no request waits for the storage, until one call has found it again.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.observability.metrics import Metrics

_LOG = structlog.get_logger("imagegate.storage")
_OPEN_S: Final = 5.0
"""Seconds without calls after a failure."""
_DETAIL_MAX_CHARS: Final = 500
_VENDOR_CODE: Final = re.compile(r"<Code>\s*(\w{1,64})\s*</Code>", re.ASCII)
_VENDOR_MESSAGE: Final = re.compile(r"<Message>([^<]+)</Message>")
_HOST: Final = re.compile(r"https?://[^/\s@]+(?=[/\s])")
_CAUSES: Final = (
    ("dns error", "the name of the host is not known"),
    ("ConnectionRefused", "the connection was refused"),
    ("NetworkUnreachable|HostUnreachable", "the host cannot be reached"),
    ("InvalidCertificate|invalid peer certificate", "the certificate is not valid, or its issuer is not trusted"),
    ("InvalidMessage", "the server speaks no TLS"),
    ("TimedOut", "no response in time"),
)
"""Signs in the error's source, and what they mean."""


class ObjectNotFoundError(Exception):
    """There is no object of this name."""


class UnsatisfiableRangeError(Exception):
    """The range begins behind the end of the object."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the object has {size_bytes} bytes")
        self.size_bytes = size_bytes


class Operation(Enum):
    """A kind of call; the value is the metric label."""

    PUT = "put"
    GET = "get"
    SIGN = "sign"
    HEAD = "head"
    LIST = "list"
    DELETE = "delete"
    MOVE = "move"


@dataclass(slots=True, eq=False)
class StorageBreaker:
    """The state of one kind of access: a full disk can still be read, and what expires be deleted from it."""

    monotonic: Callable[[], float]
    trial_s: float
    """Limit on the call that tries the storage again; the others are refused until it has ended."""
    is_open: bool = False
    _refuses_until_s: float = 0.0

    def admit(self) -> None:
        """Raises: GatewayError STORAGE_UNAVAILABLE, unless a call may be made."""
        if not self.is_open:
            return
        now_s = self.monotonic()
        if now_s < self._refuses_until_s:
            raise GatewayError(ErrorCode.STORAGE_UNAVAILABLE, "circuit breaker open after a failure")
        self._refuses_until_s = now_s + self.trial_s

    def note_success(self) -> None:
        self.is_open = False

    def note_failure(self) -> None:
        self.is_open = True
        self._refuses_until_s = self.monotonic() + _OPEN_S


@dataclass(slots=True, eq=False)
class Source:
    """What is uploaded: its bytes so far, and what its iterator raised, which is no failure of the storage."""

    size_bytes: int = 0
    error: Exception | None = None


def brief(error: Exception) -> str:
    """Returns obstore's error in one line: the vendor's code first, or why there is no connection."""
    text, _, source = str(error).partition("Debug source:")
    message = " ".join(text.split())
    if code := _VENDOR_CODE.search(text):
        said = _VENDOR_MESSAGE.search(text)
        message = f"{code[1]}: {' '.join(said[1].split())}" if said else code[1]
    elif cause := next((words for sign, words in _CAUSES if re.search(sign, source)), ""):
        host = _HOST.search(text)
        message = f"{host[0]}: {cause}" if host else cause
    else:
        message = f"{type(error).__name__}: {message}"
    return message[:_DETAIL_MAX_CHARS]


class StorageCalls:
    """The calls of one storage."""

    def __init__(
        self, errors: tuple[type[Exception], ...], timeout_s: float, metrics: Metrics, monotonic: Callable[[], float]
    ) -> None:
        """`errors` is what a call raises, besides FileNotFoundError and TimeoutError."""
        self.timeout_s = timeout_s
        self.errors: tuple[type[Exception], ...] = (TimeoutError, FileNotFoundError, *errors)
        self.reads = StorageBreaker(monotonic, timeout_s)
        self.writes = StorageBreaker(monotonic, timeout_s)
        self.deletes = StorageBreaker(monotonic, timeout_s)
        self._metrics = metrics
        self._monotonic = monotonic

    @asynccontextmanager
    async def attempt(self, operation: Operation, source: Source | None = None) -> AsyncGenerator[asyncio.Timeout]:
        """Runs one call of the storage.

        Raises: ObjectNotFoundError, except for PUT; GatewayError STORAGE_UNAVAILABLE.
        """
        breaker, started_s, result = self._breaker(operation), self._monotonic(), "refused"
        try:
            breaker.admit()
            result = "cancelled"
            async with asyncio.timeout(self.timeout_s) as deadline:
                yield deadline
            result = "ok"
        except UnsatisfiableRangeError:
            result = "ok"
            raise
        except self.errors as error:
            if source and source.error:
                raise source.error from None
            if isinstance(error, FileNotFoundError) and operation is not Operation.PUT:
                result = "not_found"
                raise ObjectNotFoundError from None
            result = "timeout" if isinstance(error, TimeoutError) else "failed"
            raise self.failure(operation, error) from error
        finally:
            if result in {"ok", "not_found"}:
                breaker.note_success()
            self._metrics.storage_operations.labels(operation.value, result).inc()
            self._metrics.storage_operation_seconds.labels(operation.value).observe(self._monotonic() - started_s)

    def failure(self, operation: Operation, error: Exception) -> GatewayError:
        """Opens the breaker, unless an object was deleted while it was read. Returns: the error for the caller."""
        if isinstance(error, FileNotFoundError) and operation is Operation.GET:
            return GatewayError(ErrorCode.STORAGE_UNAVAILABLE, "deleted while it was read")
        self._breaker(operation).note_failure()
        is_timeout = isinstance(error, TimeoutError)
        detail = f"no response within {self.timeout_s:g} s" if is_timeout else brief(error)
        _LOG.warning("storage_failed", operation=operation.value, detail=detail)
        return GatewayError(ErrorCode.STORAGE_UNAVAILABLE, f"{operation.value}: {detail}")

    def _breaker(self, operation: Operation) -> StorageBreaker:
        if operation is Operation.DELETE:
            return self.deletes
        return self.writes if operation in {Operation.PUT, Operation.MOVE} else self.reads
