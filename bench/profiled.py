"""The gateway under a sampling profiler: `python -m bench.profiled FILE serve --config ...`.

Records the stack every few milliseconds of CPU. Work in C counts for the calling function. FILE gets a line for
each stack with its count, the input of flame graphs; FILE.txt gets the most expensive functions.
"""

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from gateway.cli import main

_EVERY_S: Final = 0.001
"""Or at the kernel's tick rate."""
_WRITE_EVERY: Final = 250
"""Samples; the benchmark ends gateways with SIGKILL, so nothing can be written at exit."""
_SHOWN: Final = 60


class Profile:
    """Sampled stacks with their counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stacks = Counter[tuple[str, ...]]()
        self._count = 0

    def note(self, _: int, frame: FrameType | None) -> None:
        """Handles the signal."""
        self._stacks[tuple(_names(frame))[::-1]] += 1
        self._count += 1
        if self._count % _WRITE_EVERY == 0:
            threading.Thread(target=self._write, args=[self._stacks.copy()], daemon=True).start()

    def _write(self, stacks: Counter[tuple[str, ...]]) -> None:
        """Writes in a thread: otherwise the gateway's Redis calls would time out meanwhile."""
        folded = (f"{';'.join(stack)} {count}" for stack, count in stacks.most_common())
        self._path.write_text("\n".join(folded) + "\n")
        self._path.with_name(self._path.name + ".txt").write_text(render_costs(stacks))


def render_costs(stacks: Counter[tuple[str, ...]]) -> str:
    """Returns the most expensive functions, by own time and with callees."""
    own, whole = Counter[str](), Counter[str]()
    for stack, count in stacks.items():
        own[stack[-1]] += count
        whole.update(dict.fromkeys(stack, count))
    lines = [f"{stacks.total()} samples"]
    for title, found in (("in themselves", own), ("with what they called", whole)):
        lines += ["", title]
        lines += [f"{100 * count / stacks.total():5.1f} %  {name}" for name, count in found.most_common(_SHOWN)]
    return "\n".join(lines) + "\n"


def _names(frame: FrameType | None) -> Iterator[str]:
    """Yields names from the innermost frame outwards."""
    while frame:
        code = frame.f_code
        yield f"{'/'.join(Path(code.co_filename).parts[-3:])}:{code.co_qualname}"
        frame = frame.f_back


if __name__ == "__main__":
    profile = Profile(Path(sys.argv.pop(1)))
    signal.signal(signal.SIGPROF, profile.note)
    signal.setitimer(signal.ITIMER_PROF, _EVERY_S, _EVERY_S)
    main()
