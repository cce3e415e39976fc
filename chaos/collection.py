"""Collects all records after the run."""

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final

import msgspec

from chaos.administration import Admin, Tenant
from chaos.configuration import ADMIN_KEY, TAG_KEY
from chaos.environment import World
from chaos.ledger_records import SPLITS, Line, Sums
from chaos.observations import Asked, Bill, Call, Observations, Process
from chaos.processes import read_log
from chaos.redis_keys import Keys

_PAGE: Final = 1000
_MISTAKES: Final = frozenset({"internal_error", "settlement_lost", "settlements_abandoned", "batch_line_failed"})
"""Log events that must not occur: bugs of the gateway, and what it lost."""
_LINE_START: Final = '{"'
_VERIFY_S: Final = 120.0


class _Invoice(msgspec.Struct, frozen=True):
    accounts: dict[str, Bill]


async def collect(
    world: World, admin: Admin, tenants: Sequence[Tenant], asked: list[Asked], days: tuple[date, date]
) -> Observations:
    """Collects everything but the recovery times. Raises: AdminError."""
    found = Observations(asked=asked)
    found.calls = msgspec.json.decode(await world.provider.read("/calls"), type=list[Call])
    found.invoice = msgspec.json.decode(await world.provider.read("/invoice"), type=_Invoice).accounts
    query = f"from={days[0]}&to={days[1]}"
    found.lines = [line async for line in _lines(admin, query)]
    found.sums = await _sums(admin, query, "tenant")
    found.batch_sums = await _sums(admin, query, "batch")
    for by in SPLITS:
        tag = f"&tag={TAG_KEY}" if by == "tag" else ""
        found.split_sums[by] = await _sums(admin, f"{query}{tag}", by)
    found.verified = await _verify(world, days)
    found.limit_periods = {tenant.name: tenant.limit_periods for tenant in tenants}
    found.revoked = admin.revoked
    with Keys(world.redis.socket) as keys:
        found.leftovers = keys.leftovers()
        found.days, found.months = keys.counters("day"), keys.counters("month")
    found.processes = list(_processes(world))
    found.mistakes = list(_mistakes(world))
    for one in asked:
        served = world.balancer.served.get(one.id, [])
        one.gateway, one.gateways = served[-1] if served else one.gateway, frozenset(served)
        if one.batch:
            one.gateways = frozenset(process.number for process in found.processes if process.number is not None)
    return found


async def _lines(admin: Admin, query: str) -> Any:
    cursor = ""
    while True:
        page = await admin.call("GET", f"/usage/records?{query}&limit={_PAGE}{cursor}")
        for line in msgspec.convert(page["data"], list[Line]):
            yield msgspec.structs.replace(line, request_id=line.custom_id) if line.custom_id else line
        if not page["next_cursor"]:
            return
        cursor = f"&cursor={page['next_cursor']}"


async def _sums(admin: Admin, query: str, by: str) -> dict[str, Sums]:
    answer = await admin.call("GET", f"/usage?{query}&by={by}")
    return {
        row[by]: Sums(
            row["images"],
            row["withheld"],
            row["lost"],
            row["unconfirmed"],
            int(Decimal(row["usd"]) * 1_000_000),
            row["requests"],
        )
        for row in answer["data"]
    }


async def _verify(world: World, days: tuple[date, date]) -> list[str]:
    """Returns the output of `imagegate usage verify`, run as an operator does; empty if it agrees."""
    url = world.admin_urls()[0]
    command = [sys.executable, "-m", "gateway", "usage", "verify", "--from", str(days[0]), "--to", str(days[1])]
    environ = {"PATH": os.environ["PATH"], "IMAGEGATE_URL": url, "IMAGEGATE_ADMIN_KEY": ADMIN_KEY}
    process = await asyncio.create_subprocess_exec(
        *command,
        "--json",
        env=environ,
        cwd=world.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await asyncio.wait_for(process.communicate(), _VERIFY_S)
    return [] if process.returncode == 0 else told.decode(errors="replace").splitlines()[:20]


def _processes(world: World) -> Iterator[Process]:
    for one in world.fleet.everybody:
        code = one.process.poll()
        was_told = one.told_to_end_s is not None
        died = code is not None and one.killed_s is None and not was_told
        yield Process(
            f"gateway {one.number}",
            one.number,
            one.killed_s,
            tuple(one.worker_kills_s),
            one.exit_code,
            was_told,
            died,
            tuple(one.memory),
        )


def _mistakes(world: World) -> Iterator[tuple[str, str]]:
    """Yields forbidden events of the gateways' logs."""
    for gateway in world.fleet.everybody:
        kills = len(gateway.worker_kills_s) + (gateway.killed_s is not None)
        yield from read_mistakes(read_log(gateway.log).splitlines(), kills)


def read_mistakes(lines: Iterable[str], kills: int = 0) -> Iterator[tuple[str, str]]:
    """Yields (request ID, line) of each forbidden event, and of lines that are not log lines.

    Each SIGKILL may have cut one line: the kernel ends a write between two pages.
    """
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            if line.startswith(_LINE_START) and kills:
                kills -= 1
            elif line.strip():
                yield "", line[:300]
            continue
        if told.get("event") in _MISTAKES or told.get("error_code") == "internal" or told.get("level") == "critical":
            yield str(told.get("request_id", "")), line[:600]
