import subprocess

import pytest

from tests.support.commands import Ask, run
from tests.support.harness import ADMIN_KEY, Gateway


@pytest.fixture
def ask(gateway: Gateway) -> Ask:
    """A command with the address and the admin key of a running gateway."""

    def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(*arguments, IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)

    return asked
