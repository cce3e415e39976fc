"""Turns for a bounded number of calls at a time, in the order of coming; all who wait can be sent away at once."""

import asyncio
from collections import OrderedDict


class Slots:
    """In one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    async def take(self) -> bool:
        """Returns: whether there is a slot, to be given back; False: sent away."""
        if self._free:
            self._free -= 1
            return True
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            await asyncio.wait({turn})
        except asyncio.CancelledError:
            if self._leave(turn):
                self.give_back()
            raise
        return self._leave(turn)

    def give_back(self) -> None:
        """Hand the slot to whoever waits longest."""
        if self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            turn.set_result(True)
        else:
            self._free += 1

    def send_away(self) -> None:
        """Whoever waits now gets none."""
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            turn.set_result(False)

    def _leave(self, turn: "asyncio.Future[bool]") -> bool:
        """Returns: whether a slot was handed over."""
        self._waiting.pop(turn, None)
        return turn.done() and turn.result()
