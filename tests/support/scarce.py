"""Upstreams with little capacity, and background clients that use it or wait for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx

from tests.support.harness import UNLIMITED, Gateway, upstream, wait_until

ONE_AT_ONCE: Final = {"max_concurrency": 1}


def scarce(
    url: str,
    *accounts: str,
    name: str = "sim",
    provider: str = "minimax",
    limits: dict[str, int] | None = None,
    **terms: float,
) -> dict[str, Any]:
    """Returns an upstream whose accounts have a concurrency of 1, or these limits; `terms` are the upstream's own."""
    site = upstream(name, provider, url, *accounts)
    given = UNLIMITED | (ONE_AT_ONCE if limits is None else limits)
    described = [account | given for account in _list(site["accounts"])]
    return site | {"accounts": described} | terms


def _list(accounts: object) -> list[dict[str, Any]]:
    assert isinstance(accounts, list)
    return accounts


def pool(gateway: Gateway, name: str = "sim") -> dict[str, Any]:
    """Returns one upstream from the admin API."""
    found: list[dict[str, Any]] = gateway.admin("GET", "/pool").json()["data"]
    return next(one for one in found if one["name"] == name)


def in_flight(gateway: Gateway, name: str = "sim") -> int:
    return sum(account["concurrency"]["used"] for account in pool(gateway, name)["accounts"])


class Asking(threading.Thread):
    """One background request."""

    def __init__(self, gateway: Gateway, path: str = "/v1/images/generations", **sent: Any) -> None:
        super().__init__(daemon=True)
        self._gateway = gateway
        self._path = path
        self._sent = sent
        self._answer: httpx.Response | None = None

    def run(self) -> None:
        headers = self._sent.pop("headers", {})
        self._answer = self._gateway.post(self._path, self._sent, **headers)

    def answer(self) -> httpx.Response:
        self.join(30)
        assert self._answer is not None, "no answer came"
        return self._answer


def ask(gateway: Gateway, path: str = "/v1/images/generations", **sent: Any) -> Asking:
    asking = Asking(gateway, path, **sent)
    asking.start()
    return asking


@contextmanager
def occupied(gateway: Gateway, seconds: float, name: str = "sim", calls: int = 1) -> Iterator[None]:
    """Occupies an upstream with calls for a time."""
    slow = [ask(gateway, prompt=f"slow [delay={seconds}]") for _ in range(calls)]
    wait_until(lambda: in_flight(gateway, name) == calls, "the slow calls are under way")
    yield
    assert [200] * calls == [one.answer().status_code for one in slow]


def wait_for_queue(gateway: Gateway, depth: int, name: str = "sim", timeout_s: float = 5.0) -> None:
    wait_until(lambda: pool(gateway, name)["waiting"] == depth, f"{depth} requests wait", timeout_s)
