"""The order of the test files, and what of them runs in one process."""

from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadFileScheduling

_TESTS: Final = Path(__file__).parents[1]
LONGEST: Final = (
    *("clients/test_python_frameworks.py", "fuzz/test_memory.py", "scheduler/test_histories.py", "flow/test_pool.py"),
    *(
        "clients/test_javascript.py",
        "clients/test_openai_sdks.py",
        "scheduler/test_capacity.py",
        "flow/test_journal.py",
    ),
    *("flow/test_deaths.py", "flow/test_balancer.py", "server/test_hanging_workers.py", "flow/test_hardship.py"),
    *("server/test_upgrades.py", "flow/test_smuggling.py", "api/test_secrecy.py", "flow/test_embedded.py"),
    *("flow/test_stored_replays.py", "cli/test_usage.py", "deploy/test_audit.py", "flow/test_batch_deaths.py"),
    *("bench/test_programs.py", "flow/test_attacks_on_memory.py", "metering/test_verification.py"),
    "flow/test_declared_tenants.py",
)
"""Files that take a minute or more. They begin first, or the last of them would run beside idle processes."""

SPREAD: Final = ("tests/clients/test_python_frameworks.py", "tests/scheduler/test_histories.py")
"""Files whose tests run in any process: together they would take one process longer than all others need."""


class Scheduling(LoadFileScheduling):  # type: ignore[misc] # xdist ships no types
    """Runs the tests of a file in one process, so that they share what they start, except for those of `SPREAD`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file in SPREAD else file


def put_longest_first(items: list[pytest.Item]) -> None:
    """Sorts tests by the place of their file in `LONGEST`; the others stay in their order."""
    places = {_TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
