"""Which upstreams can serve a job; otherwise, which field of it none of them supports."""

from dataclasses import replace
from typing import Final

from gateway.api.refusals import listed, refused_value, unknown_parameters
from gateway.domain.catalog import Model, PlannedTarget
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Format, ImageJob, InputImage, Operation, ResponseFormat, Role
from gateway.domain.sizes import SizePolicy
from gateway.providers.minimax import FIELDS

_NAMES: Final = {own: name for name, own in FIELDS.items()}
"""Optional fields, by their name in client requests."""


def plan_targets(job: ImageJob, model: Model, policy: SizePolicy, name: str) -> tuple[PlannedTarget, ...]:
    """Chooses the targets that can honour a job. `name` is the model as the client wrote it.

    Raises: GatewayError with the field that none supports.
    """
    if targets := model.plan(job, policy):
        return targets
    if job.operation is Operation.EDIT:
        _check_edit(job.inputs, model, name)
    if names := sorted(_NAMES.get(field, field) for field in job.fields - model.fields):
        raise unknown_parameters(names, f" No upstream of model '{name}' supports {'them' if names[1:] else 'it'}.")
    if job.output_format and model.plan(replace(job, delivery=ResponseFormat.BASE64), policy):
        raise refused_value(
            "response_format",
            f"a link leads to the image as the upstream makes it, which is not '{job.output_format.value}': this "
            "server has no storage for another. Set 'response_format' to 'b64_json', or omit 'output_format'.",
        )
    if job.size and model.plan(replace(job, size=None), policy):
        raise GatewayError(
            ErrorCode.INVALID_VALUE,
            f"Invalid value: '{job.size}'. Model '{name}' supports these sizes only: {model.sizes}.",
            param="size",
        )
    field = "size" if job.size else "aspect_ratio" if job.aspect_ratio else "width" if job.pixels else "model"
    raise refused_value(field, f"no upstream of model '{name}' supports this combination of parameters.")


def _check_edit(inputs: tuple[InputImage, ...], model: Model, name: str) -> None:
    """Raises: GatewayError with the input that no target takes."""
    rules, who, images = model.edits, f"model '{name}'", [image for image in inputs if image.role is Role.IMAGE]
    if not rules:
        raise refused_value("model", f"{who} does not edit images. POST /v1/images/generations makes new ones.")
    if len(images) < len(inputs) and not any(rule.supports_mask for rule in rules):
        raise refused_value("mask", f"{who} does not support masks.")
    if len(images) > (most := max(rule.images_max for rule in rules)):
        raise refused_value("image", f"{who} takes {most} image{'s' * (most > 1)} per edit, but got {len(images)}.")
    if not all(image.format for image in inputs) and not any(rule.supports_links for rule in rules):
        raise refused_value("image", f"{who} takes files and data URLs, but no links.")
    formats = sorted(kind.value for kind in frozenset[Format]().union(*(rule.accepted for rule in rules)))
    if not formats and any(image.format for image in inputs):
        raise refused_value("image", f"{who} takes links to images only, but got a file.")
    max_bytes = max(rule.image_max_bytes for rule in rules)
    for image in inputs:
        if image.format and image.format.value not in formats:
            taken = listed([f"'{kind}'" for kind in formats])
            raise refused_value(image.role.value, f"{who} takes images as {taken}, but got '{image.format.value}'.")
        if image.size_bytes > max_bytes:
            got = f"but got {image.size_bytes}"
            raise refused_value(image.role.value, f"{who} takes images of at most {max_bytes} bytes, {got}.")


def without_unsupported(job: ImageJob, model: Model) -> tuple[ImageJob, tuple[str, ...]]:
    """Drops the provider's own settings that no upstream of the model supports, and returns their names.

    Input images are not dropped, because images without them would be bought in vain.
    """
    unsupported = job.fields - model.fields
    options = {name: value for name, value in job.options.items() if name not in unsupported}
    kept = replace(job, options=options, seed=None if "seed" in unsupported else job.seed)
    return kept, tuple(sorted(_NAMES[field] for field in job.fields - kept.fields))
