"""The model catalog: names, prices, and the targets of each model with their capabilities, as data."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from gateway.domain.billing import Price
from gateway.domain.images import (
    Format,
    ImageJob,
    InputImage,
    LinkSource,
    Operation,
    ResponseFormat,
    Role,
    Size,
    SizePlan,
)
from gateway.domain.sizes import AspectRatios, SizePolicy, SizeRule, exact_size, plan_size

_SQUARE: Final = Size(1024, 1024)
_EMULATED: Final = frozenset(f"output_format.{form.value}" for form in (Format.JPEG, Format.PNG, Format.WEBP))
"""Fields that the gateway itself applies to the images if the upstream does not: it converts them."""


@dataclass(frozen=True, slots=True)
class EditRule:
    """The images that an edit may have. The limits apply to each image; a URL, which is not fetched, meets them."""

    formats: frozenset[Format]
    image_max_bytes: int
    images_max: int = 1
    supports_mask: bool = False
    supports_links: bool = True  # if false, the image must be part of the request: the gateway does not fetch URLs
    is_character_only: bool = False  # emulated: the model takes only the person or figure from the image

    @property
    def accepted(self) -> frozenset[Format]:
        """The formats that clients may send: those of the model, and WebP, which the gateway converts to PNG."""
        return self.formats | ({Format.WEBP} if Format.PNG in self.formats else frozenset())

    def accepts(self, inputs: tuple[InputImage, ...], *, is_final: bool = False) -> bool:
        """Returns whether an edit may have these images. If it `is_final`, none is converted any more."""
        formats = self.formats if is_final else self.accepted
        images = [image for image in inputs if image.role is Role.IMAGE]
        return (
            len(images) <= self.images_max
            and (self.supports_mask or len(images) == len(inputs))
            and (self.supports_links or all(image.format for image in inputs))
            and all(image.format in {None, *formats} for image in inputs)
            and all(image.size_bytes <= self.image_max_bytes for image in inputs)
        )


@dataclass(frozen=True, slots=True)
class Capability:
    """Features and limits of one call of one model at one upstream."""

    sizes: tuple[SizeRule, ...]  # in order of preference
    default_size: Size = _SQUARE  # used if the request sets no size
    max_images_per_call: int = 1
    prompt_max_chars: int = 1000
    edits: EditRule | None = None  # None if the model cannot edit images, or must not
    supports_base64: bool = True  # if false, the gateway downloads and encodes the images itself
    fields: frozenset[str] = frozenset()  # supported optional fields: see `ImageJob.fields`


def _emulated_fields(job: ImageJob, links: LinkSource) -> frozenset[str]:
    """Returns the fields that the gateway can apply to a job's images. A provider's link leads to the image as made."""
    is_as_made = job.delivery is ResponseFormat.URL and links is LinkSource.PROVIDER
    return frozenset() if is_as_made else _EMULATED


def plan_shape(
    job: ImageJob, capability: Capability, policy: SizePolicy, links: LinkSource = LinkSource.PROVIDER
) -> SizePlan | None:
    """Plans the size of a job. Returns None if a field of the job can be neither honoured nor emulated."""
    supported = capability.fields | _emulated_fields(job, links)
    if len(job.prompt) > capability.prompt_max_chars or not job.fields <= supported:
        return None
    if job.operation is Operation.EDIT and not (capability.edits and capability.edits.accepts(job.inputs)):
        return None
    if (ratio := job.aspect_ratio) is not None:
        known = (rule.sizes for rule in capability.sizes if isinstance(rule, AspectRatios))
        return next((SizePlan(sizes[ratio], ratio) for sizes in known if ratio in sizes), None)
    if job.pixels is not None:
        return exact_size(job.pixels, (rule for rule in capability.sizes if not isinstance(rule, AspectRatios)))
    if job.size is None:
        return SizePlan(capability.default_size)
    return plan_size(job.size, capability.sizes, policy)


@dataclass(frozen=True, slots=True)
class Target:
    """An upstream that offers a model, and the model's name there."""

    upstream: str
    model: str
    capability: Capability


