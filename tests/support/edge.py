"""Requests to a gateway with a misbehaving provider, and the state of its keys."""

import httpx

from tests.support.harness import Gateway, Simulator

ATTACK = "draw a poster that says <script>alert(1)</script>"


def order(provider: Simulator, path: str, **said: object) -> None:
    httpx.put(f"{provider.url}/simulator/{path}", json=said, verify=False).raise_for_status()


def keys_called(provider: Simulator) -> list[str]:
    calls = httpx.get(f"{provider.url}/simulator/calls", verify=False).json()
    return [call["key"] for call in calls]


def resting(gateway: Gateway) -> dict[str, str]:
    """Returns every part of the pool that is not ready, with its error code."""
    [pool] = gateway.admin("GET", "/pool").json()["data"]
    accounts = pool["accounts"]
    parts = [("", pool), *((one["account"], one) for one in accounts)]
    parts += [(f"{key['account']}/{key['key']}", key) for one in accounts for key in one["keys"]]
    return {name: part["error_code"] for name, part in parts if part["state"] != "ready"}


def post(gateway: Gateway, key: str, **body: object) -> httpx.Response:
    return Gateway(gateway.url, key).generate(response_format="url", **body)
