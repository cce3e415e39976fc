"""Whether a request waits, or is refused, beside an account that could serve it.

Stated soundly, not tightly: a class of requests (priority, images, model, keys to avoid) that waits for room for its
images may reserve one account. So a request is to be served if more accounts are open for it than there are classes
that may reserve one. At a pool with an upstream-wide cooldown nothing is judged; a tenant over its share is only to be
served by an account that counts nothing.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from tests.scheduler.lanes import may_be_kept
from tests.scheduler.needs import Need
from tests.scheduler.provider import MINUTE_S, Provider, WrongError
from tests.scheduler.scripted_pool import State

PATIENCE_S: Final = 2.5
"""Heartbeats come each second."""


class Watch:
    """Looks at a pool now and then."""

    def __init__(self, provider: Provider, paced: int) -> None:
        self._provider = provider
        self.keys: dict[str, dict[str, str]] = {}
        """By account, as they are declared now."""
        self._paced = paced
        self._since: dict[str, float] = {}

    def may_have_room(self, now_s: float) -> bool:
        rooms = (self._provider.room(account, now_s) for account in self._provider.accounts)
        return any(requests > 0 and images > 0 for requests, images, _ in rooms)

    def look(
        self,
        waiting: list[Need],
        ghosts: Iterable[Need],
        state: State,
        now_s: float,
        server_s: float,
        freed: str = "",
    ) -> None:
        """Raises: WrongError, if a request has waited for PATIENCE_S beside an account that could serve it.

        Beside one that had as many calls in flight as it may have, until this moment (`freed`), none waits at all.
        `ghosts` wait in Redis, and no process waits for them any more.
        """
        ready = self._ready(waiting, ghosts, state, now_s, server_s)
        self._since = {need.id: self._since.get(need.id, now_s) for need in ready}
        for need in ready:
            was_full = freed in ready[need] and self.lanes(freed, state, server_s) == 1
            if was_full or now_s - self._since[need.id] > PATIENCE_S:
                raise WrongError(f"{need} waits since {self._since[need.id]:.1f} beside {ready[need]}")

    def reset(self) -> None:
        """Processes or the clock were disturbed: what waits may wait a little longer."""
        self._since = {}

    def refuse(self, need: Need, others: Iterable[Need], state: State, now_s: float, server_s: float) -> None:
        """Raises: WrongError, if an account could serve it."""
        ready = self._ready([need], others, state, now_s, server_s)
        if need in ready:
            raise WrongError(f"{need} is refused beside {ready[need]}")

    def _ready(
        self, waiting: list[Need], others: Iterable[Need], state: State, now_s: float, server_s: float
    ) -> dict[Need, list[str]]:
        """What is to be served at once, with the accounts that could."""
        self._provider.reconcile(state.leased)
        if "*" in state.health:
            return {}
        open_for = {need: self._open_for(need, state, now_s, server_s) for need in waiting}
        fewest: dict[tuple[object, ...], int] = {other.kind: 0 for other in others}
        for need, accounts in open_for.items():
            fewest[need.kind] = min(fewest.get(need.kind, len(accounts)), len(accounts))
        reserving: set[tuple[object, ...]] = set()
        for _ in range(len(fewest)):
            reserving = {kind for kind in fewest if kind[1] != 1 and fewest[kind] <= len(reserving - {kind})}
        return {need: accounts for need, accounts in open_for.items() if len(accounts) > len(reserving - {need.kind})}

    def _open_for(self, need: Need, state: State, now_s: float, server_s: float) -> list[str]:
        window_us = (MINUTE_S + self._provider.margin_s) * 1e6
        is_over = self._paced > 0 and (
            need.priority == "b" or state.used.get(need.flow, 0) - server_s * 1e6 >= 0.99 * window_us
        )
        found = []
        for account, limits in self._provider.accounts.items():
            load = state.loads.get(account, {})
            requests, images, counted = self._provider.room(account, now_s)
            lowered = limits.requests_per_minute - grown(limits.requests_per_minute, load, "rate", server_s)
            has_capacity = requests > lowered and images >= need.images and self.lanes(account, state, server_s) > 0
            if has_capacity and not (is_over and counted) and self._has_key(account, need, state, server_s):
                found.append(account)
        lanes = sum(self._lanes_of(account, state, server_s) for account in found)
        return [] if may_be_kept(need, lanes, state, self._paced) else found

    def lanes(self, account: str, state: State, server_s: float) -> int:
        """Calls that may be added to those in flight."""
        return self._lanes_of(account, state, server_s) - int(state.loads.get(account, {}).get("in_flight", 0))

    def _lanes_of(self, account: str, state: State, server_s: float) -> int:
        return grown(
            self._provider.accounts[account].max_concurrency, state.loads.get(account, {}), "concurrency", server_s
        )

    def _has_key(self, account: str, need: Need, state: State, server_s: float) -> bool:
        if account in state.held or f"{account}/" in need.avoided:
            return False
        for key in self.keys[account]:
            member = f"{account}/{key}"
            rests = (state.health.get(field) for field in (account, member, f"{member}|{need.model}"))
            if member in state.held or member in need.avoided or any(_is_out(rest, state, server_s) for rest in rests):
                continue
            return True
        return False


def check_counts(state: State, provider: Provider, now_s: float, server_s: float) -> None:
    """Raises: WrongError, if a minute counts more or less than was sent in it, or calls in flight are no leases."""
    oldest_us = (server_s - MINUTE_S - provider.margin_s) * 1e6
    for account in provider.accounts.keys() & state.loads.keys():
        log = state.loads[account]["log"]
        counted = [log[i + 1 : i + 3] for i in range(0, len(log), 4) if log[i] > oldest_us]
        calls = provider.calls_of(account, now_s)
        requests, images = sum(entry[0] for entry in counted), sum(entry[1] for entry in counted)
        if requests > len(calls) or images > sum(call.images for call in calls):
            raise WrongError(f"{account} counts {requests} requests, {images} images in the place of {calls}")
        sent = provider.sent_lately(account, now_s)
        if requests < len(sent) or images < sum(call.images for call in sent):
            raise WrongError(f"{account} counts {requests} requests, {images} images, and was sent {sent}")
    leases: defaultdict[str, int] = defaultdict(int)
    for lease in state.leased.values():
        leases[lease["a"]] += 1
    in_flight = {account: load["in_flight"] for account, load in state.loads.items() if load["in_flight"]}
    if in_flight != leases:
        raise WrongError(f"in flight are {in_flight}, leased {dict(leases)}")


def _is_out(rest: dict[str, Any] | None, state: State, server_s: float) -> bool:
    return rest is not None and (rest["until_us"] > server_s * 1e6 or rest.get("probe") in state.leased)


def grown(limit: int, load: dict[str, Any], name: str, server_s: float) -> int:
    """A lowered estimate grows by a tenth of the limit a minute."""
    if not load.get(name):
        return limit
    minutes = max(0, int((server_s - load[f"{name}_at"] / 1e6) // MINUTE_S))
    return max(1, min(limit, int(load[name]) + minutes * max(1, limit // 10)))
