"""Periods and groups of `imagegate usage` that cannot be: the message names the form."""

import pytest

from tests.support.commands import run
from tests.support.harness import ADMIN_KEY, Gateway
from tests.support.operators import Shows

DAY = "expected a day, YYYY-MM-DD, as 2026-01-31, but got "
MONTH = "expected a month, YYYY-MM, as 2026-01, but got "
LAST = "expected a number of days, today included, as 30d, but got "


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--from", "2026-13-01"), f"Invalid value for '--from': {DAY}'2026-13-01'"),
        (("--to", "2026-02-30"), f"Invalid value for '--to': {DAY}'2026-02-30'"),
        (("--from", "01.11.2026"), f"Invalid value for '--from': {DAY}'01.11.2026'"),
        (("--from", "11/01/2026"), f"Invalid value for '--from': {DAY}'11/01/2026'"),
        (("--from", "yesterday"), f"Invalid value for '--from': {DAY}'yesterday'"),
        (("--from", "2026-11"), f"Invalid value for '--from': {DAY}'2026-11'"),
        (("--month", "2026-13"), f"Invalid value for '--month': {MONTH}'2026-13'"),
        (("--month", "november"), f"Invalid value for '--month': {MONTH}'november'"),
        (("--month", "2026-11-01"), f"Invalid value for '--month': {MONTH}'2026-11-01'"),
        (
            ("--by", "team"),
            "Invalid value for '--by': 'team' is not one of day, hour, month, tenant, cost_centre, owner, model, key,",
        ),
    ],
)
def test_a_wrong_period_is_refused_before_the_server_is_asked(
    shows: Shows, given: tuple[str, ...], message: str
) -> None:
    for command in ("usage", "usage export", "usage verify") if given[0] != "--by" else ("usage",):
        done = run(*command.split(), *given)
        *_, printed = done.stderr.splitlines()
        assert (2, f"Error: {message}") == (done.returncode, printed[: len(message) + 7])
    shows(14, f"imagegate usage {' '.join(given)}", printed)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--last", "30"), f"{LAST}'30'."),
        (("--last", "4w"), f"{LAST}'4w'."),
        (("--last", "0d"), f"{LAST}'0d'."),
        (("--last", "30d", "--month", "2026-11"), "it cannot be combined with another period. Use it alone."),
        (("--from", "2026-11-02", "--to", "2026-11-01"), "it is after 'to' (2026-11-01)."),
        (("--by", "tag"), "'tag', the key of the tag to group by. No tag has sums: [attribution] keys names none."),
        (("--tag", "env"), "expected KEY or KEY=VALUE of a tag with sums, but got 'env'. No tag has sums"),
        (("--by", "user,upstream"), "usage by user and upstream has separate sums. Ask for one of them at a time."),
    ],
)
def test_a_period_or_group_that_the_server_refuses_names_what_it_takes(
    shows: Shows, gateway: Gateway, given: tuple[str, ...], message: str
) -> None:
    done = run("usage", *given, IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    assert 1 == done.returncode
    assert message in done.stderr
    shows(14, f"imagegate usage {' '.join(given)}", done.stderr.strip())


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("given", "head"),
    [
        (("--month", "2026-02"), "2026-02-01 to 2026-02-28, UTC"),
        (("--from", "2026-2-1", "--to", "2026-2-5"), "2026-02-01 to 2026-02-05, UTC"),
        (("--month", "2026-02", "--by", "cost_centre,owner,month"), "2026-02-01 to 2026-02-28, UTC"),
    ],
)
def test_a_period_that_can_be_is_reported(gateway: Gateway, given: tuple[str, ...], head: str) -> None:
    done = run("usage", *given, IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    assert (0, head) == (done.returncode, done.stdout.splitlines()[0])
