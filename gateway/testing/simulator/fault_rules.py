"""Switches under /simulator: they change responses until the next change or a restart."""

from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.edge import Edge, EdgeSwitch
from gateway.testing.simulator.parsing import describe
from gateway.testing.simulator.responses import answer_json
from gateway.testing.simulator.states import KeyStates, KeySwitch, Outages, OutageSwitch

SwitchT = TypeVar("SwitchT", KeySwitch, OutageSwitch, EdgeSwitch)


class InvalidSwitchError(Exception):
    """States what is wrong with the body of a switch request."""


class FaultSwitches:
    """Applies a switch and echoes it; an invalid one gets 400 and changes nothing."""

    def __init__(self, states: KeyStates, outages: Outages, edge: Edge) -> None:
        self._states = states
        self._outages = outages
        self._edge = edge

    async def key(self, request: Request) -> Response:
        order = await _parse_key_switch(request)
        self._states.set_key(request.path_params["key"], order)
        return answer_json(order)

    async def account(self, request: Request) -> Response:
        order = await _parse_key_switch(request)
        self._states.set_account(request.path_params["account"], order)
        return answer_json(order)

    async def begin_outage(self, request: Request) -> Response:
        order = await _read(request, OutageSwitch)
        self._outages.begin(order)
        return answer_json(order)

    async def end_outage(self, _: Request) -> Response:
        """Ends the outage, if any; hanging calls are not released."""
        self._outages.end()
        return Response(status_code=204)

    async def edge(self, request: Request) -> Response:
        order = await _read(request, EdgeSwitch)
        self._edge.order = order
        return answer_json(order)


async def render_invalid_switch(_: Request, error: Exception) -> Response:
    return answer_json({"detail": str(error)}, status=400)


async def _parse_key_switch(request: Request) -> KeySwitch:
    order = await _read(request, KeySwitch)
    if order.answers == 0 and order.remains_ms is not None:
        raise InvalidSwitchError("remains_ms: goes with a code other than 0")
    return order


async def _read(request: Request, shape: type[SwitchT]) -> SwitchT:
    try:
        return msgspec.json.decode(await request.body(), type=shape)
    except msgspec.ValidationError as error:
        raise InvalidSwitchError(describe(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidSwitchError("The body is not JSON.") from error
