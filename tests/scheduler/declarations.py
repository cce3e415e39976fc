"""Which limits and keys hold while several processes have different configurations."""

from collections.abc import Iterator

from gateway.domain.accounts import AccountLimits
from tests.scheduler.plans import HOLDING_S, Configuration


class Declarations:
    """The limits of the configuration that is the newest of those that are held, and the keys of all of them."""

    def __init__(self) -> None:
        self._holders: dict[str, tuple[Configuration, float]] = {}
        self._declared: dict[str, Configuration] = {}
        self._first: dict[str, int] = {}
        """A configuration is as old as its first declaration."""
        self.accounts: dict[str, AccountLimits] = {}
        self.keys: dict[str, dict[str, str]] = {}

    def declare(self, process: str, configuration: Configuration, server_s: float) -> None:
        self._declared[configuration.digest] = configuration
        self._first.setdefault(configuration.digest, len(self._first))
        self.renew(process, configuration, server_s, is_changed=True)

    def renew(self, process: str, configuration: Configuration, server_s: float, *, is_changed: bool = False) -> bool:
        """Returns: whether the pool knows it."""
        if configuration.digest not in self._declared:
            return False
        self._holders[process] = configuration, server_s + HOLDING_S
        self._holders = {name: kept for name, kept in self._holders.items() if kept[1] > server_s}
        held = {kept.digest for kept, _ in self._holders.values()}
        if is_changed or held != self._declared.keys():
            self._declared = {digest: self._declared[digest] for digest in held}
            self._merge()
        return True

    def withdraw(self, process: str) -> None:
        self._holders.pop(process, None)

    def set_back(self, server_s: float) -> None:
        """The clock was set back: no configuration is held for longer than if it were renewed now."""
        latest_s = server_s + HOLDING_S
        self._holders = {name: (kept, min(until_s, latest_s)) for name, (kept, until_s) in self._holders.items()}

    def _merge(self) -> None:
        self.accounts, self.keys = {}, {}
        for one in self._newest():
            for name, limits in one.accounts.items():
                self.accounts.setdefault(name, limits)
                self.keys[name] = one.keys[name] | self.keys.get(name, {})

    def _newest(self) -> Iterator[Configuration]:
        yield from sorted(self._declared.values(), key=lambda one: -self._first[one.digest])
