"""`imagegate tenant credit`, down to the refusal that it lifts."""

import re

import pytest

from tests.support.commands import Ask, check_refused
from tests.support.harness import Gateway


def test_a_credit_frees_a_quota_and_the_bill_stays(ask: Ask, gateway: Gateway) -> None:
    ask("tenant", "update", "acme", "--images-per-month", "1")
    assert [200, 429] == [gateway.generate(prompt="a cat").status_code for _ in range(2)]
    given = ask("tenant", "credit", "acme", "--images", "1", "--reason", "outage", "--id", "t-1")
    assert (0, "") == (given.returncode, given.stderr)
    assert re.search(r"^credited: images per month +1 *$", given.stdout, re.MULTILINE)
    again = ask("tenant", "credit", "acme", "--images", "1", "--reason", "outage", "--id", "t-1")
    assert "given before under this ID" in again.stdout
    assert [200, 429] == [gateway.generate(prompt="a cat").status_code for _ in range(2)]
    shown = ask("tenant", "show", "acme").stdout
    assert re.search(r"^used: images this month +1 *$", shown, re.MULTILINE)
    assert re.search(r"^credited: images per day +1 *$", shown, re.MULTILINE)
    assert 2 == gateway.admin("GET", "/usage").json()["total"]["images"]
    audit = ask("audit", "--tenant", "acme").stdout
    assert 1 == audit.count("tenant.credit")
    assert "reason: none -> outage" in audit


@pytest.mark.parametrize("options", [("--images", "1", "--usd", "1"), ()])
def test_one_kind_of_credit_is_needed(ask: Ask, options: tuple[str, ...]) -> None:
    done = ask("tenant", "credit", "acme", "--reason", "outage", *options)
    assert 2 == done.returncode
    assert "exactly one of --images, --usd and --reset" in done.stderr


def test_an_unknown_tenant_is_named(ask: Ask) -> None:
    check_refused(ask("tenant", "credit", "nobody", "--images", "1", "--reason", "x"), "nobody")
