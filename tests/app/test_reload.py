"""One configuration takes another's place: whole, in order, or not at all."""

from collections.abc import Sequence

import pytest

from gateway.app.reload import ReloadTargets
from gateway.config import SettingsError, from_document
from gateway.config.resolve import Config, resolve
from gateway.domain.accounts import Pool
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.upstreams import UpstreamSet
from gateway.tenants.provisioning import ProvisionedTenant
from tests.support.harness import document, environment, upstream

pytestmark = pytest.mark.anyio


def configuration(*names: str, tenants: Sequence[str] = (), **environ: str) -> Config:
    """Upstreams and tenants of these names."""
    declared = [{"name": name, "models": ["dall-e-3"]} for name in tenants]
    described = document(
        "redis://localhost:1",
        *(upstream(name, "minimax", f"http://127.0.0.1:1/{name}", f"{name}:{name}") for name in names),
    ) | {"tenants": declared}
    secrets = environment(described) | environ
    return resolve(from_document(described, secrets, "gate.toml"), secrets)


class Recorder:
    """The parts of a program, which write down what is done to them, and where models point at that moment."""

    def __init__(self, configured: Config, *, is_redis_away: bool = False) -> None:
        self.catalog = configured.catalog
        self.told: list[tuple[str, list[str], list[str]]] = []
        self._is_redis_away = is_redis_away

    def running(self) -> ReloadTargets:
        return ReloadTargets(
            self.catalog, self._declare_accounts, self._configure, self._declare_tenants, self._note, lambda _: None
        )

    def targets(self) -> list[str]:
        return [target.upstream for target in self.catalog.default.targets]

    async def _declare_accounts(self, pools: Sequence[Pool]) -> None:
        if self._is_redis_away:
            raise GatewayError(ErrorCode.REDIS_UNAVAILABLE)
        self.told.append(("accounts", [account.name for pool in pools for account in pool.accounts], self.targets()))

    def _configure(self, supply: UpstreamSet) -> None:
        self.told.append(("upstreams", list(supply.endpoints), self.targets()))

    async def _note(self, refusal: str) -> None:
        self.told.append(("refusal", [refusal], self.targets()))

    async def _declare_tenants(self, tenants: Sequence[ProvisionedTenant]) -> None:
        self.told.append(("tenants", [declared.tenant.name for declared in tenants], self.targets()))


async def test_upstreams_are_known_before_models_point_to_them_and_models_before_tenants_use_them() -> None:
    parts = Recorder(configuration("old"))
    await parts.running().apply(configuration("new", "other", tenants=["acme"]))
    assert [
        ("upstreams", ["new", "other"], ["old"]),
        ("accounts", ["new", "other"], ["old"]),
        ("tenants", ["acme"], ["new", "other"]),
    ] == parts.told


async def test_without_redis_models_and_tenants_are_as_they_were() -> None:
    parts = Recorder(configuration("old"), is_redis_away=True)
    with pytest.raises(GatewayError):
        await parts.running().apply(configuration("new"))
    assert (["old"], [("upstreams", ["new"], ["old"])]) == (parts.targets(), parts.told)


async def test_a_secret_that_is_missing_makes_the_whole_of_it_wrong() -> None:
    with pytest.raises(SettingsError, match="SECRET_NEW is not set"):
        configuration("old", "new", SECRET_NEW="")