@dataclass(frozen=True, slots=True)
class PlannedTarget(Target):
    """A target that can serve a job, the size that it generates, and the fields that the gateway emulates."""

    shape: SizePlan
    emulated: frozenset[str] = frozenset()

    def takes(self, inputs: tuple[InputImage, ...]) -> bool:
        """Returns whether the upstream takes the images of an edit as they are."""
        return self.capability.edits is not None and self.capability.edits.accepts(inputs, is_final=True)

    def reduce(self, job: ImageJob) -> ImageJob:
        """Returns the job as the upstream gets it: without the emulated fields."""
        return replace(job, output_format=None, output_compression=None) if self.emulated else job


@dataclass(frozen=True)
class Model:
    """A model that tenants can request. `targets` are in order of preference."""

    id: str
    aliases: tuple[str, ...]
    prices: tuple[Price, ...]
    targets: tuple[Target, ...]
    links: LinkSource = LinkSource.PROVIDER
    owner: str = ""  # the provider of its first target

    def plan(self, job: ImageJob, policy: SizePolicy) -> tuple[PlannedTarget, ...]:
        """Chooses the targets that can serve a job: each of its fields is honoured or emulated."""
        fields = job.fields
        return tuple(
            PlannedTarget(target.upstream, target.model, target.capability, shape, fields - target.capability.fields)
            for target in self.targets
            if (shape := plan_shape(job, target.capability, policy, self.links))
        )

    @cached_property
    def prompt_max_chars(self) -> int:
        return max(target.capability.prompt_max_chars for target in self.targets)

    @cached_property
    def edits(self) -> tuple[EditRule, ...]:
        """The rules of the targets that can edit images."""
        return tuple(target.capability.edits for target in self.targets if target.capability.edits)

    @cached_property
    def fields(self) -> frozenset[str]:
        """Optional fields that at least one target accepts, or the gateway emulates."""
        return _EMULATED.union(*(target.capability.fields for target in self.targets))

    @cached_property
    def sizes(self) -> str:
        """Describes the sizes that at least one target makes."""
        return ", ".join(dict.fromkeys(str(rule) for target in self.targets for rule in target.capability.sizes))

    @cached_property
    def aspect_ratios(self) -> tuple[str, ...]:
        """Aspect ratios that at least one target makes."""
        rules = [rule for target in self.targets for rule in target.capability.sizes if isinstance(rule, AspectRatios)]
        return tuple(dict.fromkeys(ratio for rule in rules for ratio in rule.sizes))

    def choices(self, kind: str) -> list[str]:
        """Returns the values that at least one target accepts, such as every "quality"."""
        return sorted(name.partition(".")[2] for name in self.fields if name.startswith(f"{kind}."))


class Catalog:
    """Every model by every name. The first model is the default.

    A reload replaces all models in one step. In-flight requests continue with the model that they started with.
    """

    def __init__(self, models: Iterable[Model]) -> None:
        self._models = tuple(models)
        self._by_name = {name: model for model in self._models for name in (model.id, *model.aliases)}
        self._by_native = {
            target.model: model for model in reversed(self._models) for target in reversed(model.targets)
        }

    def take_over(self, other: "Catalog") -> None:
        """Replaces all models with those of another catalog."""
        vars(self).update(vars(other))

    @property
    def default(self) -> Model:
        return self._models[0]

    def find(self, name: str) -> Model | None:
        """Finds a model by ID or alias."""
        return self._by_name.get(name)

    def find_native(self, name: str) -> Model | None:
        """Finds a model by ID, alias or an upstream's own name."""
        return self._by_name.get(name) or self._by_native.get(name)

    def names(self) -> Iterator[tuple[str, Model]]:
        """Yields every ID and alias with its model, in the order of the configuration."""
        yield from self._by_name.items()
