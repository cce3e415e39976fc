"""Pool accounts in the admin API's format."""

from typing import Any, Final

import httpx

from tests.support.harness import Gateway

CANARY: Final = "sk_canary_0123456789"


NEW: Final = {"upstream": "sim", "account": "main", "key": "main-2", "secret": CANARY}


def pool(gateway: Gateway) -> dict[str, Any]:
    """Returns the only upstream."""
    [found] = gateway.admin("GET", "/pool").json()["data"]
    return dict(found)


def refused(response: httpx.Response, status: int, *words: str) -> dict[str, Any]:
    assert status == response.status_code, response.text
    error: dict[str, Any] = response.json()["error"]
    assert [] == [word for word in words if word not in error["message"]], error["message"]
    return error
