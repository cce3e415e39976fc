"""Switches under /simulator: they change responses until the next change or a restart."""

from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.edge import Edge, EdgeOrder
from gateway.testing.simulator.parsing import describe
from gateway.testing.simulator.responses import answer_json
from gateway.testing.simulator.states import KeyOrder, KeyStates, OutageOrder, Outages

OrderT = TypeVar("OrderT", KeyOrder, OutageOrder, EdgeOrder)


class UnclearOrderError(Exception):
    """States what is wrong with the body of a switch request."""


class Controls:
    """Applies a switch and echoes it; an invalid one gets 400 and changes nothing."""

    def __init__(self, states: KeyStates, outages: Outages, edge: Edge) -> None:
        self._states = states
        self._outages = outages
        self._edge = edge

    async def key(self, request: Request) -> Response:
        order = await _read_key_order(request)
        self._states.set_key(request.path_params["key"], order)
        return answer_json(order)

    async def account(self, request: Request) -> Response:
        order = await _read_key_order(request)
        self._states.set_account(request.path_params["account"], order)
        return answer_json(order)

    async def begin_outage(self, request: Request) -> Response:
        order = await _read(request, OutageOrder)
        self._outages.begin(order)
        return answer_json(order)

    async def end_outage(self, _: Request) -> Response:
        """Ends the outage, if any; hanging calls are not released."""
        self._outages.end()
        return Response(status_code=204)

    async def edge(self, request: Request) -> Response:
        order = await _read(request, EdgeOrder)
        self._edge.order = order
        return answer_json(order)


async def say_what_is_unclear(_: Request, error: Exception) -> Response:
    return answer_json({"detail": str(error)}, status=400)


async def _read_key_order(request: Request) -> KeyOrder:
    order = await _read(request, KeyOrder)
    if order.answers == 0 and order.remains_ms is not None:
        raise UnclearOrderError("remains_ms: goes with a code other than 0")
    return order


async def _read(request: Request, shape: type[OrderT]) -> OrderT:
    try:
        return msgspec.json.decode(await request.body(), type=shape)
    except msgspec.ValidationError as error:
        raise UnclearOrderError(describe(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnclearOrderError("The body is not JSON.") from error
