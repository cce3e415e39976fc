"""Kind 14: words of the commands that misled."""

import subprocess

import pytest

from tests.support.commands import run
from tests.support.harness import ADMIN_KEY, Gateway
from tests.support.operators import Shows


def ask(gateway: Gateway, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run(*arguments, IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)


@pytest.mark.shares_gateway
@pytest.mark.parametrize("grace", ["24", "1", "86400", "007"])
def test_a_grace_without_a_unit_is_refused(gateway: Gateway, grace: str, shows: Shows) -> None:
    done = ask(gateway, "key", "rotate", "acme", gateway.api_key[6:16], "--grace", grace)
    assert (2, "") == (done.returncode, done.stdout)
    message = f"{grace} needs a unit: {grace}h, {grace}m, {grace}s or {grace}d"
    assert message in " ".join(done.stderr.split())
    shows(14, f"imagegate key rotate acme KEY --grace {grace}", message)
    assert 200 == gateway.get("/v1/models").status_code


def test_the_audit_says_false_for_what_was_not_set(gateway: Gateway, shows: Shows) -> None:
    for is_disabled, line in ((True, "disabled: false -> true"), (False, "disabled: true -> false")):
        gateway.admin("PATCH", "/tenants/acme", {"disabled": is_disabled})
        text = ask(gateway, "audit", "--tenant", "acme", "--limit", "1").stdout
        assert f"    {line}\n" in text
        shows(14, "imagegate audit", line)
