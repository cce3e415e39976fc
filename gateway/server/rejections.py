"""Log of connections and requests that the server rejects. Clients control the volume, so lines are aggregated."""

import asyncio
from typing import Final

import structlog

_LOG = structlog.get_logger("imagegate.http")
_INTERVAL_S: Final = 60.0


class RejectionLog:
    """Logs the first rejection for each problem immediately, and the number of further ones each minute.

    Problems are a closed set: ours and the parser's, never text from a client.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        """Rejections not yet logged, of problems that were logged within the interval."""

    def add(self, problem: str) -> None:
        if problem in self._counts:
            self._counts[problem] += 1
        else:
            self._log(problem, 1)

    def _log(self, problem: str, count: int) -> None:
        _LOG.warning("connections_rejected", problem=problem, count=count)
        self._counts[problem] = 0
        asyncio.get_running_loop().call_later(_INTERVAL_S, self._end_interval, problem)

    def _end_interval(self, problem: str) -> None:
        if count := self._counts.pop(problem):
            self._log(problem, count)
