"""Clients that repeat their requests, as SDKs do: after a time-out, a broken connection or an error, or at once.

Three in four have an Idempotency-Key. All attempts of one request have one ID, so its purchases are found together.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from chaos.administration import Tenant
from chaos.clients import Clients
from chaos.observations import Asked, Caps, Ending
from chaos.orders import HangUp, Order, draw

TENANTS: Final = 4
_CLIENTS_A_TENANT: Final = 2
_ATTEMPTS_MAX: Final = 6
_TIMEOUTS_S: Final = (0.03, 0.4, 1.5, 4.0, None, None, None)
"""After which a client disconnects; None: it waits for the response."""
_KEYED_SHARE: Final = 0.75
_AT_ONCE_SHARE: Final = 0.2
_PAUSE_S: Final = 2.0
"""Longest pause before the next attempt. An SDK's retry joins what ended within the last 10 s."""


def plan_repeaters() -> list[Tenant]:
    """Returns tenants whose clients repeat every request. They have no limits: an attempt counts in none but one."""
    return [Tenant(f"again-{number}", Caps(), 1, None) for number in range(TENANTS)]


@dataclass(frozen=True, slots=True)
class Repeaters:
    """These tenants' clients."""

    clients: Clients
    tenants: Sequence[Tenant]
    seed: int

    async def keep_asking(self) -> None:
        """Runs all until the end."""
        await asyncio.gather(
            *(self._keep_asking(tenant, number) for tenant in self.tenants for number in range(_CLIENTS_A_TENANT))
        )

    async def _keep_asking(self, tenant: Tenant, number: int) -> None:
        chance = Random(f"{self.seed}/{tenant.name}/{number}")  # noqa: S311 - it is to be repeatable
        while not self.clients.is_over:
            await self._ask(draw(chance, None), tenant, chance)
            await asyncio.sleep(chance.uniform(0, _PAUSE_S))

    async def _ask(self, order: Order, tenant: Tenant, chance: Random) -> None:
        """Repeats one request until its client has the images twice, or gets a lasting error twice."""
        asked = self.clients.begin(order, tenant)
        asked.is_keyed = chance.random() < _KEYED_SHARE
        key = {"idempotency-key": asked.id} if asked.is_keyed else {}
        for number in range(_ATTEMPTS_MAX):
            headers = {**order.headers, **key, "x-stainless-retry-count": str(number)}
            timeout_s = None if number == _ATTEMPTS_MAX - 1 else chance.choice(_TIMEOUTS_S)
            hang_up = None if timeout_s is None else HangUp.WAITING
            attempt = replace(order, headers=headers, hang_up=hang_up, hang_up_s=timeout_s or 0.0)
            count = 2 if asked.is_keyed and chance.random() < _AT_ONCE_SHARE else 1
            attempts = [replace(asked, sent_s=time.monotonic(), attempts=[]) for _ in range(count)]
            await asyncio.gather(*(self.clients.send(attempt, one, tenant) for one in attempts))
            asked.attempts += attempts
            if self.clients.is_over or sum(_is_final(one) for one in asked.attempts) > 1:
                break
            await asyncio.sleep(chance.uniform(0, _PAUSE_S))
        conclude(asked)


def _is_final(attempt: Asked) -> bool:
    """Returns True if a client would not repeat it: images, or an error that a repetition cannot change."""
    return attempt.ending is Ending.ANSWERED and (attempt.is_success or attempt.status in {400, 401, 403, 404, 422})


def conclude(asked: Asked) -> None:
    """Records what a client has after its last attempt: images if it got any, else the worst of what it met."""
    by_worth = (
        lambda one: one.is_success,
        lambda one: one.ending is Ending.LATE,
        lambda one: one.ending is not Ending.ANSWERED,
        lambda one: one.may_have_cost,
        lambda _: True,
    )
    decisive = next(one for counts in by_worth for one in asked.attempts if counts(one))
    asked.ending = Ending.LEFT if decisive.ending is Ending.BROKEN else decisive.ending
    asked.status, asked.code, asked.detail = decisive.status, decisive.code, decisive.detail
    asked.pictures, asked.is_success, asked.may_have_cost = (
        decisive.pictures,
        decisive.is_success,
        decisive.may_have_cost,
    )
    asked.ended_s = max(one.ended_s for one in asked.attempts)
