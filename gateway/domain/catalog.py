"""The model catalog: names, prices, and the targets of each model."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.domain.billing import Price
from gateway.domain.images import Capability, ImageJob, plan_shape
from gateway.domain.sizes import SizePlan, SizePolicy


@dataclass(frozen=True, slots=True)
class Target:
    """An upstream that offers a model, and the model's name there."""

    upstream: str
    model: str
    capability: Capability


@dataclass(frozen=True, slots=True)
class PlannedTarget(Target):
    """A target that can honour every field of a job."""

    shape: SizePlan
    """The size that it generates."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that tenants can request. `targets` are in order of preference."""

    id: str
    aliases: tuple[str, ...]
    prices: tuple[Price, ...]
    targets: tuple[Target, ...]

    def plan(self, job: ImageJob, policy: SizePolicy) -> tuple[PlannedTarget, ...]:
        """Chooses the targets that can honour every field of a job."""
        plans = list[PlannedTarget]()
        for target in self.targets:
            shape = plan_shape(job, target.capability, policy)
            if shape:
                plans.append(PlannedTarget(target.upstream, target.model, target.capability, shape))
        return tuple(plans)

    @property
    def prompt_max_chars(self) -> int:
        return max(target.capability.prompt_max_chars for target in self.targets)

    @property
    def fields(self) -> frozenset[str]:
        """Optional fields that at least one target accepts."""
        return frozenset().union(*(target.capability.fields for target in self.targets))

    def choices(self, kind: str) -> list[str]:
        """Returns the values that at least one target accepts, such as every "quality"."""
        return sorted(name.partition(".")[2] for name in self.fields if name.startswith(f"{kind}."))


class Catalog:
    """Every model by every name. The first model is the default.

    A reload replaces all models in one step. In-flight requests continue with the model that they started with.
    """

    def __init__(self, models: Iterable[Model]) -> None:
        self._index = _index(tuple(models))

    def take_over(self, other: "Catalog") -> None:
        """Replaces all models with those of another catalog."""
        self._index = other._index  # noqa: SLF001 - of its own kind

    @property
    def default(self) -> Model:
        return self._index.models[0]

    def find(self, name: str) -> Model | None:
        """Finds a model by ID or alias."""
        return self._index.by_name.get(name)

    def find_native(self, name: str) -> Model | None:
        """Finds a model by ID, alias or an upstream's own name."""
        index = self._index
        return index.by_name.get(name) or index.by_native.get(name)

    def names(self) -> Iterator[tuple[str, Model]]:
        """Yields every ID and alias with its model, in the order of the configuration."""
        yield from self._index.by_name.items()


@dataclass(frozen=True, slots=True)
class _Index:
    models: tuple[Model, ...]
    by_name: Mapping[str, Model]
    by_native: Mapping[str, Model]


def _index(models: tuple[Model, ...]) -> _Index:
    return _Index(
        models,
        {name: model for model in models for name in (model.id, *model.aliases)},
        {target.model: model for model in reversed(models) for target in reversed(model.targets)},
    )
