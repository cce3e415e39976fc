"""Parents and children: who ends with whom, asked of the kernel, so that it holds for a killed parent too."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def end_with_parent(how: signal.Signals, parent: int) -> bool:
    """Have this process get a signal when its parent `parent` ends; Linux only, elsewhere nothing happens.

    The kernel ties it to the parent's thread that started this process. False: the parent has ended already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)
    return os.getppid() == parent
